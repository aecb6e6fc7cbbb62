//! Everything that can go wrong with a log, cloneable because one failed fsync fails a whole group of callers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an operation on a [`Log`](crate::Log) failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The directory is held by another process or another handle of this one.
    #[error("log {}: already open elsewhere, its lock file is held", dir.display())]
    Locked {
        /// Directory of the log.
        dir: PathBuf,
    },
    /// The operating system refused; `action` says what was attempted.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: `"write"`, `"sync"`, ...
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The error as reported.
        source: Arc<io::Error>,
    },
    /// A record that was stored cannot be read back. The records around it are unaffected.
    #[error("{}: record {index} at byte {offset} is lost: {reason}", path.display())]
    Corrupt {
        /// Segment file.
        path: PathBuf,
        /// Byte offset in the file where the damage starts.
        offset: u64,
        /// Index of the record.
        index: u64,
        /// What did not fit.
        reason: &'static str,
    },
    /// A segment was written by a newer version of this software. Nothing was touched.
    #[error("{}: segment format version {version}, this build knows only {known}", path.display())]
    UnsupportedVersion {
        /// Segment file.
        path: PathBuf,
        /// Version found.
        version: u16,
        /// Version this build writes.
        known: u16,
    },
    /// A record, a meta value or a whole append is over its limit. Nothing was appended.
    #[error("{what} of {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// `"record"`, `"meta value"` or `"append"`.
        what: &'static str,
        /// Size offered.
        bytes: u64,
        /// Size allowed.
        limit: u64,
    },
    /// A truncation or reset would reach below what was purged.
    #[error("cannot {action} at index {asked}: everything below {first} is purged")]
    BelowFirst {
        /// `"truncate"` or `"reset"`.
        action: &'static str,
        /// Index asked for.
        asked: u64,
        /// First index of the log.
        first: u64,
    },
    /// The record builder given to [`Log::append_built`](crate::Log::append_built) failed; no index was used.
    #[error("record {index} was not built: {message}")]
    Build {
        /// Index the record would have had.
        index: u64,
        /// What the builder said.
        message: String,
    },
    /// The writer's queue has no room, or a truncation is under way. Wait with [`Log::room`](crate::Log::room) and retry.
    #[error("log {}: writer queue is full ({requests} requests, {bytes} bytes)", dir.display())]
    QueueFull {
        /// Directory of the log.
        dir: PathBuf,
        /// Requests waiting.
        requests: usize,
        /// Bytes waiting or being written.
        bytes: usize,
    },
    /// The log was closed.
    #[error("log {}: closed", dir.display())]
    Closed {
        /// Directory of the log.
        dir: PathBuf,
    },
}

impl LogError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    /// True when the disk (or quota) is full: the same append succeeds, with the same index, once space returns.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
