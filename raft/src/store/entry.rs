//! The bytes of a Raft entry in the log.
//!
//! ```text
//! 0 version u8 = 1 | 1 term u64 | 9 leader u64 | 17 kind u8 | 18 payload ...        integers little-endian
//! kind 0 blank (no payload), 1 command (as proposed), 2 membership (CBOR)           the index is the record's own
//! ```

use anemone_wire::{WireError, cbor};
use bytes::{BufMut, Bytes, BytesMut};
use openraft::CommittedLeaderId;

use crate::types::{Command, LogEntry, LogId, Payload};

const VERSION: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 18;
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;
const MEMBERSHIP_BYTES_MAX: usize = 1 << 20;

/// Kind and bytes of a payload, on disk and on the network.
pub(crate) fn payload_parts(payload: &Payload) -> Result<(u8, Bytes), WireError> {
    Ok(match payload {
        Payload::Blank => (BLANK, Bytes::new()),
        Payload::Normal(command) => (COMMAND, command.0.clone()),
        Payload::Membership(membership) => (MEMBERSHIP, cbor::to_vec("membership", membership)?.into()),
    })
}

/// The reverse of [`payload_parts`]; the error says what does not fit.
pub(crate) fn payload_from(kind: u8, bytes: Bytes) -> Result<Payload, String> {
    match kind {
        BLANK if bytes.is_empty() => Ok(Payload::Blank),
        BLANK => Err(format!("blank entry with {} bytes", bytes.len())),
        COMMAND => Ok(Payload::Normal(Command(bytes))),
        MEMBERSHIP => cbor::from_slice("membership", &bytes, MEMBERSHIP_BYTES_MAX).map(Payload::Membership).map_err(|e| e.to_string()),
        _ => Err(format!("unknown kind {kind}")),
    }
}

pub(crate) fn encode(entry: &LogEntry) -> Result<Bytes, WireError> {
    let (kind, payload) = payload_parts(&entry.payload)?;
    let mut record = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    record.put_u8(VERSION);
    record.put_u64_le(entry.log_id.leader_id.term);
    record.put_u64_le(entry.log_id.leader_id.node_id);
    record.put_u8(kind);
    record.put_slice(&payload);
    Ok(record.freeze())
}

/// The log id of the record at `index`; reads its first bytes only.
pub(crate) fn decode_id(index: u64, record: &[u8]) -> Result<LogId, String> {
    let version = *record.first().ok_or("empty record")?;
    if version != VERSION {
        return Err(format!("version {version}, this build reads version {VERSION}"));
    }
    let number = |at: usize| -> Result<u64, String> {
        let bytes = record.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(|| format!("{} bytes, shorter than its header", record.len()))
    };
    Ok(LogId::new(CommittedLeaderId::new(number(1)?, number(9)?), index))
}

/// The record at `index`; the error says what does not fit.
pub(crate) fn decode(index: u64, record: &Bytes) -> Result<LogEntry, String> {
    let log_id = decode_id(index, record)?;
    let kind = *record.get(HEADER_BYTES - 1).ok_or_else(|| format!("{} bytes, shorter than its header", record.len()))?;
    Ok(LogEntry { log_id, payload: payload_from(kind, record.slice(HEADER_BYTES..))? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn entries_survive_and_cost_a_header() {
        let membership = openraft::Membership::new(vec![BTreeSet::from([1, 2, 3])], None);
        let command = Bytes::from(vec![0xa5; 1000]);
        let payloads = [Payload::Blank, Payload::Normal(Command(command)), Payload::Membership(membership)];
        for (index, payload) in (40..).zip(payloads) {
            let entry = LogEntry { log_id: LogId::new(CommittedLeaderId::new(u64::MAX, 3), index), payload };
            let record = encode(&entry).unwrap();
            assert_eq!(decode(index, &record).unwrap(), entry);
            assert_eq!(decode_id(index, &record).unwrap(), entry.log_id);
            if index == 41 {
                assert_eq!(record.len(), HEADER_BYTES + 1000);
            }
        }
    }

    #[test]
    fn damaged_records_say_what_does_not_fit() {
        let good = encode(&LogEntry::default()).unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            Bytes::from(bytes)
        };
        let cases = [
            (Bytes::new(), "empty record"),
            (with(0, 2), "version 2, this build reads version 1"),
            (good.slice(..5), "5 bytes, shorter than its header"),
            (good.slice(..17), "17 bytes, shorter than its header"),
            (with(17, 9), "unknown kind 9"),
            (with(17, 2), "membership is truncated at byte 0"),
            (Bytes::from([&good[..], b"x"].concat()), "blank entry with 1 bytes"),
        ];
        for (record, expected) in cases {
            assert_eq!(decode(3, &record).unwrap_err(), expected);
        }
    }
}
