//! The contract between Raft and the replicated state machine.
//!
//! All methods block and are called on blocking threads, one at a time, except [`StateMachine::export`], which may run beside
//! any other.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// One committed log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log, from 0.
    pub index: u64,
    /// Term of the leader that appended it.
    pub term: u64,
    /// What was proposed. `None`: an entry of Raft itself (blank or membership).
    pub command: Option<Bytes>,
}

/// What is replicated. Deterministic: two machines that applied the same entries are equal.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies committed entries in order; one response for each (empty for `None` commands). Must not fail: a malformed
    /// command gives a response that says so. Need not be durable: entries after the last seal are applied again at start.
    fn apply(&self, entries: &[Entry]) -> Vec<Bytes>;

    /// Makes everything applied so far durable, together with `raft_meta`, which is opaque. The log may be purged up to there
    /// afterwards.
    ///
    /// # Errors
    /// Whatever kept it from being durable; Raft stops on it.
    fn seal(&self, raft_meta: Bytes) -> Result<(), StateError>;

    /// The `raft_meta` of the last seal or import found when the state machine was opened; `None` when it was empty.
    fn restored(&self) -> Option<Bytes>;

    /// The files of the last seal. Only called after one.
    ///
    /// # Errors
    /// Whatever kept the files from being pinned.
    fn export(&self) -> Result<Export, StateError>;

    /// Replaces all state by the files in `dir`, which has them under the names given by the exporter, contents fsynced.
    /// Durable on return, all or nothing across a crash. `dir` is removed afterwards, so files may be moved out of it.
    /// Returns the `raft_meta` that was sealed with them.
    ///
    /// # Errors
    /// Whatever kept the state from being replaced; Raft stops on it.
    fn import(&self, dir: &Path) -> Result<Bytes, StateError>;
}

/// Immutable files that together are one sealed state, kept alive until this is dropped.
pub struct Export {
    /// What was sealed with them.
    pub raft_meta: Bytes,
    /// The files.
    pub files: Vec<ExportFile>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl Export {
    /// `keep` holds the files alive and releases them when dropped; see [`RemoveOnDrop`].
    pub fn new(raft_meta: Bytes, files: Vec<ExportFile>, keep: impl Any + Send + Sync) -> Self {
        Self { raft_meta, files, _keep: Box::new(keep) }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("files", &self.files).finish_non_exhaustive()
    }
}

/// One file of an [`Export`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFile {
    /// Name it gets in the importer's directory: up to 8 components separated by `/`, each of `A-Z a-z 0-9 . _ -`, not
    /// beginning with a dot.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A directory that is removed with all it holds when this is dropped.
#[derive(Debug)]
pub struct RemoveOnDrop(PathBuf);

impl RemoveOnDrop {
    /// Takes over `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.0.display(), %error, "could not remove a temporary directory");
        }
    }
}

/// Why the state machine could not do what Raft asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}: {source}", path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
pub struct StateError {
    what: String,
    path: Option<PathBuf>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StateError {
    /// `what` was attempted, e.g. `"sealing the head"`.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), path: None, source: source.into() }
    }

    /// The same with the file or directory it was attempted on.
    pub fn at(what: impl Into<String>, path: impl Into<PathBuf>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), path: Some(path.into()), source: source.into() }
    }
}
