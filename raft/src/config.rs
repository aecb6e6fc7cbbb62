//! How a node is configured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use openraft::SnapshotPolicy;

use crate::error::RaftError;
use crate::types::Peer;

/// Segments of the log in one `seal_log_bytes`: purging works by whole segments.
const SEGMENTS: u64 = 8;

/// Configuration of one node.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// This hub; at least 1, never reused for another machine or an emptied directory.
    pub id: u64,
    /// Where the log lives; belongs to this node alone.
    pub dir: PathBuf,
    /// Static membership the cluster is formed with, this hub included; the same on every hub. Addresses given here win over
    /// those recorded when the cluster was formed.
    pub peers: BTreeMap<u64, Peer>,
    /// Pause between heartbeats; also the time an append may take. Default 200 ms.
    pub heartbeat: Duration,
    /// Range a follower's election time-out is drawn from. Default 450 to 900 ms. A follower starts an election when it heard
    /// nothing for the upper end (the leader's lease) plus its time-out; it looks every 1.5 heartbeats. So a dead leader is
    /// replaced after 1.35 to 2.1 s.
    pub election: (Duration, Duration),
    /// Seal the state machine and purge the log when the log holds more, in bytes. A quarter is kept, so that a follower which
    /// was away for a while needs no snapshot. Default 64 MiB.
    pub seal_log_bytes: u64,
    /// Proposals waiting for commit and apply, in bytes; more are refused as busy. Default 64 MiB.
    pub queue_bytes: u32,
    /// Largest proposal in bytes. Default 4 MiB, at most 8 MiB.
    pub proposal_bytes_max: usize,
    /// How long a proposal or read barrier may take. Default 5 s.
    pub timeout: Duration,
    /// How long a follower may take to import a received snapshot. Default 10 min.
    pub install_timeout: Duration,
}

impl RaftConfig {
    /// The defaults.
    pub fn new(id: u64, dir: impl Into<PathBuf>, peers: BTreeMap<u64, Peer>) -> Self {
        Self {
            id,
            dir: dir.into(),
            peers,
            heartbeat: Duration::from_millis(200),
            election: (Duration::from_millis(450), Duration::from_millis(900)),
            seal_log_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            proposal_bytes_max: 4 << 20,
            timeout: Duration::from_secs(5),
            install_timeout: Duration::from_secs(600),
        }
    }

    pub(crate) fn openraft(&self) -> Result<openraft::Config, RaftError> {
        let wrong = |why: String| Err(RaftError::Config(why));
        if self.id == 0 {
            return wrong("hub id 0; ids begin at 1".to_owned());
        }
        if !self.peers.contains_key(&self.id) {
            return wrong(format!("hub {} is not among its peers {:?}", self.id, self.peers.keys()));
        }
        if self.proposal_bytes_max > 8 << 20 {
            return wrong(format!("proposals of {} bytes; the limit is 8 MiB", self.proposal_bytes_max));
        }
        if self.proposal_bytes_max as u64 > u64::from(self.queue_bytes) {
            return wrong(format!("a queue of {} bytes cannot hold a proposal of {}", self.queue_bytes, self.proposal_bytes_max));
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
        let config = openraft::Config {
            cluster_name: "anemone".to_owned(),
            heartbeat_interval: millis(self.heartbeat).max(1),
            election_timeout_min: millis(self.election.0),
            election_timeout_max: millis(self.election.1),
            install_snapshot_timeout: millis(self.install_timeout),
            // Sealing and purging go by bytes, see `sealing`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            ..openraft::Config::default()
        };
        config.validate().map_err(|e| RaftError::Config(e.to_string()))
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.seal_log_bytes / SEGMENTS).clamp(64 << 10, 64 << 20)
    }

    /// A leader that no majority answered for this long no longer counts as one.
    pub(crate) fn quorum_lost_after(&self) -> Duration {
        self.election.1 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let good = || RaftConfig::new(1, "d", BTreeMap::from([(1, Peer::default())]));
        assert!(good().openraft().is_ok());
        let cases: [(RaftConfig, &str); 5] = [
            (RaftConfig { id: 0, ..good() }, "hub id 0; ids begin at 1"),
            (RaftConfig { id: 2, ..good() }, "hub 2 is not among its peers [1]"),
            (RaftConfig { proposal_bytes_max: 9 << 20, ..good() }, "proposals of 9437184 bytes; the limit is 8 MiB"),
            (RaftConfig { queue_bytes: 9, ..good() }, "a queue of 9 bytes cannot hold a proposal of 4194304"),
            (RaftConfig { heartbeat: Duration::from_secs(2), ..good() }, "election_timeout_min"),
        ];
        for (config, expected) in cases {
            let error = config.openraft().unwrap_err().to_string();
            assert!(error.contains(expected), "{error} should contain {expected}");
        }
    }
}
