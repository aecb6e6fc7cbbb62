//! Devices as the inventory knows them, and what the hub knows of agents.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::{AgentId, Name};

/// An SNMP community. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Community(String);

impl Community {
    /// Wraps a community string.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the encoder of a request and nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Community(***)")
    }
}

/// How often a device's metrics are polled; from 1 s to 1 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PollInterval(u32);

impl PollInterval {
    /// Shortest interval, in milliseconds.
    pub const MIN_MS: u32 = 1_000;
    /// Longest interval, in milliseconds.
    pub const MAX_MS: u32 = 3_600_000;

    /// As a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0))
    }

    /// In milliseconds.
    #[must_use]
    pub fn millis(self) -> u32 {
        self.0
    }
}

impl Default for PollInterval {
    /// 10 s.
    fn default() -> Self {
        Self(10_000)
    }
}

impl TryFrom<u32> for PollInterval {
    type Error = String;

    fn try_from(ms: u32) -> Result<Self, String> {
        if (Self::MIN_MS..=Self::MAX_MS).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(format!("a poll interval of {ms} ms is outside {} to {} ms", Self::MIN_MS, Self::MAX_MS))
        }
    }
}

impl From<PollInterval> for u32 {
    fn from(interval: PollInterval) -> Self {
        interval.0
    }
}

/// A device of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its name, unique in the cluster; the label `device`.
    pub name: Name,
    /// The PoP that polls it; the label `pop`.
    pub pop: Name,
    /// Where its SNMP agent listens, `host:port`; an IPv6 address in brackets.
    pub address: String,
    /// SNMP v2c community.
    pub community: Community,
    /// How often its metrics are polled, in milliseconds in text forms.
    #[serde(default)]
    pub interval: PollInterval,
    /// Free key-value pairs, such as rack, role or serial.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A device as handed to the agent that is to poll it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedDevice {
    /// The device.
    pub device: Device,
    /// The assignment's epoch: grows each time the device changes hands or is edited.
    pub epoch: u64,
}

/// What the replicated state knows of an agent's reachability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Who.
    pub agent: AgentId,
    /// Set while the leader cannot hear it: when it was last heard, in milliseconds since 1970 UTC.
    pub dark_since_ms: Option<i64>,
    /// Base URL of its HTTP API as it announced it, such as `http://127.0.0.1:9180`.
    pub http: String,
    /// Its software version.
    pub software: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_community_is_never_printed() {
        let device = Device {
            name: "sw1".parse().unwrap(),
            pop: "ams1".parse().unwrap(),
            address: "127.0.0.1:161".into(),
            community: Community::new("s3cret"),
            interval: PollInterval::default(),
            metadata: BTreeMap::new(),
        };
        assert!(!format!("{device:?}").contains("s3cret"));
    }

    #[test]
    fn intervals_have_bounds() {
        assert!(PollInterval::try_from(999).is_err());
        assert!(PollInterval::try_from(3_600_001).is_err());
        assert_eq!(PollInterval::try_from(60_000).unwrap().duration(), Duration::from_secs(60));
    }
}
