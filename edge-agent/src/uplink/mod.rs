//! The uplink: sessions with all hubs, batches to the one that leads, assignments back.
//!
//! ```text
//!   spool --read--> actor (logic decides) --bounded--> session with the leader ==> hub
//!                     ^   ^-- welcome, leader, ack, refusal --- all sessions <== hubs
//!                     '-- assignment parts --> assembly --> file --> fleet
//! ```
//! Promises: only what the spool has on disk is sent, in order of sequence, to a hub that leads; what was not acknowledged is sent
//! again after every change. Pulls from the spool, so that nothing before it ever waits for a hub.

pub mod assignment;
pub mod backoff;
pub mod logic;

mod actor;
mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anemone_model::HubId;
use serde::Serialize;

pub use actor::{Uplink, UplinkParts};

/// The uplink for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UplinkStatus {
    /// The hub that leads, as far as any connected hub knows.
    pub leader: Option<HubId>,
    /// The term it leads in.
    pub term: Option<u64>,
    /// The hub that batches go to: the leader, if there is a session with it.
    pub shipping_to: Option<HubId>,
    /// Everything below is applied at the hub.
    pub acked_below: u64,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: u64,
    /// Counts.
    pub tally: logic::Tally,
    /// Times that the spool could not be read for shipping.
    pub read_failures: u64,
    /// Parts of assignments that made no sense.
    pub bad_assignment_parts: u64,
    /// The sessions.
    pub hubs: BTreeMap<HubId, HubStatus>,
}

/// The session with one hub, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HubStatus {
    /// Where it is reached.
    pub address: String,
    /// Since when there is a session, in milliseconds since 1970 UTC.
    pub connected_since_ms: Option<i64>,
    /// Sessions so far.
    pub sessions: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Why the last attempt failed or the last session ended, and when, in milliseconds since 1970 UTC.
    pub last_failure: Option<(i64, String)>,
    /// Smoothed round-trip time in microseconds, as of the last heartbeat.
    pub round_trip_us: u64,
}

/// A status shared between the uplink and those who ask.
#[derive(Clone, Debug, Default)]
pub struct SharedStatus(Arc<Mutex<UplinkStatus>>);

impl SharedStatus {
    /// A copy of it.
    #[must_use]
    pub fn read(&self) -> UplinkStatus {
        self.guard().clone()
    }

    fn guard(&self) -> MutexGuard<'_, UplinkStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hub(&self, hub: HubId, change: impl FnOnce(&mut HubStatus)) {
        change(self.guard().hubs.entry(hub).or_default());
    }
}
