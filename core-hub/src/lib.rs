//! The core hub: takes batches from agents, replicates them with Raft, keeps inventory and assignment, stores and answers.
//!
//! Every node of the group runs the same code. The leader takes batches and changes; any node answers queries from what it has
//! applied. See `ARCHITECTURE.md` for the picture and `DESIGN.md` beside this crate for its decisions.

pub mod api;
pub mod assign;
pub mod cli;
pub mod client;
pub mod config;
pub mod grpc;
pub mod ingest;
pub mod query;
pub mod run;
pub mod state;
pub mod text;
pub mod upkeep;
