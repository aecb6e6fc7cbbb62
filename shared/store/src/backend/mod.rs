//! Where blocks live: numbered pages of at most [`PAGE_MAX`] bytes, kept together under a block id.
//!
//! The format of a page is the store's own business; a place for blocks keeps bytes, nothing more. It promises that a block is either
//! wholly there or not listed, also after a crash at any instant.

mod file;
mod memory;

use std::fmt;

use bytes::Bytes;

pub use file::{ExportedBlock, FileBlocks};
pub use memory::MemoryBlocks;

use crate::error::StoreError;

/// Most bytes of a page, its checksum included.
pub const PAGE_MAX: usize = 64 * 1024;

/// Names a block in the place where it lives; a higher one was written later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl fmt::Display for BlockId {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place where blocks live. Called from several threads; only one block is written at a time.
///
/// Damage is reported as [`StoreError::Corrupt`] or [`StoreError::Missing`]: the store then sets the block aside or skips the page. Any
/// other error is taken to be passing: the store keeps the block and reports.
pub trait BlockStore: Send + Sync + fmt::Debug {
    /// An id higher than every one that is or was here in this process' life, those set aside included. Never given twice.
    fn next_id(&self) -> BlockId;

    /// The complete blocks, ascending.
    ///
    /// # Errors
    /// The place cannot be read at all.
    fn list(&self) -> Result<Vec<BlockId>, StoreError>;

    /// Writes a block from its pages, numbered from 0 in the order given. Each has 1 to [`PAGE_MAX`] bytes. When this returns `Ok` the block is durable and
    /// listed; when it returns an error, or the process dies, it is not listed and its remains are removed by and by. An error
    /// from `pages` ends the writing and is returned as it is. Returns the bytes the block takes.
    ///
    /// # Errors
    /// The place is full or broken, or `pages` gave an error.
    fn write(&self, id: BlockId, pages: &mut dyn Iterator<Item = Result<Bytes, StoreError>>) -> Result<u64, StoreError>;

    /// How many pages a listed block has. The last one is the block's root, the first the store reads.
    ///
    /// # Errors
    /// The block is not there or damaged.
    fn page_count(&self, id: BlockId) -> Result<u32, StoreError>;

    /// One page as it was written. Checksums are inside the pages and checked by the store.
    ///
    /// # Errors
    /// The block or page is not there, damaged or unreadable.
    fn read_page(&self, id: BlockId, page: u32) -> Result<Bytes, StoreError>;

    /// Bytes a listed block takes.
    ///
    /// # Errors
    /// The block is not there.
    fn bytes(&self, id: BlockId) -> Result<u64, StoreError>;

    /// Removes a block; `Ok` also where it is not there. Blocks are never deleted while the store reads them.
    ///
    /// # Errors
    /// The place refused; the block may still be listed.
    fn delete(&self, id: BlockId) -> Result<(), StoreError>;

    /// Sets a damaged block aside for a person to look at: no longer listed, its bytes kept where the place can. `reason` is for the
    /// place's own record or log.
    ///
    /// # Errors
    /// The place refused; the block may still be listed.
    fn quarantine(&self, id: BlockId, reason: &str) -> Result<(), StoreError>;

    /// The blocks set aside, now or in an earlier life, ascending.
    ///
    /// # Errors
    /// The place cannot be read at all.
    fn quarantined(&self) -> Result<Vec<BlockId>, StoreError>;
}
