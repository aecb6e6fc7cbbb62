//! Sockets and tasks of a relay: one task that listens, one per client.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use super::lane::{Fault, Lane, Offered};
use crate::chance::mix;

/// Most clients at a time; datagrams of further ones are dropped and counted.
const CLIENTS_MOST: usize = 1024;
/// Datagrams between the listening task and a client's task; the newest are dropped and counted beyond that.
const INBOX: usize = 1024;
/// A client that is silent for so long, both ways, is forgotten.
const IDLE: Duration = Duration::from_secs(300);
const LARGEST_DATAGRAM: usize = 65_535;
const SOCKET_BUFFER: usize = 4 << 20;

/// Which way a fault applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From clients to the target.
    ToTarget,
    /// From the target to clients.
    ToClient,
    /// Each way.
    Both,
}

impl Direction {
    fn lanes(self) -> &'static [usize] {
        match self {
            Self::ToTarget => &[TO_TARGET],
            Self::ToClient => &[TO_CLIENT],
            Self::Both => &[TO_TARGET, TO_CLIENT],
        }
    }
}

const TO_TARGET: usize = 0;
const TO_CLIENT: usize = 1;

/// What became of the datagrams in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTallies {
    /// Arrived.
    pub received: u64,
    /// Sent on, copies included.
    pub forwarded: u64,
    /// Bytes sent on.
    pub forwarded_bytes: u64,
    /// Dropped because the link is cut.
    pub cut: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Dropped because a queue or the table of clients was full.
    pub overflowed: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back so that others overtake.
    pub reordered: u64,
    /// Refused by the operating system.
    pub send_errors: u64,
}

#[derive(Debug, Default)]
struct LiveTallies {
    received: AtomicU64,
    forwarded: AtomicU64,
    forwarded_bytes: AtomicU64,
    cut: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    send_errors: AtomicU64,
}

impl LiveTallies {
    fn read(&self) -> RelayTallies {
        RelayTallies {
            received: self.received.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            forwarded_bytes: self.forwarded_bytes.load(Relaxed),
            cut: self.cut.load(Relaxed),
            lost: self.lost.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
            duplicated: self.duplicated.load(Relaxed),
            reordered: self.reordered.load(Relaxed),
            send_errors: self.send_errors.load(Relaxed),
        }
    }

    fn offered(&self, offered: Offered) {
        let counter = match offered {
            Offered::Cut => &self.cut,
            Offered::Lost => &self.lost,
            Offered::Full => &self.overflowed,
            Offered::Held { copies, reordered } => {
                self.duplicated.fetch_add(u64::from(copies) - 1, Relaxed);
                self.reordered.fetch_add(u64::from(reordered), Relaxed);
                return;
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    fn sent(&self, sent: io::Result<usize>) {
        match sent {
            Ok(bytes) => {
                self.forwarded.fetch_add(1, Relaxed);
                self.forwarded_bytes.fetch_add(bytes as u64, Relaxed);
            }
            Err(_) => drop(self.send_errors.fetch_add(1, Relaxed)),
        }
    }
}

#[derive(Debug)]
struct Shared {
    listen: UdpSocket,
    target: SocketAddr,
    faults: Mutex<[Fault; 2]>,
    tallies: [LiveTallies; 2],
}

impl Shared {
    fn fault(&self, lane: usize) -> Fault {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)[lane]
    }
}

/// A running relay; it stops, with all its clients, when dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Listens at `listen` (port 0 takes a free one) and forwards to `target`. Needs a running tokio runtime.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listen = socket(listen)?;
        let address = listen.local_addr()?;
        let shared = Arc::new(Shared { listen, target, faults: Mutex::default(), tallies: Default::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(listen_task(shared.clone()));
        Ok(Self { shared, address, _tasks: tasks })
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the faults of a direction, for all clients and at once.
    pub fn set(&self, direction: Direction, fault: Fault) {
        let mut faults = self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in direction.lanes() {
            faults[*lane] = fault;
        }
    }

    /// The faults now: to the target, to clients.
    pub fn faults(&self) -> [Fault; 2] {
        [self.shared.fault(TO_TARGET), self.shared.fault(TO_CLIENT)]
    }

    /// What became of datagrams: to the target, to clients.
    pub fn tallies(&self) -> [RelayTallies; 2] {
        [self.shared.tallies[TO_TARGET].read(), self.shared.tallies[TO_CLIENT].read()]
    }
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The address an upstream socket binds to: loopback for a loopback target, any otherwise.
fn upstream_address(target: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match (target.ip(), target.ip().is_loopback()) {
        (IpAddr::V4(_), true) => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V4(_), false) => Ipv4Addr::UNSPECIFIED.into(),
        (IpAddr::V6(_), true) => Ipv6Addr::LOCALHOST.into(),
        (IpAddr::V6(_), false) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

/// Receives from all clients and hands each datagram to its client's task. Its clients end with it.
async fn listen_task(shared: Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    let tallies = &shared.tallies[TO_TARGET];
    loop {
        // An error here reports an earlier send (ICMP) and says nothing about what comes next.
        let Ok((length, client)) = shared.listen.recv_from(&mut buffer).await else { continue };
        tallies.received.fetch_add(1, Relaxed);
        while tasks.try_join_next().is_some() {}
        if clients.get(&client).is_none_or(mpsc::Sender::is_closed) {
            clients.retain(|_, inbox| !inbox.is_closed());
            if clients.len() >= CLIENTS_MOST {
                tallies.offered(Offered::Full);
                continue;
            }
            match socket(upstream_address(shared.target)) {
                Ok(upstream) => {
                    let (inbox, from_listener) = mpsc::channel(INBOX);
                    tasks.spawn(Client::new(shared.clone(), client, upstream).run(from_listener));
                    clients.insert(client, inbox);
                }
                Err(error) => {
                    tracing::warn!("relay to {}: no socket for client {client}: {error}", shared.target);
                    tallies.offered(Offered::Full);
                    continue;
                }
            }
        }
        if let Some(inbox) = clients.get(&client)
            && inbox.try_send(buffer[..length].to_vec()).is_err()
        {
            tallies.offered(Offered::Full);
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    address: SocketAddr,
    upstream: UdpSocket,
    lanes: [Lane; 2],
}

impl Client {
    fn new(shared: Arc<Shared>, address: SocketAddr, upstream: UdpSocket) -> Self {
        let seed = mix(u64::from(address.port()));
        Self { shared, address, upstream, lanes: [Lane::new(seed), Lane::new(!seed)] }
    }

    async fn run(mut self, mut from_listener: mpsc::Receiver<Vec<u8>>) {
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        loop {
            let due = self.lanes.iter().filter_map(Lane::next_due).min();
            let wake = due.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {
                    if due.is_none() {
                        return;
                    }
                }
                datagram = from_listener.recv() => {
                    let Some(datagram) = datagram else { return };
                    self.offer(TO_TARGET, &datagram);
                }
                received = self.upstream.recv_from(&mut buffer) => {
                    // An error reports an earlier send (ICMP): the target is not up, which is nothing to stop for.
                    if let Ok((length, sender)) = received && sender == self.shared.target {
                        self.shared.tallies[TO_CLIENT].received.fetch_add(1, Relaxed);
                        self.offer(TO_CLIENT, &buffer[..length]);
                    }
                }
            }
            self.send_due().await;
        }
    }

    fn offer(&mut self, lane: usize, datagram: &[u8]) {
        let offered = self.lanes[lane].offer(Instant::now(), datagram, &self.shared.fault(lane));
        self.shared.tallies[lane].offered(offered);
    }

    async fn send_due(&mut self) {
        let now = Instant::now();
        for lane in [TO_TARGET, TO_CLIENT] {
            while let Some(datagram) = self.lanes[lane].take_due(now) {
                let tallies = &self.shared.tallies[lane];
                if self.shared.fault(lane).cut {
                    tallies.offered(Offered::Cut);
                    continue;
                }
                tallies.sent(match lane {
                    TO_TARGET => self.upstream.send_to(&datagram, self.shared.target).await,
                    _ => self.shared.listen.send_to(&datagram, self.address).await,
                });
            }
        }
    }
}
