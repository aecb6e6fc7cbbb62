//! Raft for the hub: openraft 0.9 over `shared/log` and tonic, generic over the state machine.
//!
//! Owns: the log records, the vote, the network between hubs, snapshot transfer, sealing and purging by bytes.
//! Promises: what [`RaftNode::propose`] acknowledged is durable on a majority and applied on the leader.
//! Refuses: to know what a command means, to start on a directory of another hub, to start where the log was purged beyond
//! what the state machine still has, and any message of a version it does not know.

#[cfg(test)]
extern crate self as anemone_raft;

mod config;
mod error;
mod meta;
mod network;
mod node;
mod sealing;
mod snapshot;
mod state;
mod status;
mod store;
mod types;

pub use config::RaftConfig;
pub use error::{ProposeError, RaftError};
pub use network::{BoxedIo, Connector, IncomingIo, Io};
pub use node::RaftNode;
pub use state::{Entry, Export, ExportFile, RemoveOnDrop, StateError, StateMachine};
pub use status::{Leadership, RaftStatus, Role};
pub use types::Peer;
