//! Snapshots: immutable files that travel one by one.
//!
//! ```text
//! part 1        manifest: receiver, vote, snapshot meta, [(name, size)...]
//! parts         chunk (at most 256 KiB) ... checksum     once per file, in the order of the manifest
//! ```
//! The receiver writes below `<dir>/incoming-<n>`, fsyncs, and only then hands the directory to the state machine. What it
//! did not get whole, it removes.

mod receive;
mod send;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::state::{Export, ExportFile, RemoveOnDrop};
use crate::types::{SnapshotMeta, Vote};

pub(crate) use receive::{receive_files, receive_manifest};
pub(crate) use send::{encode_manifest, pump};

/// Bytes of a file in one message.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Most files in one snapshot.
pub(crate) const FILES_MAX: usize = 50_000;
const INCOMING: &str = "incoming-";

/// What openraft carries around as "snapshot data".
#[derive(Debug)]
pub(crate) enum SnapshotFiles {
    /// Ours, pinned for sending.
    Exported(Export),
    /// Another hub's, received whole.
    Received(RemoveOnDrop),
}

/// The first part of a transfer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) to: u64,
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    /// Name and size in bytes.
    pub(crate) files: Vec<(String, u64)>,
}

/// Where transfers are received: a fresh directory for each.
#[derive(Debug)]
pub(crate) struct IncomingDirs {
    root: PathBuf,
    next: AtomicU64,
}

impl IncomingDirs {
    /// Removes what earlier, interrupted transfers left below `root`.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(INCOMING) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { root: root.to_owned(), next: AtomicU64::new(1) })
    }

    pub(crate) fn create(&self) -> io::Result<RemoveOnDrop> {
        let dir = self.root.join(format!("{INCOMING}{}", self.next.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&dir)?;
        Ok(RemoveOnDrop::new(dir))
    }

    /// Puts the files of an export into a directory, as if they had been received.
    pub(crate) fn materialise(&self, files: &[ExportFile]) -> io::Result<RemoveOnDrop> {
        let dir = self.create()?;
        for file in files {
            let target = dir.path().join(checked_name(&file.name)?);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(&file.path, &target)?;
            std::fs::File::open(&target)?.sync_all()?;
        }
        Ok(dir)
    }
}

/// `name` as a path that stays below the directory it is joined to.
pub(crate) fn checked_name(name: &str) -> io::Result<&Path> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.len() <= 200
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if name.split('/').count() > 8 || !name.split('/').all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a name for a file of a snapshot")));
    }
    Ok(Path::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_directory() {
        for good in ["a", "head.bin", "blocks/2026-11-22/raw_1.blk"] {
            assert_eq!(checked_name(good).unwrap(), Path::new(good));
        }
        for bad in ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", ".hidden", "a b", "a\\b", "nul\0", "1/2/3/4/5/6/7/8/9"] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interrupted_transfers_are_removed_at_open() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join("incoming-7");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("part"), b"x").unwrap();
        let dirs = IncomingDirs::open(root.path()).unwrap();
        assert!(!left.exists());
        let dir = dirs.create().unwrap();
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
