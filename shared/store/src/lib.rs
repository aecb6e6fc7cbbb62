//! Series index, head, sealed blocks and retention, generic over where pages live.
//!
//! A [`Store`] is an in-memory head in front of immutable blocks. It has no log of its own: what is not sealed yet is replayed by the
//! caller from the log it came from ([`Store::covered`] says from where on). It owns neither clock nor thread: sealing, compaction and
//! retention happen when the caller asks, so that two stores fed alike hold the same. It never refuses to start over a damaged block.

pub mod backend;
mod block;
mod cache;
mod error;
mod head;
mod index;
pub mod matcher;
mod options;
mod store;
mod varint;

pub use backend::{BlockId, BlockStore, FileBlocks, MemoryBlocks};
pub use error::StoreError;
pub use head::{Appended, Refusal};
pub use index::SeriesRef;
pub use options::StoreOptions;
pub use store::{
    Compaction, Dropped, Listing, QuarantinedBlock, SealReason, SealSummary, SealedSnapshot, SelectedSeries, Selection, Stats, Store,
};
