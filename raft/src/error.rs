//! What can go wrong, for those who start a node and those who propose.

use std::io;
use std::path::PathBuf;

use anemone_log::LogError;

use crate::state::StateError;

/// Why a node could not be started or stopped working.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The configuration cannot work.
    #[error("raft configuration: {0}")]
    Config(String),
    /// The directory cannot be used.
    #[error("raft directory {}: {source}", path.display())]
    Dir {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The directory belongs to another hub. Node ids are never reused.
    #[error("raft directory {} belongs to hub {found}, but this is hub {configured}", path.display())]
    OtherHub {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// The configured id.
        configured: u64,
    },
    /// The log could not be opened.
    #[error("raft log: {0}")]
    Log(#[from] LogError),
    /// The log holds something that cannot be used.
    #[error("raft log {}: {why}", path.display())]
    BadLog {
        /// Its directory.
        path: PathBuf,
        /// What does not fit, with the index.
        why: String,
    },
    /// The state machine has less than the log was purged up to: its directory was lost, exchanged or restored from a copy.
    #[error("the raft log is purged below {purged_below}, but the state machine is sealed only below {sealed_below}: its state was lost")]
    StateLost {
        /// First index the log still has.
        purged_below: u64,
        /// First index the state machine needs.
        sealed_below: u64,
    },
    /// The state machine could not tell where it is.
    #[error("state machine: {0}")]
    State(#[from] StateError),
    /// Raft stopped; the text says where.
    #[error("raft stopped: {0}")]
    Fatal(String),
    /// The gRPC server failed.
    #[error("raft server: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Why a proposal or a read barrier was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another hub leads, or none does right now. Nothing was proposed, or it was and a newer leader removed it.
    #[error("this hub does not lead; {}", leader.map_or_else(|| "no leader is known".to_owned(), |id| format!("hub {id} does")))]
    NotLeader {
        /// Who leads, when known.
        leader: Option<u64>,
    },
    /// The queue of proposals is full. Nothing was proposed; retry later.
    #[error("the queue of proposals is full")]
    Busy,
    /// No answer in time. The proposal may still be committed later.
    #[error("no majority answered in time")]
    Timeout,
    /// Larger than a log entry may be. Nothing was proposed.
    #[error("proposal of {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Raft was shut down or failed.
    #[error("raft has stopped")]
    Stopped,
}
