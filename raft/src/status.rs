//! What a node tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::{LogIdOptionExt, ServerState};

use crate::types::{Metrics, Peer};

/// Who leads, as far as this hub knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term this is about.
    pub term: u64,
    /// The leader; `None` while there is none, and on a leader that no majority answers any more.
    pub leader: Option<u64>,
    /// Whether that is this hub.
    pub me: bool,
}

/// What a node does in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not a voter (yet).
    Learner,
    /// Follows a leader or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped, by request or by an error.
    Stopped,
}

impl Role {
    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        }
    }
}

/// A node at one moment. Indices are of the last entry, `None` when there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftStatus {
    /// This hub.
    pub id: u64,
    /// Current term.
    pub term: u64,
    /// The leader, as in [`Leadership`].
    pub leader: Option<u64>,
    /// What this node does.
    pub state: Role,
    /// Last entry in the log.
    pub last_log: Option<u64>,
    /// Last entry known to be committed.
    pub committed: Option<u64>,
    /// Last entry applied.
    pub applied: Option<u64>,
    /// Last entry the state machine has durably.
    pub sealed: Option<u64>,
    /// Last entry purged from the log.
    pub purged: Option<u64>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Voters and learners, with their addresses.
    pub members: BTreeMap<u64, Peer>,
    /// On a leader: what each member is known to have.
    pub replication: BTreeMap<u64, Option<u64>>,
    /// On a leader: milliseconds since a majority last answered. The only sign of a lost quorum.
    pub millis_since_quorum_ack: Option<u64>,
    /// Proposals refused because the queue was full, since start.
    pub proposals_refused: u64,
    /// Snapshots received since start, and their bytes.
    pub snapshots_received: u64,
    /// Bytes of them.
    pub snapshot_bytes_received: u64,
}

/// What the metrics say about leadership. A leader cut off from the majority does not notice by itself in openraft; here it
/// stops counting as one after `quorum_lost_after`.
pub(crate) fn leadership(metrics: &Metrics, quorum_lost_after: Duration) -> Leadership {
    let term = metrics.current_term;
    if metrics.running_state.is_err() {
        return Leadership { term, leader: None, me: false };
    }
    if metrics.current_leader != Some(metrics.id) {
        return Leadership { term, leader: metrics.current_leader, me: false };
    }
    let voters = metrics.membership_config.membership().voter_ids().count();
    let answered = voters <= 1 || metrics.millis_since_quorum_ack.is_none_or(|ms| u128::from(ms) <= quorum_lost_after.as_millis());
    let me = metrics.state == ServerState::Leader && answered;
    Leadership { term, leader: me.then_some(metrics.id), me }
}

pub(crate) fn role(metrics: &Metrics) -> Role {
    if metrics.running_state.is_err() {
        return Role::Stopped;
    }
    match metrics.state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    }
}

/// The part of the status that openraft knows.
pub(crate) fn from_metrics(metrics: &Metrics, quorum_lost_after: Duration) -> RaftStatus {
    let members = metrics.membership_config.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect();
    let replication = metrics.replication.iter().flatten().map(|(id, matched)| (*id, matched.index())).collect();
    RaftStatus {
        id: metrics.id,
        term: metrics.current_term,
        leader: leadership(metrics, quorum_lost_after).leader,
        state: role(metrics),
        last_log: metrics.last_log_index,
        committed: None,
        applied: metrics.last_applied.index(),
        sealed: None,
        purged: None,
        log_bytes: 0,
        members,
        replication,
        millis_since_quorum_ack: metrics.millis_since_quorum_ack,
        proposals_refused: 0,
        snapshots_received: 0,
        snapshot_bytes_received: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use openraft::error::Fatal;

    use super::*;
    use crate::types::Membership;

    #[test]
    fn a_leader_without_a_majority_does_not_count() {
        let voters = |ids: &[u64]| {
            let ids: BTreeSet<u64> = ids.iter().copied().collect();
            Arc::new(Membership::new(None, openraft::Membership::new(vec![ids], None)))
        };
        let leader = Metrics {
            current_term: 4,
            state: ServerState::Leader,
            current_leader: Some(1),
            membership_config: voters(&[1, 2, 3]),
            millis_since_quorum_ack: Some(100),
            ..Metrics::new_initial(1)
        };
        let mine = Leadership { term: 4, leader: Some(1), me: true };
        let none = Leadership { term: 4, leader: None, me: false };
        let cases = [
            ("leads", leader.clone(), mine),
            ("just elected", Metrics { millis_since_quorum_ack: None, ..leader.clone() }, mine),
            ("cut off", Metrics { millis_since_quorum_ack: Some(2000), ..leader.clone() }, none),
            ("alone", Metrics { millis_since_quorum_ack: Some(2000), membership_config: voters(&[1]), ..leader.clone() }, mine),
            ("failed", Metrics { running_state: Err(Fatal::Stopped), ..leader.clone() }, none),
            ("not yet established", Metrics { state: ServerState::Candidate, ..leader.clone() }, none),
            (
                "follows",
                Metrics { current_leader: Some(2), state: ServerState::Follower, ..leader },
                Leadership { leader: Some(2), ..none },
            ),
        ];
        for (name, metrics, expected) in cases {
            assert_eq!(leadership(&metrics, Duration::from_millis(1800)), expected, "{name}");
        }
    }
}
