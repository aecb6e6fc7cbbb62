//! One poll thread: its engine and the actors of its devices.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use actix::{Actor, Addr};
use anemone_model::{AssignedDevice, Name};
use tokio::sync::mpsc;

use super::{KnownDevice, Order, ShardReport};
use crate::collector::snmp::engine::{Engine, EngineOptions};
use crate::device::actor::{DeviceActor, DeviceParts, HealthQuery, Stop, UpdateDevice};
use crate::device::logic::LogicOptions;
use crate::device::runner::Clock;
use crate::device::{DeviceMemory, SampleSink};
use crate::profiles::{GENERIC, Profile, Profiles};

/// What a shard needs.
#[derive(Clone)]
pub struct ShardParts {
    /// Most requests in flight.
    pub in_flight_max: usize,
    /// Where samples go.
    pub sink: Arc<dyn SampleSink>,
    /// What to ask.
    pub profiles: Arc<Profiles>,
}

struct Held {
    assigned: AssignedDevice,
    address: Addr<DeviceActor>,
}

struct Shard {
    parts: Arc<DeviceParts>,
    profile: Arc<Profile>,
    devices: BTreeMap<Name, Held>,
}

/// Runs a shard on the present arbiter until its orders end.
///
/// # Errors
/// No socket can be had, or the generic profile is missing.
pub async fn run_shard(parts: ShardParts, mut orders: mpsc::Receiver<Order>) -> std::io::Result<()> {
    let options = EngineOptions { in_flight_max: parts.in_flight_max, ..EngineOptions::default() };
    let profile = parts.profiles.by_name(GENERIC).cloned();
    let profile = profile.ok_or_else(|| std::io::Error::other(format!("there is no profile called {GENERIC:?}")))?;
    let engine = engine(options)?;
    let parts = DeviceParts { engine, sink: parts.sink, options: LogicOptions::default(), clock: Clock::start() };
    let mut shard = Shard { parts: Arc::new(parts), profile, devices: BTreeMap::new() };
    while let Some(order) = orders.recv().await {
        match order {
            Order::Change { started, changed, stopped, memories, done } => {
                shard.stop(stopped).await;
                for assigned in changed {
                    shard.update(assigned).await;
                }
                for assigned in started {
                    let memory = memories.get(&assigned.device.name).copied().unwrap_or_default();
                    shard.start(assigned, memory);
                }
                // Whoever ordered may have left.
                let _ = done.send(());
            }
            Order::Report(answer) => {
                let report = shard.report().await;
                let _ = answer.send(report);
            }
            Order::Stop(done) => {
                let all: Vec<Name> = shard.devices.keys().cloned().collect();
                shard.stop(all).await;
                let _ = done.send(());
            }
        }
    }
    Ok(())
}

/// Sockets of both families; of IPv4 alone where the machine has no IPv6.
fn engine(options: EngineOptions) -> std::io::Result<Engine> {
    let (v4, v6) = (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    Engine::new(&[v4, v6], options).or_else(|error| {
        tracing::info!(%error, "no IPv6 socket; devices with IPv6 addresses cannot be polled");
        Engine::new(&[v4], options)
    })
}

impl Shard {
    fn start(&mut self, assigned: AssignedDevice, memory: DeviceMemory) {
        let actor = DeviceActor::new(assigned.clone(), Arc::clone(&self.profile), Arc::clone(&self.parts), memory);
        self.devices.insert(assigned.device.name.clone(), Held { assigned, address: actor.start() });
    }

    async fn update(&mut self, assigned: AssignedDevice) {
        let name = assigned.device.name.clone();
        let message = UpdateDevice { assigned: assigned.clone(), profile: Arc::clone(&self.profile) };
        match self.devices.get_mut(&name) {
            Some(held) => match held.address.send(message).await {
                Ok(()) => held.assigned = assigned,
                Err(error) => {
                    tracing::error!(device = %name, %error, "a device actor is gone; it is started anew");
                    self.start(assigned, DeviceMemory::default());
                }
            },
            None => self.start(assigned, DeviceMemory::default()),
        }
    }

    async fn stop(&mut self, names: Vec<Name>) {
        let held: Vec<Held> = names.iter().filter_map(|name| self.devices.remove(name)).collect();
        // An actor that is gone has stopped.
        futures_util::future::join_all(held.iter().map(|held| held.address.send(Stop))).await;
    }

    async fn report(&mut self) -> ShardReport {
        let mut report = ShardReport { devices: Vec::with_capacity(self.devices.len()), engine: self.parts.engine.counts() };
        let mut gone = Vec::new();
        for (name, held) in &self.devices {
            match held.address.send(HealthQuery).await {
                Ok(answer) => report.devices.push(KnownDevice {
                    assigned: held.assigned.clone(),
                    health: answer.report.health,
                    memory: answer.report.memory,
                    facts: answer.report.facts,
                    last_exit: answer.last_exit.map(|reason| reason.to_string()),
                }),
                Err(_) => gone.push(name.clone()),
            }
        }
        for name in gone {
            tracing::error!(device = %name, "a device actor is gone; it is started anew");
            if let Some(held) = self.devices.remove(&name) {
                self.start(held.assigned, DeviceMemory::default());
            }
        }
        report
    }
}
