//! A segmented, crash-safe, append-only log: the spool at the edge, the Raft log at the hub.
//!
//! Owns one directory of segment files, written by one thread with one sync per group of appends. Promises: what was
//! acknowledged survives a power cut at any moment, in order, under its index; nothing else is ever read back as a record;
//! damage is told with file, offset and index and never takes its neighbours with it. Refuses to interpret records, and to
//! share its directory. The file format is drawn in `format.rs`, the reasons stand in `DESIGN.md`.

mod core;
mod disk;
mod error;
mod format;
mod log;
mod recover;
mod report;
mod scan;
mod segment;
#[cfg(any(test, feature = "sim"))]
mod sim;
#[cfg(test)]
mod tests;
mod window;
mod writer;

pub use error::LogError;
pub use log::{APPEND_MAX, Log, META_MAX};
pub use report::{Damage, LogOptions, LogStats, LostRange, OpenReport, SegmentSummary};
#[cfg(any(test, feature = "sim"))]
pub use sim::{Faults, SimDisk};
