//! The agent's local database, sled 0.34.7, and the guard around it.
//!
//! Nothing that is promised to survive rests on it alone: what it loses is replayed from the spool. So a database that does not open,
//! panics or is empty where it should not be is set aside as `<dir>.damaged-<n>`, reported, and a new one is begun.
//!
//! ```text
//! <dir>            the database; tree "meta" holds the key "born" from its first moment on
//! <dir>.born       a file outside that says so too: with it and without the key, the database has lost what it held
//! <dir>.damaged-1  set aside; at most two are kept, the newest
//! ```
//! sled acknowledges a flush before all of it is on disk (it uses `sync_file_range`, and never syncs the directory), therefore
//! [`Database::sync`] follows each flush with an fsync of `<dir>/db` and of the directory.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::files;

const SEGMENT_BYTES: usize = 8 << 20;
const CACHE_BYTES: u64 = 16 << 20;
/// Databases set aside that are kept.
const DAMAGED_KEPT: usize = 2;
const BORN: &[u8] = b"born";

/// Why the local database failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// An operation failed.
    #[error("local database {path}: cannot {what}: {source}")]
    Sled {
        /// What was attempted.
        what: &'static str,
        /// Its directory.
        path: PathBuf,
        /// What sled says.
        source: sled::Error,
    },
    /// An operation panicked inside sled.
    #[error("local database {path}: {what} panicked: {message}")]
    Panicked {
        /// What was attempted.
        what: &'static str,
        /// Its directory.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
    /// It opened, but has lost what it held.
    #[error("local database {path}: unexpectedly empty")]
    Empty {
        /// Its directory.
        path: PathBuf,
    },
    /// It had failed and could not be opened again yet.
    #[error("local database {path}: cannot {what}: it is closed after a failure")]
    Closed {
        /// What was attempted.
        what: &'static str,
        /// Its directory.
        path: PathBuf,
    },
    /// A file operation around it failed.
    #[error("local database {path}: cannot {what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The database.
#[derive(Debug)]
pub struct Database {
    dir: PathBuf,
    /// Nothing between a failed attempt to open it again and the next.
    open: RwLock<Option<Open>>,
}

/// The open database and its trees.
#[derive(Debug)]
pub(super) struct Open {
    db: sled::Db,
    /// Pages of blocks; this and the next two are [`super::SledBlocks`]'.
    pub(super) pages: sled::Tree,
    /// The blocks there are.
    pub(super) blocks: sled::Tree,
    /// The blocks set aside.
    pub(super) quarantined: sled::Tree,
    /// What is known of devices: [`super::Memories`]'.
    pub(super) devices: sled::Tree,
}

/// What opening did.
#[derive(Debug)]
pub struct Opened {
    /// The database.
    pub database: Database,
    /// Where a damaged one was put and why, if there was one.
    pub set_aside: Option<(PathBuf, String)>,
}

impl Database {
    /// Opens or creates the database in `dir`. A damaged one is set aside.
    ///
    /// # Errors
    /// Not even a new database can be opened, or the damaged one cannot be set aside.
    pub fn open(dir: &Path) -> Result<Opened, DatabaseError> {
        match Self::attempt(dir) {
            Ok(database) => Ok(Opened { database, set_aside: None }),
            Err(error) => {
                let kept = set_aside(dir)?;
                tracing::error!(%error, kept_at = %kept.display(), "the local database is set aside; its content is replayed from the spool as far as that reaches");
                let database = Self::attempt(dir)?;
                Ok(Opened { database, set_aside: Some((kept, error.to_string())) })
            }
        }
    }

    fn attempt(dir: &Path) -> Result<Self, DatabaseError> {
        let database = Self { dir: dir.to_owned(), open: RwLock::new(Some(open(dir)?)) };
        let born = marker(dir);
        if !born.exists() {
            database.sync()?;
            files::replace(&born, b"the local database beside this file has been created\n").map_err(|source| DatabaseError::Io {
                what: "write",
                path: born,
                source,
            })?;
        }
        Ok(database)
    }

    /// Opens it again after a failure: sled does not recover from a failed write by itself. What was synced is there again.
    ///
    /// # Errors
    /// It does not open now; it stays closed until this is called again.
    pub fn revive(&self) -> Result<(), DatabaseError> {
        let mut present = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // The old one is closed first, since it holds the lock of the directory.
        if let Some(old) = present.take() {
            guarded("close", &self.dir, || {
                drop(old);
                Ok(())
            })?;
        }
        *present = Some(open(&self.dir)?);
        Ok(())
    }

    /// Runs an operation of sled; a panic in it is an error.
    ///
    /// # Errors
    /// The operation's own, or its panic.
    pub(super) fn run<T>(&self, what: &'static str, operation: impl FnOnce(&Open) -> sled::Result<T>) -> Result<T, DatabaseError> {
        let present = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = present.as_ref().ok_or_else(|| DatabaseError::Closed { what, path: self.dir.clone() })?;
        guarded(what, &self.dir, || operation(open))
    }

    /// Makes everything written so far durable. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<(), DatabaseError> {
        self.run("flush", |open| open.db.flush())?;
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        for path in [self.dir.join("db"), self.dir.clone()] {
            sync(&path).map_err(|source| DatabaseError::Io { what: "sync", path, source })?;
        }
        Ok(())
    }

    /// Bytes it takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.run("measure", |open| open.db.size_on_disk()).unwrap_or(0)
    }
}

fn open(dir: &Path) -> Result<Open, DatabaseError> {
    let (open, known) = guarded("open", dir, || {
        let config = sled::Config::new().path(dir).segment_size(SEGMENT_BYTES).cache_capacity(CACHE_BYTES).use_compression(false);
        let db = config.open()?;
        let meta = db.open_tree("meta")?;
        let known = meta.insert(BORN, b"1")?.is_some();
        let tree = |name: &str| db.open_tree(name);
        let (pages, blocks, quarantined, devices) = (tree("pages")?, tree("blocks")?, tree("quarantined")?, tree("devices")?);
        Ok((Open { db, pages, blocks, quarantined, devices }, known))
    })?;
    if known || !marker(dir).exists() { Ok(open) } else { Err(DatabaseError::Empty { path: dir.to_owned() }) }
}

fn marker(dir: &Path) -> PathBuf {
    dir.with_extension("born")
}

fn guarded<T>(what: &'static str, dir: &Path, operation: impl FnOnce() -> sled::Result<T>) -> Result<T, DatabaseError> {
    // Nothing of ours is changed inside; of sled's state, what a panic left behind is not used again but set aside.
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(DatabaseError::Sled { what, path: dir.to_owned(), source }),
        Err(panic) => Err(DatabaseError::Panicked { what, path: dir.to_owned(), message: crate::vital::panic_message(&*panic) }),
    }
}

/// Renames the directory and removes the marker; keeps the newest of those set aside.
fn set_aside(dir: &Path) -> Result<PathBuf, DatabaseError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| DatabaseError::Io { what, path, source }
    };
    let mut taken = damaged(dir);
    let number = taken.last().map_or(1, |(number, _)| number + 1);
    let kept = dir.with_extension(format!("damaged-{number}"));
    if dir.exists() {
        fs::rename(dir, &kept).map_err(io("set aside", dir))?;
    }
    match fs::remove_file(marker(dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &marker(dir))(e)),
        _ => {}
    }
    let parent = dir.parent().unwrap_or(Path::new("."));
    files::sync_directory(parent).map_err(io("sync", parent))?;
    taken.push((number, kept.clone()));
    for (_, old) in taken.iter().rev().skip(DAMAGED_KEPT) {
        let removed = if old.is_dir() { fs::remove_dir_all(old) } else { fs::remove_file(old) };
        if let Err(error) = removed {
            tracing::warn!(path = %old.display(), %error, "cannot remove an old damaged database");
        }
    }
    Ok(kept)
}

/// The databases set aside, oldest first.
fn damaged(dir: &Path) -> Vec<(u64, PathBuf)> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let prefix = format!("{}.damaged-", dir.file_name().unwrap_or_default().to_string_lossy());
    let numbered = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.strip_prefix(&prefix)?.parse().ok()?;
        Some((number, path))
    };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries.filter_map(|entry| numbered(entry.path())).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(dir: &Path) {
        let database = Database::open(dir).unwrap().database;
        database.run("write", |open| open.devices.insert(b"k", b"v")).unwrap();
        database.sync().unwrap();
    }

    fn value(opened: &Opened) -> Option<Vec<u8>> {
        opened.database.run("read", |open| open.devices.get(b"k")).unwrap().map(|v| v.to_vec())
    }

    #[test]
    fn what_was_synced_is_there_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("local");
        fill(&dir);
        let opened = Database::open(&dir).unwrap();
        assert!(opened.set_aside.is_none());
        assert_eq!(value(&opened).unwrap(), b"v");
    }

    #[test]
    fn opened_again_it_has_what_was_synced() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("local");
        fill(&dir);
        let opened = Database::open(&dir).unwrap();
        opened.database.revive().unwrap();
        assert_eq!(value(&opened).unwrap(), b"v");
    }

    /// Damages the database, opens it, and expects a usable empty one with the damaged one beside it.
    fn check(damage: impl FnOnce(&Path)) -> String {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("local");
        fill(&dir);
        damage(&dir);
        let opened = Database::open(&dir).unwrap();
        let (kept, why) = opened.set_aside.clone().unwrap();
        assert_eq!(kept, temp.path().join("local.damaged-1"));
        assert!(kept.exists());
        assert_eq!(value(&opened), None);
        drop(opened);
        fill(&dir);
        let again = Database::open(&dir).unwrap();
        assert!(again.set_aside.is_none() && value(&again).is_some());
        why
    }

    #[test]
    fn an_emptied_directory_is_set_aside() {
        let why = check(|dir| {
            fs::remove_dir_all(dir).unwrap();
            fs::create_dir(dir).unwrap();
        });
        assert!(why.contains("unexpectedly empty"), "{why}");
    }

    #[test]
    fn garbage_in_the_files_is_set_aside() {
        check(|dir| {
            for name in ["db", "conf"] {
                fs::write(dir.join(name), vec![0xA5; 100_000]).unwrap();
            }
        });
        check(|dir| fs::write(dir.join("db"), b"").unwrap());
    }

    #[test]
    fn a_file_in_its_place_is_set_aside() {
        check(|dir| {
            fs::remove_dir_all(dir).unwrap();
            fs::write(dir, b"not a directory").unwrap();
        });
    }

    #[test]
    fn a_panic_is_an_error_that_says_so() {
        let error = guarded::<()>("open", Path::new("/d"), || panic!("index out of bounds")).unwrap_err();
        assert_eq!(error.to_string(), "local database /d: open panicked: index out of bounds");
    }

    #[test]
    fn only_the_newest_damaged_ones_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("local");
        for _ in 0..4 {
            fill(&dir);
            fs::write(dir.join("db"), b"").unwrap();
            Database::open(&dir).unwrap();
        }
        let numbers: Vec<u64> = damaged(&dir).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [3, 4]);
    }
}
