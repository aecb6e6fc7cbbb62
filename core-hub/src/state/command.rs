//! Commands: what goes through the Raft log, and what comes back when it is applied.
//!
//! ```text
//! 1 | (u32 BE bytes, sealed batch)...      batches, untouched
//! 2 | CBOR of Control                      everything else
//! ```

use anemone_model::{AgentId, Device, Name};
use anemone_wire::{WireError, cbor};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

const BATCHES: u8 = 1;
const CONTROL: u8 = 2;
const WHAT: &str = "command";
/// Most bytes of a control command.
pub const CONTROL_COMMAND_MAX: usize = 4 << 20;

/// A change of the replicated state other than a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Adds devices or replaces those of the same name.
    PutDevices(Vec<Device>),
    /// Removes devices by name; unknown names are no error.
    RemoveDevices(Vec<Name>),
    /// An agent said hello to the leader, or was dark and is heard again.
    AgentSeen {
        /// Who.
        agent: AgentId,
        /// Base URL of its HTTP API.
        http: String,
        /// Its software version.
        software: String,
    },
    /// The leader cannot hear an agent.
    AgentDark {
        /// Who.
        agent: AgentId,
        /// When it was last heard, in milliseconds since 1970 UTC.
        since_ms: i64,
    },
    /// An agent has been dark for the grace period while a neighbour in its PoP is heard: its devices move.
    AgentEvicted {
        /// Who.
        agent: AgentId,
    },
}

/// One entry of the Raft log, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sealed batches.
    Batches(Vec<Bytes>),
    /// A control command.
    Control(Control),
}

impl Command {
    /// Packs sealed batches.
    #[must_use]
    pub fn encode_batches(batches: &[Bytes]) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + batches.iter().map(|b| 4 + b.len()).sum::<usize>());
        out.put_u8(BATCHES);
        for batch in batches {
            out.put_u32(u32::try_from(batch.len()).expect("a batch is at most 1 MiB"));
            out.put_slice(batch);
        }
        out.freeze()
    }

    /// Encodes a control command.
    ///
    /// # Errors
    /// One that does not encode.
    pub fn encode_control(control: &Control) -> Result<Bytes, WireError> {
        let mut out = vec![CONTROL];
        out.extend(cbor::to_vec(WHAT, control)?);
        Ok(out.into())
    }

    /// Decodes an entry, sharing its bytes.
    ///
    /// # Errors
    /// An unknown kind of command, or one that is cut or malformed.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        match bytes.first() {
            Some(&BATCHES) => {
                let (mut at, mut batches) = (1, Vec::new());
                while at < bytes.len() {
                    let truncated = WireError::Truncated { what: WHAT, at };
                    let head: [u8; 4] = bytes.get(at..at + 4).and_then(|h| h.try_into().ok()).ok_or(truncated.clone())?;
                    let end = at + 4 + u32::from_be_bytes(head) as usize;
                    if end > bytes.len() {
                        return Err(truncated);
                    }
                    batches.push(bytes.slice(at + 4..end));
                    at = end;
                }
                Ok(Self::Batches(batches))
            }
            Some(&CONTROL) => Ok(Self::Control(cbor::from_slice(WHAT, &bytes[1..], CONTROL_COMMAND_MAX)?)),
            Some(other) => Err(WireError::Malformed { what: WHAT, at: 0, why: format!("unknown kind of command {other}") }),
            None => Err(WireError::Truncated { what: WHAT, at: 0 }),
        }
    }
}

/// What became of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// Applied now.
    Applied,
    /// Had been applied before.
    Duplicate,
    /// Uses a reference nobody defined; not applied.
    UnknownSeries {
        /// The dictionary.
        dictionary: u64,
        /// The reference.
        reference: u32,
    },
    /// Does not decode; not applied.
    Malformed(String),
    /// Comes after a refused batch of its spool epoch in the same entry; not applied.
    AfterRefused,
}

/// What applying an entry gave; the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// For batches: one outcome each, and below which sequence its epoch is applied now.
    Batches(Vec<(BatchOutcome, u64)>),
    /// For control: how many things changed.
    Changed(u64),
    /// The entry was refused whole.
    Refused(String),
}

impl Outcome {
    /// Encodes it as a Raft response.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        cbor::to_vec("outcome", self).map(Bytes::from).unwrap_or_default()
    }

    /// Decodes a Raft response.
    ///
    /// # Errors
    /// Bytes that are no outcome.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        cbor::from_slice("outcome", bytes, CONTROL_COMMAND_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_carried_untouched() {
        let batches = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        assert_eq!(Command::decode(&Command::encode_batches(&batches)).unwrap(), Command::Batches(batches));
    }

    #[test]
    fn bad_commands_are_named() {
        let error = |bytes: &'static [u8]| Command::decode(&Bytes::from_static(bytes)).unwrap_err().to_string();
        assert_eq!(error(b""), "command is truncated at byte 0");
        assert_eq!(error(b"\x09"), "command is malformed at byte 0: unknown kind of command 9");
        assert_eq!(error(b"\x01\0\0\0\x05abc"), "command is truncated at byte 1");
        assert!(error(b"\x02\xa1\x61x\x01").contains("unknown variant"));
    }

    #[test]
    fn outcomes_round_trip() {
        let outcome = Outcome::Batches(vec![(BatchOutcome::UnknownSeries { dictionary: 1, reference: 2 }, 3), (BatchOutcome::Applied, 9)]);
        assert_eq!(Outcome::decode(&outcome.encode()).unwrap(), outcome);
    }
}
