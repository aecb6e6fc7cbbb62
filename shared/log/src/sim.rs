//! A disk in memory that knows what was synced, can lose power, run full and fail. For tests, of other crates too:
//! they get it with the feature `sim`.
//!
//! Harsher than the real ones: unsynced writes survive in any combination of 512-byte sectors, some of them garbled; unsynced
//! directory changes survive one by one; a new file's entry needs `sync_dir` even when its contents are synced; after a failed
//! sync the unsynced bytes are readable but never written, and the next sync succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::{DirLock, Disk, DiskFile};
use crate::{Log, LogError, LogOptions, OpenReport};

const SECTOR: u64 = 512;

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<(Mutex<SimState>, Condvar)>,
}

#[derive(Clone, Default)]
struct SimState {
    inodes: Vec<Inode>,
    entries: BTreeMap<PathBuf, usize>,
    synced_entries: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    faults: Faults,
}

/// What goes wrong next. Countdowns: 0 fails the next one, once.
#[derive(Clone, Default)]
pub struct Faults {
    /// Bytes all files together may have.
    pub capacity: Option<u64>,
    /// Syncs of files until one fails.
    pub sync_in: Option<u32>,
    /// Writes until one fails halfway.
    pub write_in: Option<u32>,
    /// Creations of files until one fails.
    pub create_in: Option<u32>,
    /// Changing operations until the power goes; from then on everything fails.
    pub power_in: Option<u32>,
    /// Syncs wait while this is set.
    pub stalled: bool,
    /// Bytes of a file that cannot be read.
    pub unreadable: Option<(PathBuf, Range<u64>)>,
}

#[derive(Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    contents: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone)]
enum Change {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Write {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, bytes) => {
                let end = *offset as usize + bytes.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                contents[*offset as usize..end].copy_from_slice(bytes);
            }
            Self::Length(len) => contents.resize(*len as usize, 0),
        }
    }

    /// As a power cut leaves it.
    fn apply_torn(&self, contents: &mut Vec<u8>, random: &mut StdRng) {
        let Self::Bytes(offset, bytes) = self else {
            if random.random_bool(0.5) {
                self.apply(contents);
            }
            return;
        };
        let mut at = 0;
        while at < bytes.len() {
            let to_boundary = (SECTOR - (offset + at as u64) % SECTOR) as usize;
            let part = &bytes[at..(at + to_boundary).min(bytes.len())];
            let place = offset + at as u64;
            match random.random_range(0..8) {
                0..=3 => Self::Bytes(place, part.to_vec()).apply(contents),
                4 => {
                    let garbage = part.iter().map(|_| random.random()).collect();
                    Self::Bytes(place, garbage).apply(contents);
                }
                _ => {}
            }
            at += part.len();
        }
    }
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, inode) => drop(entries.insert(path.clone(), *inode)),
            Self::Unlink(path) => drop(entries.remove(path)),
            Self::Rename(from, to) => {
                if let Some(inode) = entries.remove(from) {
                    entries.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl SimState {
    /// Counts a changing operation towards the power cut.
    fn tick(&mut self) -> io::Result<()> {
        match &mut self.faults.power_in {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn free(&self) -> u64 {
        let used: u64 = self.entries.values().map(|inode| self.inodes[*inode].contents.len() as u64).sum();
        self.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used))
    }

    fn write(&mut self, inode: usize, write: Write) {
        let inode = &mut self.inodes[inode];
        write.apply(&mut inode.contents);
        inode.unsynced.push(write);
    }
}

fn due(countdown: &mut Option<u32>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl SimDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Opens a log on this disk; else as [`Log::open`].
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_log(&self, dir: &Path, options: LogOptions) -> Result<(Log, OpenReport), LogError> {
        Log::open_on(Arc::new(self.clone()), dir, options)
    }

    fn state(&self) -> MutexGuard<'_, SimState> {
        self.state.0.lock().expect("no test panics under this lock")
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
        self.state.1.notify_all();
    }

    /// The disk as it may be found after a power cut now. The old one goes on, unseen.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Arc<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let state = self.state();
        let mut entries = state.synced_entries.clone();
        for change in &state.changes {
            if random.random_bool(0.5) {
                change.apply(&mut entries);
            }
        }
        let mut after = SimState { synced_entries: entries.clone(), entries, ..SimState::default() };
        for inode in &state.inodes {
            let mut contents = inode.synced.clone();
            for write in &inode.unsynced {
                write.apply_torn(&mut contents, &mut random);
            }
            after.inodes.push(Inode { synced: contents.clone(), contents, unsynced: Vec::new() });
        }
        Arc::new(Self { state: Arc::new((Mutex::new(after), Condvar::new())) })
    }

    /// A copy of the disk as it is, everything synced, no lock held, no faults.
    #[must_use]
    pub fn copy(&self) -> Arc<Self> {
        let mut state = self.state().clone();
        state.synced_entries = state.entries.clone();
        state.changes.clear();
        state.locks.clear();
        state.faults = Faults::default();
        for inode in &mut state.inodes {
            inode.synced = inode.contents.clone();
            inode.unsynced.clear();
        }
        Arc::new(Self { state: Arc::new((Mutex::new(state), Condvar::new())) })
    }

    /// The files.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().entries.keys().filter(|path| path.extension().is_some()).cloned().collect()
    }

    /// The contents of a file that there is, as a reader finds them.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.entries[path]].contents.clone()
    }

    /// Changes a file behind the log's back, durably.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.entries[path];
        let inode = &mut state.inodes[inode];
        change(&mut inode.contents);
        inode.synced = inode.contents.clone();
        inode.unsynced.clear();
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: usize,
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirLock>> {
        let free = self.state().locks.insert(path.to_owned());
        Ok(free.then(|| Box::new(SimLock { disk: self.clone(), path: path.to_owned() }) as DirLock))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.entries.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = *self.state().entries.get(path).ok_or_else(not_found)?;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.tick()?;
        if due(&mut state.faults.create_in) {
            return Err(io::Error::other("injected create failure"));
        }
        if state.entries.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.entries.insert(path.to_owned(), inode);
        state.changes.push(Change::Link(path.to_owned(), inode));
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        let inode = state.entries.remove(from).ok_or_else(not_found)?;
        state.entries.insert(to.to_owned(), inode);
        state.changes.push(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        state.entries.remove(path).ok_or_else(not_found)?;
        state.changes.push(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        state.changes.clear();
        state.synced_entries = state.entries.clone();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].contents.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        if let Some((path, range)) = &state.faults.unreadable
            && *path == self.path
            && offset < range.end
            && range.start < offset + buf.len() as u64
        {
            return Err(io::Error::other("injected read failure"));
        }
        let contents = &state.inodes[self.inode].contents;
        let rest = contents.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.tick()?;
        if due(&mut state.faults.write_in) {
            let half = buf[..buf.len() / 2].to_vec();
            state.write(self.inode, Write::Bytes(offset, half));
            return Err(io::Error::other("injected write failure"));
        }
        let end = offset + buf.len() as u64;
        let growth = end.saturating_sub(state.inodes[self.inode].contents.len() as u64);
        let missing = growth.saturating_sub(state.free()).min(buf.len() as u64) as usize;
        state.write(self.inode, Write::Bytes(offset, buf[..buf.len() - missing].to_vec()));
        if missing > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.tick()?;
        state.write(self.inode, Write::Length(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.tick()?;
        let growth = len.saturating_sub(state.inodes[self.inode].contents.len() as u64);
        if growth > state.free() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.write(self.inode, Write::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (lock, released) = &*self.disk.state;
        let mut state = lock.lock().expect("no test panics under this lock");
        while state.faults.stalled {
            state = released.wait(state).expect("no test panics under this lock");
        }
        state.tick()?;
        let failed = due(&mut state.faults.sync_in);
        let inode = &mut state.inodes[self.inode];
        let writes = std::mem::take(&mut inode.unsynced);
        if failed {
            return Err(io::Error::other("injected sync failure"));
        }
        for write in writes {
            write.apply(&mut inode.synced);
        }
        Ok(())
    }
}
