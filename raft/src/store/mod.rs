//! Where Raft keeps things: entries and the vote in `shared/log`, what is applied in the state machine.

mod entry;
mod log;
#[cfg(test)]
mod log_tests;
mod machine;
#[cfg(test)]
mod suite;

pub(crate) use entry::{payload_from, payload_parts};
pub(crate) use log::LogStore;
pub(crate) use machine::Machine;
