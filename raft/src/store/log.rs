//! The Raft log and the vote in one `shared/log`.
//!
//! Entries are records under their own index; vote, commit index, purge position and owner are meta records of the same log.
//! The commit index only spares a restarted hub from answering with an old state, so it is written about twice a second, not
//! with each commit.
//!
//! openraft purges the log of a follower as soon as it *begins* to install a snapshot. Until the state machine has it durably,
//! such a purge is only remembered: a crash in between finds the old state and the old log.

use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anemone_log::{Log, LogError, LogOptions, LogStats};
use anemone_wire::cbor;
use bytes::Bytes;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, LogIdOptionExt, OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::entry;
use crate::error::RaftError;
use crate::network::APPEND_BYTES_MAX;
use crate::types::{LogEntry, LogId, StorageError, StorageIoError, TypeConfig, Vote};

const VOTE: u8 = 1;
const COMMITTED: u8 = 2;
const PURGED: u8 = 3;
const OWNER: u8 = 4;

/// A handle to the log; clones are readers of the same.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    dir: PathBuf,
    marks: Mutex<Marks>,
    /// From the state machine: one past what is sealed.
    sealed_below: watch::Receiver<u64>,
    settling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Marks {
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    committed_saved: Option<LogId>,
    /// A purge that waits for the seal.
    deferred: Option<LogId>,
}

/// Sizes for the sealing policy and the status.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogSize {
    /// First index held.
    pub(crate) first: u64,
    /// One past the last index held.
    pub(crate) end: u64,
    pub(crate) stats: LogStats,
    pub(crate) committed: Option<LogId>,
}

impl LogStore {
    /// Opens the log of hub `me`. `sealed` is the last entry the state machine has durably: what is damaged up to there is
    /// purged, as it is not needed; damage above is an error.
    pub(crate) async fn open(
        dir: &Path,
        options: LogOptions,
        me: u64,
        sealed: Option<LogId>,
        sealed_below: watch::Receiver<u64>,
    ) -> Result<Self, RaftError> {
        let bad = |why: String| RaftError::BadLog { path: dir.to_owned(), why };
        let path = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Log::open(&path, options)).await;
        let (log, report) = opened.map_err(|e| bad(e.to_string()))??;
        own(&log, dir, me).await?;
        if !report.is_clean() {
            tracing::error!(dir = %dir.display(), ?report, "the raft log is damaged");
        }
        if let Some(lost) = report.lost.iter().find(|lost| lost.to > sealed.next_index()) {
            let file = lost.path.display();
            let why = format!("records {} to {} of {file} are lost from byte {}", lost.from, lost.to - 1, lost.offset);
            return Err(bad(format!("{why}; the state machine is sealed only below {}", sealed.next_index())));
        }
        let purged: Option<LogId> = read_meta(&log, PURGED).map_err(bad)?;
        let committed: Option<LogId> = read_meta(&log, COMMITTED).map_err(bad)?;
        if log.first_index() > purged.next_index() {
            return Err(bad(format!("purged below {}, but recorded only up to {purged:?}", log.first_index())));
        }
        let marks = Marks { purged, last: purged, committed, committed_saved: committed, deferred: None };
        let inner = Inner { log, dir: dir.to_owned(), marks: Mutex::new(marks), sealed_below, settling: tokio::sync::Mutex::default() };
        let store = Self { inner: Arc::new(inner) };
        store.inner.log.purge_prefix(purged.next_index()).await?;
        if let (false, Some(sealed)) = (report.lost.is_empty(), sealed) {
            tracing::warn!(below = sealed.index + 1, "purging the damaged part of the raft log, which is sealed");
            store.purge_now(sealed).await?;
        }
        let last = store.inner.log.next_index().checked_sub(1).filter(|last| *last >= store.inner.log.first_index());
        if let Some(last) = last {
            let id = store.id_at(last).await.map_err(|e| bad(e.to_string()))?;
            store.marks().last = Some(id);
        }
        Ok(store)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.inner.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn size(&self) -> LogSize {
        let marks = self.marks();
        let first = marks.purged.next_index();
        LogSize { first, end: marks.last.next_index().max(first), stats: self.inner.log.stats(), committed: marks.committed }
    }

    /// Writes the commit index if it moved.
    pub(crate) async fn save_commit_index(&self) -> Result<(), RaftError> {
        let committed = {
            let marks = self.marks();
            if marks.committed == marks.committed_saved {
                return Ok(());
            }
            marks.committed
        };
        let value = encode_meta(&committed).map_err(|e| self.bad(e))?;
        self.inner.log.write_meta(COMMITTED, value).await?;
        self.marks().committed_saved = committed;
        Ok(())
    }

    /// Flushes and releases the directory.
    pub(crate) async fn close(&self) -> Result<(), RaftError> {
        let saved = self.save_commit_index().await;
        self.inner.log.clone().close().await;
        saved
    }

    fn bad(&self, why: String) -> RaftError {
        RaftError::BadLog { path: self.inner.dir.clone(), why }
    }

    /// Reads `from..to`, at most `max_bytes` but one entry at least. A record that cannot be used is an error that names it.
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<LogEntry>, StorageError> {
        let log = self.inner.log.clone();
        let from = from.max(self.marks().purged.next_index());
        let records = tokio::task::spawn_blocking(move || read_all(&log, from, to, max_bytes)).await;
        let records = records.map_err(|e| StorageIoError::read_logs(AnyError::error(e)))?.map_err(|e| corrupt(&e))?;
        let mut entries = Vec::with_capacity(records.len());
        for (index, record) in records {
            entries.push(entry::decode(index, &record).map_err(|why| {
                let text = format!("raft log {}: record {index}: {why}", self.inner.dir.display());
                StorageIoError::read_log_at_index(index, AnyError::error(text))
            })?);
        }
        Ok(entries)
    }

    async fn id_at(&self, index: u64) -> Result<LogId, StorageError> {
        let entries = self.read(index, index + 1, usize::MAX).await?;
        let missing = || {
            StorageIoError::read_log_at_index(index, AnyError::error(format!("raft log {}: no record {index}", self.inner.dir.display())))
        };
        entries.first().map(|entry| entry.log_id).ok_or_else(|| missing().into())
    }

    async fn purge_now(&self, upto: LogId) -> Result<(), RaftError> {
        let value = encode_meta(&Some(upto)).map_err(|e| self.bad(e))?;
        self.inner.log.write_meta(PURGED, value).await?;
        self.inner.log.purge_prefix(upto.index + 1).await?;
        let mut marks = self.marks();
        marks.purged = marks.purged.max(Some(upto));
        marks.last = marks.last.max(Some(upto));
        Ok(())
    }

    /// Carries out a deferred purge once the state machine is sealed that far.
    async fn settle(&self) -> Result<(), RaftError> {
        let _one = self.inner.settling.lock().await;
        loop {
            let Some(upto) = self.marks().deferred else { return Ok(()) };
            let mut sealed = self.inner.sealed_below.clone();
            let gone = sealed.wait_for(|below| *below > upto.index).await.is_err();
            if gone {
                return Err(self.bad(format!("purge up to {} waits for a state machine that is gone", upto.index)));
            }
            self.purge_now(upto).await?;
            let mut marks = self.marks();
            if marks.deferred == Some(upto) {
                marks.deferred = None;
            }
        }
    }

    /// The records of an append, after making sure that they continue the log.
    async fn prepare(&self, entries: &[LogEntry]) -> Result<Vec<Bytes>, StorageError> {
        let failed = |why: String| StorageIoError::write_logs(AnyError::error(format!("raft log {}: {why}", self.inner.dir.display())));
        self.settle().await.map_err(|e| failed(e.to_string()))?;
        let mut records = Vec::with_capacity(entries.len());
        for (position, entry) in (entries[0].log_id.index..).zip(entries) {
            if entry.log_id.index != position {
                return Err(failed(format!("entry {} where {position} was expected", entry.log_id.index)).into());
            }
            records.push(entry::encode(entry).map_err(|e| failed(e.to_string()))?);
        }
        let (first, next, log) = (entries[0].log_id.index, self.inner.log.next_index(), &self.inner.log);
        if first != next {
            // Only an empty log may begin elsewhere.
            if first < next || log.first_index() != next {
                return Err(failed(format!("append at {first}, but the log ends before {next}")).into());
            }
            log.reset(first).await.map_err(|e| failed(e.to_string()))?;
        }
        Ok(records)
    }
}

/// Notes whose log this is, and refuses another hub's.
async fn own(log: &Log, dir: &Path, me: u64) -> Result<(), RaftError> {
    match log.meta(OWNER) {
        None => Ok(log.write_meta(OWNER, Bytes::copy_from_slice(&me.to_le_bytes())).await?),
        Some(owner) if *owner == me.to_le_bytes() => Ok(()),
        Some(owner) => {
            let found = owner.as_ref().try_into().map(u64::from_le_bytes).unwrap_or_default();
            Err(RaftError::OtherHub { path: dir.to_owned(), found, configured: me })
        }
    }
}

/// A range of the log ends early before a damaged record; reading goes on so that the damage is told.
fn read_all(log: &Log, from: u64, to: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
    let to = to.min(log.next_index());
    let mut records = log.read_range(from, to, max_bytes)?;
    if max_bytes == usize::MAX {
        while let Some((last, _)) = records.last().filter(|(last, _)| last + 1 < to) {
            let more = log.read_range(last + 1, to, max_bytes)?;
            if more.is_empty() {
                break;
            }
            records.extend(more);
        }
    }
    Ok(records)
}

fn encode_meta<T: Serialize>(value: &T) -> Result<Bytes, String> {
    cbor::to_vec("meta record", value).map(Bytes::from).map_err(|e| e.to_string())
}

fn read_meta<T: DeserializeOwned>(log: &Log, key: u8) -> Result<Option<T>, String> {
    let Some(value) = log.meta(key) else { return Ok(None) };
    cbor::from_slice("meta record", &value, anemone_log::META_MAX).map_err(|e| format!("meta record {key}: {e}"))
}

fn corrupt(error: &LogError) -> StorageError {
    let source = AnyError::new(error);
    match error {
        LogError::Corrupt { index, .. } => StorageIoError::read_log_at_index(*index, source).into(),
        _ => StorageIoError::read_logs(source).into(),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<LogEntry>, StorageError>
    where
        R: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.read(start, end, APPEND_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let marks = self.marks();
        Ok(LogState { last_purged_log_id: marks.purged, last_log_id: marks.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let value = encode_meta(vote).map_err(|e| StorageIoError::write_vote(AnyError::error(e)))?;
        self.inner.log.write_meta(VOTE, value).await.map_err(|e| StorageIoError::write_vote(AnyError::new(&e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        read_meta(&self.inner.log, VOTE).map_err(|e| StorageIoError::read_vote(AnyError::error(e)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.marks().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let marks = self.marks();
        // Never beyond what is there, should the log have lost its tail.
        Ok(marks.committed.min(marks.last))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // What a snapshot covers already need not be written.
        let purged = self.marks().purged.next_index();
        let entries: Vec<LogEntry> = entries.into_iter().filter(|entry| entry.log_id.index >= purged).collect();
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let failed = |e: LogError| StorageError::from(StorageIoError::write_logs(AnyError::new(&e)));
        let records = self.prepare(&entries).await?;
        drop(entries);
        let bytes = records.iter().map(Bytes::len).sum();
        // The callback is given away with the records, so room is made sure of before.
        let callback = Arc::new(Mutex::new(Some(callback)));
        loop {
            self.inner.log.room(bytes).await.map_err(failed)?;
            let callback = Arc::clone(&callback);
            let done = move |result: Result<u64, LogError>| {
                let callback = callback.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(callback) = callback {
                    callback.log_io_completed(result.map(|_| ()).map_err(io::Error::other));
                }
            };
            match self.inner.log.append_with(records.clone(), done) {
                Ok(()) => break,
                Err(LogError::QueueFull { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.marks().last = Some(last);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let failed =
            |e: &dyn std::fmt::Display| StorageIoError::write_logs(AnyError::error(format!("truncating at {}: {e}", log_id.index)));
        self.settle().await.map_err(|e| failed(&e))?;
        self.inner.log.truncate_suffix(log_id.index).await.map_err(|e| failed(&e))?;
        let last = match log_id.index.checked_sub(1).filter(|index| *index >= self.inner.log.first_index()) {
            Some(index) => Some(self.id_at(index).await?),
            None => self.marks().purged,
        };
        self.marks().last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let failed =
            |e: RaftError| StorageError::from(StorageIoError::write_logs(AnyError::error(format!("purging up to {}: {e}", log_id.index))));
        if *self.inner.sealed_below.borrow() > log_id.index {
            return self.purge_now(log_id).await.map_err(failed);
        }
        {
            let mut marks = self.marks();
            marks.purged = marks.purged.max(Some(log_id));
            marks.last = marks.last.max(Some(log_id));
            marks.deferred = marks.deferred.max(Some(log_id));
        }
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.settle().await {
                tracing::error!(%error, "could not purge the raft log");
            }
        });
        Ok(())
    }
}
