//! One device: when it is asked, what its answers mean, and what is known about its health.
//!
//! ```text
//! DeviceActor (actor) -- supervises --> run_device (runner) -- asks what to do --> DeviceLogic (logic, no I/O)
//!      ^ Stop, UpdateDevice, HealthQuery     |  Engine::exchange                        breaker, schedule, uptime, inventory
//!                                            v
//!                                        SampleSink (the batcher)
//! ```
//!
//! Promises: at most one request per device is outstanding; a round's samples carry the time their answer was received; counters
//! are passed on exactly, and marked where they do not continue; a failure always has a reason. A slow, silent or lying device costs
//! only itself.

pub mod actor;
pub mod breaker;
pub mod inventory;
pub mod logic;
pub mod runner;
pub mod schedule;
pub mod supervisor;
pub mod uptime;

mod emit;
mod poll;
mod scalars;

use anemone_model::{Sample, SeriesDef};
use serde::{Deserialize, Serialize};

/// Why a sink did not take what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SinkRefusal {
    /// Its queue is full; the samples are dropped and counted.
    #[error("the batcher's queue is full")]
    Full,
    /// The device or agent has as many series as it may have.
    #[error("the series budget is used up")]
    SeriesBudget,
    /// It has been closed.
    #[error("the batcher is closed")]
    Closed,
}

/// Where samples go: the batcher. Called from device tasks, so it must return at once.
pub trait SampleSink: Send + Sync {
    /// The ref of the series with this definition, valid as long as the process runs. The same definition gives the same ref.
    ///
    /// # Errors
    /// The series is not taken; its samples are dropped, and it is tried again with the next one.
    fn register(&self, definition: SeriesDef) -> Result<u32, SinkRefusal>;

    /// Takes the samples of one round of one device.
    ///
    /// # Errors
    /// They are not taken; the device counts them as dropped.
    fn round(&self, device: &str, samples: Vec<(u32, Sample)>) -> Result<(), SinkRefusal>;
}

/// Why a round did not bring all it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailureReason {
    /// Silence from a device that has never answered.
    #[error("no answer: unreachable, no SNMP v2c there, or the community is wrong")]
    NoAnswer,
    /// Silence from a device that has answered before.
    #[error("no answer in time after {attempts} attempts")]
    Timeout {
        /// How often it was asked.
        attempts: u32,
    },
    /// It answers, but not with SNMP.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// It answers with an error status (RFC 3416, 3).
    #[error("refused with error status {0}")]
    Refused(u32),
    /// Requests cannot be sent.
    #[error("cannot send: {0}")]
    Send(String),
    /// Too many exchanges of the agent were waiting.
    #[error("the agent has too many requests waiting")]
    Overloaded,
    /// Rows kept moving while they were read, so that nothing could be attributed.
    #[error("rows kept changing while they were read")]
    Unstable,
    /// A request could not be encoded.
    #[error("cannot encode a request: {0}")]
    Encode(String),
    /// The device's task panicked.
    #[error("the device's task failed: {0}")]
    Panicked(String),
}

/// What is known about a device's health.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// Whether the last round had an answer; `None` before the first.
    pub up: Option<bool>,
    /// Whether the circuit breaker is open: only single probes are sent.
    pub breaker_open: bool,
    /// Rounds that brought everything.
    pub rounds_complete: u64,
    /// Rounds that failed in part or whole.
    pub rounds_failed: u64,
    /// Rounds that were due while the one before was still running.
    pub rounds_missed: u64,
    /// Rounds left out because the circuit breaker was open.
    pub rounds_skipped: u64,
    /// Samples handed on.
    pub samples: u64,
    /// Samples the sink refused, whole rounds and unregistered series.
    pub samples_dropped: u64,
    /// Requests sent, retries included.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Varbinds that could not be read or had a value that does not fit their metric.
    pub bad_varbinds: u64,
    /// Columns that ended in an error while rows were read.
    pub column_faults: u64,
    /// Times rows and labels were read.
    pub inventories: u64,
    /// Restarts of the device found.
    pub reboots: u64,
    /// Why the last failed round failed, and when it ended, in milliseconds since 1970 UTC.
    pub last_failure: Option<(i64, FailureReason)>,
    /// When the last round ended, in milliseconds since 1970 UTC.
    pub last_round_ms: Option<i64>,
    /// How long it took, in milliseconds.
    pub last_duration_ms: u64,
    /// Smoothed round-trip time, in microseconds; 0 before the first answer.
    pub round_trip_us: u64,
    /// Rows polled.
    pub rows: u64,
    /// Times the device's task was restarted after a failure.
    pub restarts: u64,
}

/// What of a device is worth knowing after a restart of the agent or of its task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceMemory {
    /// sysUpTime in hundredths of a second and when it was read, in milliseconds since 1970 UTC.
    pub uptime: Option<(u32, i64)>,
    /// Most varbinds it bears in one answer; 0 = not known.
    pub varbinds: u16,
}
