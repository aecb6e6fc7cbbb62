//! What can go wrong in the store, kept apart by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use anemone_model::{Labels, SeriesId};

use crate::backend::BlockId;

/// Why the store or a place for blocks could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Two different label sets have one id: the second is refused, the first goes on.
    #[error("series {offered} has the id {id:?}, which already belongs to {existing}: refused")]
    Collision {
        /// The shared id.
        id: SeriesId,
        /// The series that holds it.
        existing: Labels,
        /// The series that was refused.
        offered: Labels,
    },
    /// The configured number of series is reached.
    #[error("the store holds {limit} series, its limit: a new one is refused")]
    SeriesLimit {
        /// [`crate::StoreOptions::max_series`].
        limit: u32,
    },
    /// A file operation failed; may pass (disk full, too many open files).
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another kind of place for blocks failed, such as a local database.
    #[error("cannot {action} of block {block}: {reason}")]
    Backend {
        /// What was attempted, as a verb with its object.
        action: &'static str,
        /// Which block.
        block: BlockId,
        /// What the place said.
        reason: String,
    },
    /// The block or the page is not there.
    #[error("block {block} has no page {page}")]
    Missing {
        /// Which block.
        block: BlockId,
        /// Which page.
        page: u32,
    },
    /// The stored bytes are not what was written.
    #[error("block {block}, {}: {what}", page.map_or_else(|| "directory".to_owned(), |p| format!("page {p}")))]
    Corrupt {
        /// Which block.
        block: BlockId,
        /// Which page; none for what is around the pages.
        page: Option<u32>,
        /// What is wrong with it.
        what: String,
    },
    /// Written by a newer release; nothing is wrong with it.
    #[error("block {block} has format version {found}, newer than {supported}, which is the newest known here")]
    Version {
        /// Which block.
        block: BlockId,
        /// The version found.
        found: u16,
        /// The newest readable one.
        supported: u16,
    },
    /// A block would have a page or an index over the format's limits.
    #[error("block {block} cannot be written: {what}")]
    TooLarge {
        /// Which block.
        block: BlockId,
        /// Which limit.
        what: String,
    },
}

impl StoreError {
    /// Bytes that are not as written, at a page.
    pub(crate) fn corrupt(block: BlockId, page: impl Into<Option<u32>>, what: impl Into<String>) -> Self {
        Self::Corrupt { block, page: page.into(), what: what.into() }
    }

    /// Whether the stored bytes are bad, so that trying again does not help.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Missing { .. })
    }
}
