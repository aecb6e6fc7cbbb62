//! What the agent says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use anemone_model::AgentId;
use anemone_wire::control::AgentLoad;
use serde::Serialize;

use crate::batch::{BatcherStatus, SinkHandle};
use crate::fleet::{FleetHandle, FleetSnapshot};
use crate::local::{LocalStatus, LocalStore};
use crate::spool::{Spool, SpoolStatus};
use crate::uplink::{SharedStatus, UplinkStatus};

/// Everything the API reads.
pub struct AgentState {
    /// Who this is.
    pub agent: AgentId,
    /// When it started, in milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// When its certificate ends, RFC 3339.
    pub certificate_until: String,
    /// The local store.
    pub local: Arc<LocalStore>,
    /// The spool.
    pub spool: Arc<Spool>,
    /// The batcher.
    pub batcher: SinkHandle,
    /// The uplink.
    pub uplink: SharedStatus,
    /// The devices.
    pub fleet: FleetHandle,
}

/// The answer of `/api/v1/status/agent`.
#[derive(Clone, Debug, Serialize)]
pub struct AgentStatus {
    /// PoP and name.
    pub pop: String,
    /// Its name in the PoP.
    pub name: String,
    /// Software version.
    pub software: &'static str,
    /// When it started, in milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// When its certificate ends, RFC 3339.
    pub certificate_until: String,
    /// Epoch of the assignment that devices are polled by.
    pub assignment_epoch: u64,
    /// Devices by health.
    pub devices: DeviceCounts,
    /// The batcher, with what it dropped.
    pub batcher: BatcherStatus,
    /// The spool, with what it dropped.
    pub spool: SpoolStatus,
    /// The local store, with what it refused.
    pub local: LocalStatus,
    /// The uplink.
    pub uplink: UplinkStatus,
    /// Counters of the SNMP engines together.
    pub snmp: BTreeMap<&'static str, u64>,
}

/// How many devices are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceCounts {
    /// All.
    pub assigned: usize,
    /// Whose last round had an answer.
    pub healthy: usize,
    /// Whose last round had none.
    pub failing: usize,
    /// Without a round yet.
    pub waiting: usize,
    /// Samples of all of them that the batcher refused.
    pub samples_dropped: u64,
}

impl DeviceCounts {
    /// Counts a snapshot.
    #[must_use]
    pub fn of(snapshot: &FleetSnapshot) -> Self {
        let devices = &snapshot.devices;
        Self {
            assigned: devices.len(),
            healthy: devices.iter().filter(|device| device.up == Some(true)).count(),
            failing: devices.iter().filter(|device| device.is_failing()).count(),
            waiting: devices.iter().filter(|device| device.up.is_none()).count(),
            samples_dropped: devices.iter().map(|device| device.samples_dropped).sum(),
        }
    }
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether the agent does its work: it polls, and its disk takes what it polls. A hub is not needed for that.
    pub ready: bool,
    /// Whether batches go to a leader at present.
    pub shipping: bool,
    /// Why it is not ready.
    pub reasons: Vec<String>,
}

/// Parts that wait for the disk from which on the agent does not count as ready.
const WAITING_PARTS_MAX: usize = 16;

impl AgentState {
    /// The state of everything.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let snapshot = self.fleet.last();
        AgentStatus {
            pop: self.agent.pop.to_string(),
            name: self.agent.name.to_string(),
            software: env!("CARGO_PKG_VERSION"),
            started_ms: self.started_ms,
            certificate_until: self.certificate_until.clone(),
            assignment_epoch: snapshot.assignment_epoch,
            devices: DeviceCounts::of(&snapshot),
            batcher: self.batcher.status(),
            spool: self.spool.status(),
            local: self.local.status(),
            uplink: self.uplink.read(),
            snmp: snapshot.engine.clone(),
        }
    }

    /// Whether the agent does its work.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let (spool, snapshot) = (self.spool.status(), self.fleet.last());
        let mut reasons = Vec::new();
        if snapshot.assignment_epoch == 0 {
            reasons.push("no assignment has come yet".to_owned());
        }
        if spool.waiting_parts > WAITING_PARTS_MAX {
            reasons.push(format!("{} batches wait for the disk", spool.waiting_parts));
        }
        Readiness { ready: reasons.is_empty(), shipping: self.uplink.read().shipping_to.is_some(), reasons }
    }
}

/// What goes out with heartbeats.
#[must_use]
pub fn load(spool: &Spool, fleet: &FleetHandle) -> AgentLoad {
    let (status, counts) = (spool.status(), DeviceCounts::of(&fleet.last()));
    AgentLoad {
        devices: counts.assigned as u64,
        devices_failing: counts.failing as u64,
        unacknowledged_batches: status.durable_below.saturating_sub(status.acked_below),
        unacknowledged_bytes: status.unacknowledged_bytes,
        oldest_unacknowledged_ms: status.oldest_unacknowledged_ms,
        dropped_batches: status.dropped_batches,
    }
}
