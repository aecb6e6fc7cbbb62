//! Messages between hubs. Small parts are CBOR of openraft's types; payloads of entries travel as they are.

use anemone_wire::cbor;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{CommittedLeaderId, LogIdOptionExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::proto;
use super::{MESSAGE_VERSION, check_version};
use crate::store::{payload_from, payload_parts};
use crate::types::{LogEntry, LogId, TypeConfig, Vote};

/// Bytes of the CBOR parts of append, vote and answers.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct AppendHeader {
    vote: Vote,
    previous: Option<LogId>,
    committed: Option<LogId>,
}

/// Why a message could not be encoded or decoded; becomes a gRPC status.
fn refused(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn check_receiver(what: &str, to: u64, me: u64) -> Result<(), Status> {
    if to == me {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("{what} is for hub {to}, but this is hub {me}: a peer address is wrong")))
}

pub(super) fn encode_append(to: u64, rpc: &AppendEntriesRequest<TypeConfig>) -> Result<proto::AppendRequest, Status> {
    let header = AppendHeader { vote: rpc.vote, previous: rpc.prev_log_id, committed: rpc.leader_commit };
    let header = cbor::to_vec("append header", &header).map_err(refused)?.into();
    let entries = rpc.entries.iter().map(encode_entry).collect::<Result<_, _>>()?;
    Ok(proto::AppendRequest { version: MESSAGE_VERSION, to, header, entries })
}

fn encode_entry(entry: &LogEntry) -> Result<proto::LogEntry, Status> {
    let (kind, payload) = payload_parts(&entry.payload).map_err(refused)?;
    let leader = entry.log_id.leader_id;
    Ok(proto::LogEntry { term: leader.term, leader: leader.node_id, kind: u32::from(kind), payload })
}

pub(super) fn decode_append(me: u64, message: proto::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    check_version("append request", message.version)?;
    check_receiver("append request", message.to, me)?;
    let header: AppendHeader = cbor::from_slice("append header", &message.header, BODY_BYTES_MAX).map_err(refused)?;
    let first = header.previous.next_index();
    let entries = (first..)
        .zip(message.entries)
        .map(|(index, entry)| {
            let kind = u8::try_from(entry.kind).map_err(refused)?;
            let payload = payload_from(kind, entry.payload).map_err(|e| refused(format!("entry {index}: {e}")))?;
            Ok(LogEntry { log_id: LogId::new(CommittedLeaderId::new(entry.term, entry.leader), index), payload })
        })
        .collect::<Result<_, Status>>()?;
    Ok(AppendEntriesRequest { vote: header.vote, prev_log_id: header.previous, entries, leader_commit: header.committed })
}

pub(super) fn encode_vote(to: u64, rpc: &VoteRequest<u64>) -> Result<proto::VoteRequest, Status> {
    Ok(proto::VoteRequest { version: MESSAGE_VERSION, to, body: cbor::to_vec("vote request", rpc).map_err(refused)?.into() })
}

pub(super) fn decode_vote(me: u64, message: &proto::VoteRequest) -> Result<VoteRequest<u64>, Status> {
    check_version("vote request", message.version)?;
    check_receiver("vote request", message.to, me)?;
    cbor::from_slice("vote request", &message.body, BODY_BYTES_MAX).map_err(refused)
}

pub(super) fn encode_answer<T: Serialize>(answer: &T) -> Result<proto::Answer, Status> {
    Ok(proto::Answer { version: MESSAGE_VERSION, body: cbor::to_vec("answer", answer).map_err(refused)?.into() })
}

pub(super) fn decode_answer<T: DeserializeOwned>(message: &proto::Answer) -> Result<T, Status> {
    check_version("answer", message.version)?;
    cbor::from_slice("answer", &message.body, BODY_BYTES_MAX).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use openraft::raft::{AppendEntriesResponse, VoteResponse};

    use super::*;
    use crate::types::{Command, Payload};

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 3), index)
    }

    fn request() -> AppendEntriesRequest<TypeConfig> {
        let membership = openraft::Membership::new(vec![BTreeSet::from([1, 2])], None);
        let payloads = [Payload::Blank, Payload::Normal(Command(Bytes::from(vec![7; 100_000]))), Payload::Membership(membership)];
        let entries = (5..).zip(payloads).map(|(index, payload)| LogEntry { log_id: id(2, index), payload }).collect();
        AppendEntriesRequest { vote: Vote::new_committed(2, 3), prev_log_id: Some(id(1, 4)), entries, leader_commit: Some(id(1, 3)) }
    }

    #[test]
    fn append_survives_and_is_not_blown_up() {
        let request = request();
        let message = encode_append(9, &request).unwrap();
        let size = prost::Message::encoded_len(&message);
        assert!(size < 100_000 + 400, "{size}");
        let back = decode_append(9, message).unwrap();
        assert_eq!((back.vote, back.prev_log_id, back.leader_commit), (request.vote, request.prev_log_id, request.leader_commit));
        assert_eq!(back.entries, request.entries);
        let first = AppendEntriesRequest { prev_log_id: None, ..request };
        assert_eq!(decode_append(9, encode_append(9, &first).unwrap()).unwrap().entries[0].log_id.index, 0);
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        let good = || encode_append(9, &request()).unwrap();
        let mut kind = good();
        kind.entries[1].kind = 77;
        let mut header = good();
        header.header = Bytes::from_static(b"\xff");
        let cases = [
            (proto::AppendRequest { version: 2, ..good() }, "append request of version 2; this build speaks version 1"),
            (proto::AppendRequest { to: 8, ..good() }, "append request is for hub 8, but this is hub 9: a peer address is wrong"),
            (kind, "entry 6: unknown kind 77"),
            (header, "append header is malformed"),
        ];
        for (message, expected) in cases {
            let status = decode_append(9, message).expect_err(expected);
            assert!(status.message().starts_with(expected), "{status} should begin with {expected}");
        }
        let vote = VoteRequest { vote: Vote::new(4, 3), last_log_id: Some(id(3, 8)) };
        let message = encode_vote(2, &vote).unwrap();
        assert_eq!(decode_vote(2, &message).unwrap(), vote);
        assert!(decode_vote(1, &message).is_err());
        let message = proto::Answer { version: 3, ..encode_answer(&1_u8).unwrap() };
        assert_eq!(decode_answer::<u8>(&message).unwrap_err().message(), "answer of version 3; this build speaks version 1");
    }

    #[test]
    fn answers_survive() {
        let answers = [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(id(1, 2))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(Vote::new(9, 1)),
        ];
        for answer in answers {
            assert_eq!(decode_answer::<AppendEntriesResponse<u64>>(&encode_answer(&answer).unwrap()).unwrap(), answer);
        }
        let vote = VoteResponse::<u64>::new(Vote::new(4, 3), None, true);
        assert_eq!(decode_answer::<VoteResponse<u64>>(&encode_answer(&vote).unwrap()).unwrap(), vote);
    }
}
