//! From samples to batches: names series by dense references, fills batches, seals them by size or age.
//!
//! ```text
//! device tasks --round()--> bounded queue --> batcher thread --+--> local store (each sample, at once)
//!                 |                                            +--> spool (each sealed part)
//!                 +-- full: refused and counted
//! ```
//! Promises: a reference is defined in the same batch as its first sample or an earlier one of its dictionary; nothing is dropped
//! without a counter. Owns no sequence: the spool gives those.

mod batcher;
mod registry;

pub use batcher::{Batcher, BatcherStatus, SinkHandle};
pub use registry::SERIES_MAX;

#[cfg(test)]
mod tests;
