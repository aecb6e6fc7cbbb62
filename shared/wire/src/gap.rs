//! Gap records: what an agent had to give up travels in its place.

use serde::{Deserialize, Serialize};

/// Why samples are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GapReason {
    /// The spool reached its size bound before the hub had acknowledged.
    SpoolFull,
    /// A part of the spool could not be read back.
    SpoolCorrupt,
    /// The disk refused a write.
    DiskFailed,
}

impl GapReason {
    /// Words for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::SpoolFull => "the agent's spool was full",
            Self::SpoolCorrupt => "a part of the agent's spool was damaged",
            Self::DiskFailed => "the agent's disk refused a write",
        }
    }
}

/// A range of sequences that will never come, and what was in it as far as known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// First sequence given up.
    pub from_sequence: u64,
    /// How many sequences.
    pub sequences: u64,
    /// Time of the first sample given up, in milliseconds since 1970 UTC; `None` where unknown.
    pub from_ms: Option<i64>,
    /// Time of the last sample given up.
    pub to_ms: Option<i64>,
    /// How many samples were given up, as far as known.
    pub samples: u64,
    /// Why.
    pub reason: GapReason,
}
