//! The handle: checks, enqueues and reads. All writing happens in [`crate::writer`].

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::core::{Content, Core, Done, Op, cost};
use crate::disk::{Disk, RealDisk};
use crate::error::LogError;
use crate::recover;
use crate::report::{LogOptions, LogStats, OpenReport, SegmentSummary};
use crate::writer::Writer;

/// Largest meta value, bytes: all of them are written again at the head of each segment.
pub const META_MAX: usize = 16 << 10;
/// Largest sum of records in one append, bytes, counting 28 bytes of header for each.
pub const APPEND_MAX: usize = 512 << 20;
/// Largest segment and record the u32 offsets leave room for.
const SEGMENT_MAX: u64 = 1 << 30;
const RECORD_MAX: u32 = 256 << 20;
/// Smallest segment that is worth a file.
const SEGMENT_MIN: u64 = 4096;

/// A segmented, crash-safe, append-only log. Clones are handles to the same log.
///
/// Records have consecutive `u64` indices; a new log starts at 0 (see [`Log::reset`]). The methods may be called from any
/// thread; [`Log::read`] and [`Log::read_range`] block on the disk. Dropping the last handle writes out what is queued and
/// waits for it; [`Log::close`] does the same without blocking the runtime.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = self.inner.core.content();
        f.debug_struct("Log")
            .field("dir", &self.inner.core.dir)
            .field("first", &content.state.floor)
            .field("next", &content.next())
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in `dir`, creating the directory if needed, and starts its writer thread. Blocks.
    ///
    /// A torn tail is cut; damage is reported and left where it is; neither keeps the log from opening.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::UnsupportedVersion`], or [`LogError::Io`] when the directory cannot be used at all.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Self, OpenReport), LogError> {
        Self::open_on(Arc::new(RealDisk), dir, options)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, dir: &Path, mut options: LogOptions) -> Result<(Self, OpenReport), LogError> {
        options.segment_bytes = options.segment_bytes.clamp(SEGMENT_MIN, SEGMENT_MAX);
        options.max_record_bytes = options.max_record_bytes.min(RECORD_MAX);
        disk.create_dir(dir).map_err(|error| LogError::io("create", dir, error))?;
        let lock_path = dir.join("lock");
        let lock = disk.lock(&lock_path).map_err(|error| LogError::io("lock", &lock_path, error))?;
        let lock = lock.ok_or_else(|| LogError::Locked { dir: dir.to_owned() })?;
        let found = recover::recover(disk.as_ref(), dir)?;
        let report = found.report.clone();
        let sequence = found.sequence;
        let core = Arc::new(Core::new(disk, dir.to_owned(), options, found));
        let writer = Writer::new(Arc::clone(&core), sequence, lock);
        let name = format!("log-{}", dir.file_name().unwrap_or_default().to_string_lossy());
        let thread = thread::Builder::new().name(name).spawn(move || writer.run());
        let thread = thread.map_err(|error| LogError::io("start the writer of", dir, error))?;
        Ok((Self { inner: Arc::new(Inner { core, writer: Mutex::new(Some(thread)) }) }, report))
    }

    fn core(&self) -> &Core {
        &self.inner.core
    }

    /// Lowest index held: exactly what was purged below, also while older records are still in a segment file.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.core().content().state.floor
    }

    /// Index the next append gets; appends not yet durable are counted.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.core().content().next()
    }

    /// All records below this are on disk.
    #[must_use]
    pub fn durable_index(&self) -> u64 {
        self.core().content().durable
    }

    /// Appends the records and returns the index of the first once all are on disk. Waits while the queue is full.
    /// The records are appended even if the future is dropped after its first poll.
    ///
    /// # Errors
    /// [`LogError::TooLarge`], [`LogError::Closed`], or [`LogError::Io`]: then the same indices are given again. A failed
    /// append may still be found after a crash that comes before the next successful one.
    pub async fn append(&self, records: Vec<Bytes>) -> Result<u64, LogError> {
        let bytes = self.check_records(&records)?;
        let (done, answer) = answer();
        self.enqueue(bytes, |content| Ok(Op::Append(content.next(), records)), done).await?;
        self.answered(answer).await
    }

    /// Appends the records, whose first index is [`Log::next_index`] as it was; `done` is called on the writer thread with
    /// that index once they are on disk, or with the error, and must not block. They are readable when this returns.
    ///
    /// # Errors
    /// [`LogError::QueueFull`], [`LogError::TooLarge`] or [`LogError::Closed`]; `done` is then not called.
    pub fn append_with(&self, records: Vec<Bytes>, done: impl FnOnce(Result<u64, LogError>) + Send + 'static) -> Result<(), LogError> {
        let bytes = self.check_records(&records)?;
        let mut content = self.core().content();
        self.check_open(&content)?;
        if !content.has_room(bytes) {
            self.core().queue_full.fetch_add(1, Ordering::Relaxed);
            let (requests, bytes) = (content.queue.len(), content.queued_bytes);
            return Err(LogError::QueueFull { dir: self.core().dir.clone(), requests, bytes });
        }
        let first = content.next();
        content.enqueue(Op::Append(first, records), bytes, Box::new(done));
        drop(content);
        self.core().work.notify_one();
        Ok(())
    }

    /// Waits until [`Log::append_with`] would accept `bytes` of records, as far as this caller is concerned.
    ///
    /// # Errors
    /// [`LogError::Closed`].
    pub async fn room(&self, bytes: usize) -> Result<(), LogError> {
        self.when_room(bytes, |_| Ok(())).await
    }

    /// Appends one record that is built from its own index. `build` runs under the log's lock, so it should only put the
    /// index into bytes prepared before; it must not call the log.
    ///
    /// # Errors
    /// [`LogError::Build`] when `build` fails: no index is used. Else as [`Log::append`].
    pub async fn append_built(&self, build: impl FnOnce(u64) -> Result<Bytes, String> + Send + 'static) -> Result<u64, LogError> {
        let limit = u64::from(self.core().options.max_record_bytes);
        let (done, answer) = answer();
        let make = |content: &Content| {
            let index = content.next();
            let record = build(index).map_err(|message| LogError::Build { index, message })?;
            check_size("record", record.len(), limit)?;
            Ok(Op::Append(index, vec![record]))
        };
        self.enqueue(0, make, done).await?;
        self.answered(answer).await
    }

    /// The record at `index`; `None` when it is purged or not yet appended. Blocks on the disk.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when it was stored and is damaged, [`LogError::Io`].
    pub fn read(&self, index: u64) -> Result<Option<Bytes>, LogError> {
        self.core().read(index)
    }

    /// The records from `from` (or the first held) up to `to` (exclusive), as many as fit into `max_bytes`, but one at least.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the first of them is damaged (a later one ends the range before it), [`LogError::Io`].
    pub fn read_range(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        let mut records = Vec::new();
        let mut bytes = 0_usize;
        for index in from.max(self.first_index())..to {
            match self.read(index) {
                Ok(Some(record)) => {
                    bytes = bytes.saturating_add(record.len());
                    if bytes > max_bytes && !records.is_empty() {
                        break;
                    }
                    records.push((index, record));
                }
                // Purged meanwhile: the range starts later.
                Ok(None) if records.is_empty() && index < self.first_index() => {}
                Ok(None) => break,
                Err(error) if records.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(records)
    }

    /// Removes the records at `from` and above; durable when it returns. The durable index goes back with it.
    ///
    /// # Errors
    /// [`LogError::BelowFirst`] when `from` is purged; [`LogError::Closed`], [`LogError::Io`].
    pub async fn truncate_suffix(&self, from: u64) -> Result<(), LogError> {
        self.control(0, |_| Op::Truncate(from)).await
    }

    /// Forgets the records below `below`; durable when it returns. Whole segment files are removed, [`Log::first_index`] is
    /// exact. Beyond the end of the log it acts as [`Log::reset`].
    ///
    /// # Errors
    /// [`LogError::Closed`], [`LogError::Io`].
    pub async fn purge_prefix(&self, below: u64) -> Result<(), LogError> {
        if below <= self.first_index() {
            return Ok(());
        }
        let op = |content: &Content| if below > content.next() { Op::Reset(below) } else { Op::Purge(below) };
        self.control(0, op).await
    }

    /// Drops every record and continues at `next_index`; durable when it returns. Meta records stay.
    ///
    /// # Errors
    /// [`LogError::BelowFirst`] when `next_index` is purged; [`LogError::Closed`], [`LogError::Io`].
    pub async fn reset(&self, next_index: u64) -> Result<(), LogError> {
        self.control(0, |_| Op::Reset(next_index)).await
    }

    /// Stores a small value under `key`; durable, and seen by [`Log::meta`], when it returns. It outlives purge and reset.
    ///
    /// # Errors
    /// [`LogError::TooLarge`] over [`META_MAX`]; [`LogError::Closed`], [`LogError::Io`].
    pub async fn write_meta(&self, key: u8, value: Bytes) -> Result<(), LogError> {
        check_size("meta value", value.len(), META_MAX as u64)?;
        self.control(value.len(), |_| Op::Meta(key, value)).await
    }

    /// The latest durable value under `key`.
    #[must_use]
    pub fn meta(&self, key: u8) -> Option<Bytes> {
        self.core().content().state.metas.get(&key).cloned()
    }

    /// Follows [`Log::durable_index`].
    #[must_use]
    pub fn subscribe_durable(&self) -> watch::Receiver<u64> {
        self.core().durable.subscribe()
    }

    /// Sizes and counters.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.core().stats()
    }

    /// The segment files, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentSummary> {
        self.core().content().segments.iter().map(crate::segment::Segment::summary).collect()
    }

    /// Writes out what is queued, seals the segment, and releases the directory. Other handles get [`LogError::Closed`] for
    /// every write from then on.
    pub async fn close(self) {
        let (done, answer) = answer();
        {
            let mut content = self.core().content();
            if content.closing {
                return;
            }
            content.closing = true;
            content.enqueue(Op::Close, 0, done);
        }
        self.core().work.notify_one();
        self.core().room.notify_waiters();
        // Either answer means that the writer is gone.
        drop(self.answered(answer).await);
    }

    fn check_open(&self, content: &Content) -> Result<(), LogError> {
        if content.closing { Err(LogError::Closed { dir: self.core().dir.clone() }) } else { Ok(()) }
    }

    fn check_records(&self, records: &[Bytes]) -> Result<usize, LogError> {
        let limit = u64::from(self.core().options.max_record_bytes);
        for record in records {
            check_size("record", record.len(), limit)?;
        }
        let bytes = cost(records);
        check_size("append", bytes, APPEND_MAX as u64)?;
        Ok(bytes)
    }

    async fn control(&self, bytes: usize, op: impl FnOnce(&Content) -> Op) -> Result<(), LogError> {
        let (done, answer) = answer();
        self.enqueue(bytes, |content| Ok(op(content)), done).await?;
        self.answered(answer).await.map(|_| ())
    }

    /// Puts a request into the queue once there is room for `bytes`.
    async fn enqueue(&self, bytes: usize, make: impl FnOnce(&Content) -> Result<Op, LogError>, done: Done) -> Result<(), LogError> {
        self.when_room(bytes, |content| {
            let op = make(content)?;
            let bytes = match &op {
                Op::Append(_, records) => cost(records),
                _ => bytes,
            };
            content.enqueue(op, bytes, done);
            self.core().work.notify_one();
            Ok(())
        })
        .await
    }

    async fn when_room<T>(&self, bytes: usize, act: impl FnOnce(&mut Content) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut waited = false;
        loop {
            let mut room = pin!(self.core().room.notified());
            room.as_mut().enable();
            {
                let mut content = self.core().content();
                self.check_open(&content)?;
                if content.has_room(bytes) {
                    return act(&mut content);
                }
            }
            if !std::mem::replace(&mut waited, true) {
                self.core().queue_full.fetch_add(1, Ordering::Relaxed);
            }
            room.await;
        }
    }

    async fn answered(&self, answer: oneshot::Receiver<Result<u64, LogError>>) -> Result<u64, LogError> {
        answer.await.unwrap_or_else(|_| Err(LogError::Closed { dir: self.core().dir.clone() }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.content().closing = true;
        self.core.work.notify_one();
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.thread().id() != thread::current().id()
        {
            // A panic in the writer was already reported by the panic hook.
            drop(writer.join());
        }
    }
}

fn answer() -> (Done, oneshot::Receiver<Result<u64, LogError>>) {
    let (sender, receiver) = oneshot::channel();
    // Nobody waits any more when the caller dropped its future.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn check_size(what: &'static str, bytes: usize, limit: u64) -> Result<(), LogError> {
    let bytes = bytes as u64;
    if bytes > limit { Err(LogError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}
