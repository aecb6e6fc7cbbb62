//! The fleet: all devices of this agent, spread over the poll threads, and what is known of them.
//!
//! ```text
//! assignment (watch) --> coordinator --bounded--> shard (one per poll thread: engine, device actors)
//!                             |  <--- reports ---'
//!                             '--> snapshot (watch): devices, load;  memories -> local database
//! ```
//! A device is always on the shard its name hashes to, so an update finds it where it was.

mod actor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anemone_model::{AssignedDevice, Name};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock;
use crate::collector::snmp::engine::EngineCounts;
use crate::device::schedule::Schedule;
use crate::device::{DeviceMemory, Health};
use crate::local::LocalStore;
use crate::uplink::assignment::Assignment;

pub use actor::{ShardParts, run_shard};

/// Orders that wait for a shard; the coordinator waits when it is full.
pub const ORDERS_QUEUED: usize = 16;
/// How often health is collected.
const COLLECT_EVERY: Duration = Duration::from_secs(3);
/// How often memories are written.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// What a shard is told.
#[derive(Debug)]
pub enum Order {
    /// Devices to start, change and stop; answered when it is done.
    Change {
        /// New devices.
        started: Vec<AssignedDevice>,
        /// Devices of which something changed.
        changed: Vec<AssignedDevice>,
        /// Devices that are gone.
        stopped: Vec<Name>,
        /// What is remembered of the new ones.
        memories: BTreeMap<Name, DeviceMemory>,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
    /// Asks for all devices.
    Report(oneshot::Sender<ShardReport>),
    /// Stops all devices; answered when the last has ended.
    Stop(oneshot::Sender<()>),
}

/// A shard's answer.
#[derive(Debug, Default)]
pub struct ShardReport {
    /// Its devices.
    pub devices: Vec<KnownDevice>,
    /// Its engine's counters.
    pub engine: EngineCounts,
}

/// A device as its actor reports it.
#[derive(Clone, Debug)]
pub struct KnownDevice {
    /// As assigned.
    pub assigned: AssignedDevice,
    /// As of its last round.
    pub health: Health,
    /// What to remember.
    pub memory: DeviceMemory,
    /// Facts of its last inventory.
    pub facts: Vec<(String, String)>,
    /// Why its task last ended, if it did.
    pub last_exit: Option<String>,
}

/// A device for people. Its community is not part of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceStatus {
    /// Its name.
    pub device: String,
    /// Where it is asked.
    pub address: String,
    /// How often, in milliseconds.
    pub interval_ms: u32,
    /// Epoch of its assignment.
    pub epoch: u64,
    /// Whether the last round had an answer; absent before the first.
    pub up: Option<bool>,
    /// Whether only single probes are sent because it has been silent.
    pub breaker_open: bool,
    /// When the last round ended, in milliseconds since 1970 UTC.
    pub last_round_ms: Option<i64>,
    /// How long it took, in milliseconds.
    pub last_duration_ms: u64,
    /// When the next round is due.
    pub next_round_ms: i64,
    /// Why the last failed round failed.
    pub last_failure: Option<String>,
    /// When that was, in milliseconds since 1970 UTC.
    pub last_failure_ms: Option<i64>,
    /// Rounds that brought everything.
    pub rounds_complete: u64,
    /// Rounds that failed in part or whole.
    pub rounds_failed: u64,
    /// Rounds that were due while the one before still ran.
    pub rounds_missed: u64,
    /// Rounds left out because the device has been silent.
    pub rounds_skipped: u64,
    /// Samples handed on.
    pub samples: u64,
    /// Samples that the batcher refused.
    pub samples_dropped: u64,
    /// Requests sent, repetitions included.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Varbinds that could not be used.
    pub bad_varbinds: u64,
    /// Restarts of the device found.
    pub reboots: u64,
    /// Rows polled.
    pub rows: u64,
    /// Smoothed round-trip time in microseconds.
    pub round_trip_us: u64,
    /// Restarts of its task.
    pub restarts: u64,
    /// Why its task last ended, if it did.
    pub last_exit: Option<String>,
    /// Facts about it.
    pub facts: BTreeMap<String, String>,
}

impl DeviceStatus {
    fn of(known: &KnownDevice, now_ms: i64) -> Self {
        let (device, health) = (&known.assigned.device, &known.health);
        let wait = Schedule::new(device.name.as_str(), device.interval.duration(), now_ms).wait(now_ms);
        Self {
            device: device.name.to_string(),
            address: device.address.clone(),
            interval_ms: device.interval.millis(),
            epoch: known.assigned.epoch,
            up: health.up,
            breaker_open: health.breaker_open,
            last_round_ms: health.last_round_ms,
            last_duration_ms: health.last_duration_ms,
            next_round_ms: now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
            last_failure: health.last_failure.as_ref().map(|(_, reason)| reason.to_string()),
            last_failure_ms: health.last_failure.as_ref().map(|(at, _)| *at),
            rounds_complete: health.rounds_complete,
            rounds_failed: health.rounds_failed,
            rounds_missed: health.rounds_missed,
            rounds_skipped: health.rounds_skipped,
            samples: health.samples,
            samples_dropped: health.samples_dropped,
            requests: health.requests,
            retries: health.retries,
            bad_varbinds: health.bad_varbinds,
            reboots: health.reboots,
            rows: health.rows,
            round_trip_us: health.round_trip_us,
            restarts: health.restarts,
            last_exit: known.last_exit.clone(),
            facts: known.facts.iter().cloned().collect(),
        }
    }

    /// Whether its last round failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.up == Some(false)
    }
}

/// All devices at one moment.
#[derive(Clone, Debug, Default)]
pub struct FleetSnapshot {
    /// When it was taken, in milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Epoch of the assignment they are polled by.
    pub assignment_epoch: u64,
    /// The devices by name.
    pub devices: Vec<DeviceStatus>,
    /// Counters of the engines of all threads together.
    pub engine: BTreeMap<&'static str, u64>,
}

/// Where to ask for a fresh snapshot, and where the last one is.
#[derive(Clone, Debug)]
pub struct FleetHandle {
    snapshots: watch::Receiver<Arc<FleetSnapshot>>,
    asks: mpsc::Sender<oneshot::Sender<Arc<FleetSnapshot>>>,
}

impl FleetHandle {
    /// The last snapshot, at most a few seconds old.
    #[must_use]
    pub fn last(&self) -> Arc<FleetSnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// A fresh snapshot; the last one where the fleet does not answer.
    pub async fn fresh(&self) -> Arc<FleetSnapshot> {
        let (answer, asked) = oneshot::channel();
        if self.asks.try_send(answer).is_err() {
            return self.last();
        }
        tokio::time::timeout(Duration::from_secs(2), asked).await.ok().and_then(Result::ok).unwrap_or_else(|| self.last())
    }

    /// Follows the snapshots.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<FleetSnapshot>> {
        self.snapshots.clone()
    }
}

/// Brings assignments to the shards and health back.
pub struct Coordinator {
    shards: Vec<mpsc::Sender<Order>>,
    local: Arc<LocalStore>,
    assignment: watch::Receiver<Arc<Assignment>>,
    present: Arc<Assignment>,
    applied: watch::Sender<u64>,
    snapshots: watch::Sender<Arc<FleetSnapshot>>,
    asks: mpsc::Receiver<oneshot::Sender<Arc<FleetSnapshot>>>,
    memories: BTreeMap<Name, DeviceMemory>,
}

impl Coordinator {
    /// A coordinator, its handle, and the epoch it has applied.
    #[must_use]
    pub fn new(
        shards: Vec<mpsc::Sender<Order>>,
        local: Arc<LocalStore>,
        assignment: watch::Receiver<Arc<Assignment>>,
    ) -> (Self, FleetHandle, watch::Receiver<u64>) {
        let (applied, applied_by) = watch::channel(0);
        let (snapshots, last) = watch::channel(Arc::default());
        let (asks, asked) = mpsc::channel(ORDERS_QUEUED);
        let coordinator =
            Self { shards, local, assignment, present: Arc::default(), applied, snapshots, asks: asked, memories: BTreeMap::new() };
        (coordinator, FleetHandle { snapshots: last, asks }, applied_by)
    }

    /// Works until it is stopped; then stops all devices.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut collect = tokio::time::interval(COLLECT_EVERY);
        collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut remember = tokio::time::interval(REMEMBER_EVERY);
        self.assignment.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = self.assignment.changed() => self.follow().await,
                _ = collect.tick() => drop(self.collect().await),
                _ = remember.tick() => self.remember().await,
                Some(ask) = self.asks.recv() => {
                    let snapshot = self.collect().await;
                    // Whoever asked may have left.
                    let _ = ask.send(snapshot);
                }
            }
        }
        drop(self.collect().await);
        self.each(Order::Stop).await;
        self.remember().await;
    }

    fn shard(&self, device: &Name) -> usize {
        let shards = u64::try_from(self.shards.len()).unwrap_or(1).max(1);
        usize::try_from(xxh3_64(device.as_str().as_bytes()) % shards).unwrap_or(0)
    }

    /// Brings the newest assignment to the shards.
    async fn follow(&mut self) {
        let next = Arc::clone(&self.assignment.borrow_and_update());
        let difference = self.present.difference(&next);
        let names: Vec<Name> = difference.started.iter().map(|assigned| assigned.device.name.clone()).collect();
        let mut recalled = self.recall(names).await;
        for (at, shard) in self.shards.iter().enumerate() {
            let here = |name: &Name| self.shard(name) == at;
            let of = |devices: &[AssignedDevice]| devices.iter().filter(|d| here(&d.device.name)).cloned().collect::<Vec<_>>();
            let started = of(&difference.started);
            let memories = started.iter().filter_map(|d| recalled.remove_entry(&d.device.name)).collect();
            let stopped = difference.stopped.iter().filter(|name| here(name)).cloned().collect();
            let (done, is_done) = oneshot::channel();
            let order = Order::Change { started, changed: of(&difference.changed), stopped, memories, done };
            if shard.send(order).await.is_err() || is_done.await.is_err() {
                tracing::error!(shard = at, "a poll thread is gone");
            }
        }
        let (started, changed, stopped) = (difference.started.len(), difference.changed.len(), difference.stopped.len());
        tracing::info!(epoch = next.epoch, started, changed, stopped, "assignment applied");
        self.applied.send_replace(next.epoch);
        self.present = next;
    }

    async fn each<T>(&self, order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        let mut asked = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (answer, answered) = oneshot::channel();
            if shard.send(order(answer)).await.is_ok() {
                asked.push(answered);
            }
        }
        let mut answers = Vec::with_capacity(asked.len());
        for answered in asked {
            answers.extend(answered.await);
        }
        answers
    }

    async fn collect(&mut self) -> Arc<FleetSnapshot> {
        let reports = self.each(Order::Report).await;
        let now_ms = clock::now_ms();
        let mut snapshot = FleetSnapshot { at_ms: now_ms, assignment_epoch: self.present.epoch, ..FleetSnapshot::default() };
        for report in &reports {
            for (name, count) in report.engine.named() {
                *snapshot.engine.entry(name).or_default() += count;
            }
            for known in &report.devices {
                self.memories.insert(known.assigned.device.name.clone(), known.memory);
                snapshot.devices.push(DeviceStatus::of(known, now_ms));
            }
        }
        snapshot.devices.sort_by(|a, b| a.device.cmp(&b.device));
        let snapshot = Arc::new(snapshot);
        self.snapshots.send_replace(Arc::clone(&snapshot));
        snapshot
    }

    async fn recall(&self, names: Vec<Name>) -> BTreeMap<Name, DeviceMemory> {
        let local = Arc::clone(&self.local);
        let recall = move || names.into_iter().map(|name| (name.clone(), local.memories().recall(name.as_str()))).collect();
        tokio::task::spawn_blocking(recall).await.unwrap_or_default()
    }

    async fn remember(&mut self) {
        let (local, memories) = (Arc::clone(&self.local), std::mem::take(&mut self.memories));
        let remember = move || {
            for (name, memory) in &memories {
                local.memories().remember(name.as_str(), memory)?;
            }
            Ok::<(), crate::local::DatabaseError>(())
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(remember).await {
            tracing::warn!(%error, "what is known of devices is not kept for the next start");
        }
    }
}
