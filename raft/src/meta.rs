//! What Raft stores inside the state machine: how far it is applied and the membership at that point.

use anemone_wire::WireError;
use anemone_wire::cbor;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{LogId, Membership, SnapshotMeta};

const VERSION: u8 = 1;
const MAX_BYTES: usize = 1 << 20;
const WHAT: &str = "raft meta";

/// A point in the applied log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    version: u8,
    /// The last entry applied.
    pub(crate) applied: Option<LogId>,
    /// The last membership applied.
    pub(crate) membership: Membership,
}

impl Position {
    pub(crate) fn new(applied: Option<LogId>, membership: Membership) -> Self {
        Self { version: VERSION, applied, membership }
    }

    pub(crate) fn encode(&self) -> Result<Bytes, WireError> {
        cbor::to_vec(WHAT, self).map(Bytes::from)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let position: Self = cbor::from_slice(WHAT, bytes, MAX_BYTES)?;
        if position.version != VERSION {
            return Err(WireError::Version { what: WHAT, found: position.version, known: VERSION });
        }
        Ok(position)
    }

    /// As openraft describes a snapshot taken here. The id follows from the position: the same seal has the same id.
    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        let snapshot_id =
            self.applied.map_or_else(|| "empty".to_owned(), |id| format!("{}-{}-{}", id.leader_id.term, id.leader_id.node_id, id.index));
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone(), snapshot_id }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::CommittedLeaderId;

    use super::*;
    use crate::types::Peer;

    #[test]
    fn survives_encoding_and_refuses_other_versions() {
        let voters = BTreeSet::from([1, 2, 3]);
        let nodes: BTreeMap<u64, Peer> = voters.iter().map(|id| (*id, Peer { raft: format!("h{id}:7444"), ..Peer::default() })).collect();
        let id = LogId::new(CommittedLeaderId::new(3, 2), 77);
        let mut position = Position::new(Some(id), Membership::new(Some(id), openraft::Membership::new(vec![voters], nodes)));
        assert_eq!(Position::decode(&position.encode().unwrap()).unwrap(), position);
        assert_eq!(position.snapshot_meta().snapshot_id, "3-2-77");
        position.version = 2;
        let error = Position::decode(&position.encode().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "raft meta has version 2; this build reads up to version 1");
        assert!(Position::decode(b"rubbish").is_err());
    }
}
