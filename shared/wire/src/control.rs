//! Control messages: what agents and hubs say on the control stream of a session.
//!
//! ```text
//! agent -> hub   Hello first, then Heartbeat, AssignmentApplied
//! hub -> agent   Welcome first, then Leader, Ack, Refused, Assignment, Heartbeat, Goodbye
//! ```
//!
//! Encoded as CBOR; enumerations by name, structs with named fields. A field may be added with a default; a new message is
//! refused by an older build with an error that names it, so a newer one sends it only to peers that announced its protocol.

use anemone_model::{AgentId, AssignedDevice, HubId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cbor;
use crate::error::WireError;
use crate::limits::CONTROL_MAX;

/// Version of the control protocol spoken by this build.
pub const PROTOCOL: u16 = 1;

/// Kinds of frames on the streams of a session.
pub mod frame_kind {
    /// An [`super::AgentMessage`] or [`super::HubMessage`], on the control stream.
    pub const CONTROL: u8 = 1;
    /// A sealed batch, on a lane.
    pub const BATCH: u8 = 2;
}

/// What an agent says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Highest protocol it speaks.
    pub protocol: u16,
    /// Who it is; must equal the identity in its certificate.
    pub agent: AgentId,
    /// Its spool's epoch.
    pub epoch: u64,
    /// First sequence its spool still holds (or accounts for with a gap batch).
    pub first_sequence: u64,
    /// The sequence its next batch will get.
    pub next_sequence: u64,
    /// Base URL of its HTTP API.
    pub http: String,
    /// Its software version.
    pub software: String,
    /// Epoch of the assignment it works by; 0 for none.
    pub assignment_epoch: u64,
}

/// How an agent is doing; sent with each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLoad {
    /// Devices it polls.
    pub devices: u64,
    /// Devices whose last round failed.
    pub devices_failing: u64,
    /// Batches not acknowledged yet.
    pub unacknowledged_batches: u64,
    /// Their bytes.
    pub unacknowledged_bytes: u64,
    /// When the oldest of them was sealed, in milliseconds since 1970 UTC.
    pub oldest_unacknowledged_ms: Option<i64>,
    /// Batches the spool had to drop, since its epoch began.
    pub dropped_batches: u64,
}

/// From agent to hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// Opens the session.
    Hello(Hello),
    /// Still here.
    Heartbeat {
        /// The agent's clock, in milliseconds since 1970 UTC.
        at_ms: i64,
        /// How it is doing.
        load: AgentLoad,
    },
    /// It now works by this assignment.
    AssignmentApplied {
        /// The assignment's epoch.
        epoch: u64,
    },
}

/// Who leads the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The Raft term.
    pub term: u64,
    /// The leader, if the hub knows one.
    pub hub: Option<HubId>,
    /// Its QUIC address as the hubs know it; an agent that has an address of its own for the hub uses that.
    pub address: Option<String>,
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// This hub does not lead; send it to the leader.
    NotLeader,
    /// The hub has too much to do; send it again after this many milliseconds.
    Busy {
        /// How long to wait.
        retry_ms: u32,
    },
    /// The batch is damaged or breaks a rule; it will never be taken.
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// It uses references that no earlier batch defined.
    UnknownSeries {
        /// The dictionary.
        dictionary: u64,
        /// The first unknown reference.
        reference: u32,
    },
}

/// One part of the list of devices an agent is to poll. Parts of one epoch together replace the list before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentPart {
    /// The assignment's epoch.
    pub epoch: u64,
    /// This part's number, from 0.
    pub part: u32,
    /// How many parts there are, 1 or more.
    pub parts: u32,
    /// The devices.
    pub devices: Vec<AssignedDevice>,
}

/// From hub to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubMessage {
    /// Answers a hello.
    Welcome {
        /// Which hub this is.
        hub: HubId,
        /// The protocol both speak.
        protocol: u16,
        /// Who leads.
        leader: Leader,
        /// Everything of the agent's epoch below this sequence is applied.
        applied_below: u64,
    },
    /// The leader changed.
    Leader(Leader),
    /// Batches are committed by a majority and applied.
    Ack {
        /// The spool epoch.
        epoch: u64,
        /// Everything below this sequence is applied.
        applied_below: u64,
    },
    /// A batch was not taken.
    Refused {
        /// The spool epoch.
        epoch: u64,
        /// The batch.
        sequence: u64,
        /// Why.
        refusal: Refusal,
    },
    /// What to poll.
    Assignment(AssignmentPart),
    /// Still here.
    Heartbeat {
        /// The hub's clock, in milliseconds since 1970 UTC.
        at_ms: i64,
    },
    /// The hub is shutting down.
    Goodbye {
        /// Why.
        why: String,
    },
}

/// Most devices in one [`AssignmentPart`], so that it stays far below [`CONTROL_MAX`].
pub const ASSIGNMENT_PART_DEVICES: usize = 1_000;

macro_rules! message {
    ($type:ty, $what:literal) => {
        impl $type {
            /// Encodes the message.
            ///
            /// # Errors
            /// A message over [`CONTROL_MAX`].
            pub fn encode(&self) -> Result<Bytes, WireError> {
                let bytes = cbor::to_vec($what, self)?;
                if bytes.len() > CONTROL_MAX {
                    return Err(WireError::TooLarge { what: $what, size: bytes.len(), limit: CONTROL_MAX });
                }
                Ok(bytes.into())
            }

            /// Decodes a message.
            ///
            /// # Errors
            /// Over a limit, malformed, or a message this build does not know.
            pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
                cbor::from_slice($what, bytes, CONTROL_MAX)
            }
        }
    };
}

message!(AgentMessage, "agent message");
message!(HubMessage, "hub message");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let hello = AgentMessage::Hello(Hello {
            protocol: PROTOCOL,
            agent: AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() },
            epoch: u64::MAX,
            first_sequence: 1,
            next_sequence: 2,
            http: "http://127.0.0.1:9180".into(),
            software: "0.1.0".into(),
            assignment_epoch: 0,
        });
        assert_eq!(AgentMessage::decode(&hello.encode().unwrap()).unwrap(), hello);
        let refused = HubMessage::Refused { epoch: 1, sequence: 2, refusal: Refusal::UnknownSeries { dictionary: 3, reference: 4 } };
        assert_eq!(HubMessage::decode(&refused.encode().unwrap()).unwrap(), refused);
    }

    #[test]
    fn an_unknown_message_is_named() {
        let bytes = cbor::to_vec("test", &std::collections::BTreeMap::from([("Teleport", 1)])).unwrap();
        let error = AgentMessage::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("agent message is malformed") && error.contains("Teleport"), "{error}");
    }
}
