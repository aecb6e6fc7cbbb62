//! A running fleet and the handle to it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::watch;

use super::{
    error::SimulatorError,
    fault::{Faults, Reboot, Renumber},
    fleet::{Fleet, FleetSpec, InventoryItem},
    ledger::LedgerSeries,
    server::{LiveTallies, Server, Tallies, now_ms, open},
};

/// How much of what was answered is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LedgerBound {
    /// Nothing; for load tests.
    #[default]
    Off,
    /// So many entries over all devices, 16 octets and change each.
    Entries(usize),
}

/// A running simulator; it stops when dropped.
#[derive(Debug)]
pub struct Simulator {
    fleet: Arc<Fleet>,
    tallies: Arc<LiveTallies>,
    port: u16,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Builds the fleet, opens the socket and starts answering on a thread of its own.
    ///
    /// # Errors
    /// If the fleet makes no sense, a recording cannot be read, or the port is taken.
    pub fn start(spec: &FleetSpec, ledger: LedgerBound) -> Result<Self, SimulatorError> {
        let entries = match ledger {
            LedgerBound::Off => None,
            LedgerBound::Entries(entries) => Some(entries),
        };
        let fleet = Arc::new(Fleet::new(spec, now_ms(), entries)?);
        let wanted = SocketAddr::from((Ipv4Addr::UNSPECIFIED, spec.port));
        let listen = |source: io::Error| SimulatorError::Listen { address: wanted, source };
        let socket = open(spec.port).map_err(listen)?;
        let port = socket.local_addr().map_err(listen)?.port();
        let tallies = Arc::new(LiveTallies::default());
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SimulatorError::Thread)?;
        let server = {
            let _reactor = runtime.enter();
            Server::new(fleet.clone(), tallies.clone(), socket).map_err(SimulatorError::Thread)?
        };
        let answer = move || runtime.block_on(server.run(stopped));
        let thread = std::thread::Builder::new().name("simulator".to_owned()).spawn(answer).map_err(SimulatorError::Thread)?;
        Ok(Self { fleet, tallies, port, stop, thread: Some(thread) })
    }

    /// The fleet a specification stands for, without starting it; addresses carry the port of the specification.
    ///
    /// # Errors
    /// As for [`Self::start`], except for the port.
    pub fn plan(spec: &FleetSpec) -> Result<Vec<InventoryItem>, SimulatorError> {
        Ok(Fleet::new(spec, now_ms(), None)?.inventory(spec.port))
    }

    /// The UDP port all devices answer on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All devices, in the order of the specification.
    pub fn inventory(&self) -> Vec<InventoryItem> {
        self.fleet.inventory(self.port)
    }

    /// What has been done since the start.
    pub fn tallies(&self) -> Tallies {
        self.tallies.read()
    }

    /// Replaces the standing faults of the devices a pattern names (`*`, a name, `prefix*`, `pop:<pop>`, or several
    /// with commas); returns how many there are.
    ///
    /// # Errors
    /// If the pattern names none.
    pub fn set_faults(&self, devices: &str, faults: Faults) -> Result<usize, SimulatorError> {
        let devices = self.fleet.select(devices)?;
        devices.iter().for_each(|device| device.set_faults(faults));
        Ok(devices.len())
    }

    /// Restarts devices: their uptime and counters begin again.
    ///
    /// # Errors
    /// If the pattern names none.
    pub fn reboot(&self, devices: &str, reboot: Reboot) -> Result<usize, SimulatorError> {
        let devices = self.fleet.select(devices)?;
        devices.iter().for_each(|device| device.reboot(reboot, now_ms()));
        Ok(devices.len())
    }

    /// Gives the interfaces of devices new ifIndex values.
    ///
    /// # Errors
    /// If the pattern names none, or one that replays a recording.
    pub fn renumber(&self, devices: &str, renumber: Renumber) -> Result<usize, SimulatorError> {
        let devices = self.fleet.select(devices)?;
        devices.iter().try_for_each(|device| device.renumber(renumber, now_ms()))?;
        Ok(devices.len())
    }

    /// What devices answered in `from_ms..to_ms` (milliseconds since 1970).
    ///
    /// # Errors
    /// If the pattern names none.
    pub fn ledger(&self, devices: &str, from_ms: i64, to_ms: i64) -> Result<Vec<LedgerSeries>, SimulatorError> {
        Ok(self.fleet.select(devices)?.into_iter().flat_map(|device| device.ledger(from_ms, to_ms)).collect())
    }

    /// Names of the devices a pattern stands for.
    ///
    /// # Errors
    /// If the pattern names none.
    pub fn names(&self, devices: &str) -> Result<Vec<String>, SimulatorError> {
        Ok(self.fleet.select(devices)?.into_iter().map(|device| device.name.to_string()).collect())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
