//! What the handles and the writer thread share: the log's content in memory, the bounded queue between them, the counters.
//!
//! The queue is bounded by [`MAX_REQUESTS`] and [`MAX_QUEUED_BYTES`]; when it is full, async callers wait and
//! `append_with` is refused. A truncation or reset closes the queue until it is done.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::format::{Kind, LOST, RECORD_HEADER, RecordHeader, SegmentName, State};
use crate::report::{LogOptions, LogStats, LostRange};
use crate::segment::Segment;

/// Requests that may wait for the writer.
pub(crate) const MAX_REQUESTS: usize = 1024;
/// Bytes that may wait for the writer or be in its hands; one larger append is let in when nothing else waits.
pub(crate) const MAX_QUEUED_BYTES: usize = 32 << 20;
/// Bytes the writer puts into one write and one sync, as a rule.
const GROUP_BYTES: usize = 4 << 20;

/// A record is read in one go up to this size. The next record or the end of the segment bounds it, not always closely.
const FIRST_READ: usize = 64 << 10;

pub(crate) type Done = Box<dyn FnOnce(Result<u64, LogError>) + Send>;

pub(crate) enum Op {
    /// The first index, and the records.
    Append(u64, Vec<Bytes>),
    Meta(u8, Bytes),
    Purge(u64),
    Truncate(u64),
    Reset(u64),
    Close,
}

/// What the records count for in the queue's bound, headers included, bytes.
pub(crate) fn cost(records: &[Bytes]) -> usize {
    records.iter().map(|record| record.len().saturating_add(RECORD_HEADER)).fold(0, usize::saturating_add)
}

impl Op {
    /// Done alone, with nothing else in the queue behind it.
    fn is_barrier(&self) -> bool {
        matches!(self, Self::Truncate(_) | Self::Reset(_))
    }
}

pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) bytes: usize,
    pub(crate) done: Done,
}

/// What the writer does next.
pub(crate) enum Work {
    /// Appends, metas and purges for one write and one sync.
    Group(Vec<Request>),
    /// A truncation or a reset.
    Barrier(Request),
    Close(Option<Request>),
}

/// Everything behind the lock.
pub(crate) struct Content {
    pub(crate) segments: Vec<Segment>,
    pub(crate) lost: Vec<LostRange>,
    pub(crate) state: State,
    /// One past the last durable index.
    pub(crate) durable: u64,
    /// Records from `durable` on that are not durable yet.
    pub(crate) tail: VecDeque<Bytes>,
    pub(crate) queue: VecDeque<Request>,
    pub(crate) queued_bytes: usize,
    pub(crate) barrier: bool,
    pub(crate) closing: bool,
    /// The segment file read last, by sequence.
    last_read: Option<(u64, Arc<dyn DiskFile>)>,
}

impl Content {
    pub(crate) fn next(&self) -> u64 {
        self.durable + self.tail.len() as u64
    }

    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let fits = self.queue.len() < MAX_REQUESTS && self.queued_bytes + bytes <= MAX_QUEUED_BYTES;
        !self.barrier && (fits || self.queued_bytes == 0 && self.queue.is_empty())
    }

    pub(crate) fn enqueue(&mut self, op: Op, bytes: usize, done: Done) {
        if let Op::Append(_, records) = &op {
            self.tail.extend(records.iter().cloned());
        }
        self.barrier |= op.is_barrier();
        self.queued_bytes += bytes;
        self.queue.push_back(Request { op, bytes, done });
    }

    fn take_group(&mut self) -> Vec<Request> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(front) = self.queue.front() {
            let alone = front.op.is_barrier() || matches!(front.op, Op::Close);
            if alone || (!group.is_empty() && bytes + front.bytes > GROUP_BYTES) {
                break;
            }
            bytes += front.bytes;
            group.extend(self.queue.pop_front());
        }
        group
    }

    /// Where the record is; `None` when the log does not hold the index.
    fn place(&self, index: u64) -> Option<Place> {
        if index < self.state.floor {
            return None;
        }
        if let Some(ahead) = index.checked_sub(self.durable) {
            return self.tail.get(usize::try_from(ahead).ok()?).cloned().map(Place::Memory);
        }
        let at = self.segments.partition_point(|segment| segment.next() <= index);
        let segment = self.segments.get(at).filter(|segment| segment.name.base <= index);
        let stored = segment.and_then(|segment| {
            let slot = (index - segment.name.base) as usize;
            let offset = segment.offsets.get(slot).copied().filter(|offset| *offset != LOST)?;
            let next = segment.offsets.get(slot + 1).copied().filter(|next| *next > offset);
            let end = next.map_or(segment.bytes, u64::from);
            Some(Place::File(Stored {
                sequence: segment.name.sequence,
                id: segment.name.id,
                path: segment.path.clone(),
                offset: u64::from(offset),
                end,
                index,
            }))
        });
        Some(stored.unwrap_or_else(|| Place::Lost(self.lost_error(index))))
    }

    /// Lets go of the file kept open for readers, so that unlinking it frees its space.
    pub(crate) fn forget_file(&mut self, name: SegmentName) {
        if self.last_read.as_ref().is_some_and(|(sequence, _)| *sequence == name.sequence) {
            self.last_read = None;
        }
    }

    fn lost_error(&self, index: u64) -> LogError {
        let range = self.lost.iter().find(|lost| (lost.from..lost.to).contains(&index));
        let (path, offset) = range.map_or_else(|| (PathBuf::new(), 0), |lost| (lost.path.clone(), lost.offset));
        LogError::Corrupt { path, offset, index, reason: "quarantined when the log was opened" }
    }
}

enum Place {
    Memory(Bytes),
    File(Stored),
    Lost(LogError),
}

struct Stored {
    sequence: u64,
    id: u64,
    path: PathBuf,
    offset: u64,
    /// The record ends at or before this byte.
    end: u64,
    index: u64,
}

pub(crate) struct Core {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    content: Mutex<Content>,
    pub(crate) work: Condvar,
    pub(crate) room: Notify,
    pub(crate) durable: watch::Sender<u64>,
    pub(crate) appends: AtomicU64,
    pub(crate) fsyncs: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) queue_full: AtomicU64,
    corrupt_reads: AtomicU64,
    quarantined: u64,
}

impl Core {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, options: LogOptions, found: crate::recover::Recovered) -> Self {
        let quarantined = found.lost.iter().map(|lost| lost.to - lost.from).sum();
        Self {
            disk,
            dir,
            options,
            durable: watch::Sender::new(found.next),
            content: Mutex::new(Content {
                segments: found.segments,
                lost: found.lost,
                state: found.state,
                durable: found.next,
                tail: VecDeque::new(),
                queue: VecDeque::new(),
                queued_bytes: 0,
                barrier: false,
                closing: false,
                last_read: None,
            }),
            work: Condvar::new(),
            room: Notify::new(),
            appends: AtomicU64::new(0),
            fsyncs: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            corrupt_reads: AtomicU64::new(0),
            quarantined,
        }
    }

    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        // Only a record builder of the caller can panic under the lock, before anything is changed.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is something to write.
    pub(crate) fn next_work(&self) -> Work {
        let mut content = self.content();
        loop {
            match content.queue.front().map(|front| (front.op.is_barrier(), matches!(front.op, Op::Close))) {
                Some((true, _)) => {
                    if let Some(request) = content.queue.pop_front() {
                        return Work::Barrier(request);
                    }
                }
                Some((_, true)) => return Work::Close(content.queue.pop_front()),
                Some(_) => return Work::Group(content.take_group()),
                None if content.closing => return Work::Close(None),
                None => content = self.work.wait(content).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The record, `None` when the index is not held.
    pub(crate) fn read(&self, index: u64) -> Result<Option<Bytes>, LogError> {
        loop {
            let place = self.content().place(index);
            let stored = match place {
                None => return Ok(None),
                Some(Place::Memory(record)) => return Ok(Some(record)),
                Some(Place::Lost(error)) => {
                    self.corrupt_reads.fetch_add(1, Ordering::Relaxed);
                    return Err(error);
                }
                Some(Place::File(stored)) => stored,
            };
            match self.read_stored(&stored) {
                // Purged or cut between the look-up and the opening of the file: look again.
                Err(LogError::Io { source, .. }) if self.vanished(&source, &stored) => {}
                Err(error) => {
                    if matches!(error, LogError::Corrupt { .. }) {
                        self.corrupt_reads.fetch_add(1, Ordering::Relaxed);
                    }
                    return Err(error);
                }
                Ok(record) => return Ok(Some(record)),
            }
        }
    }

    fn vanished(&self, error: &io::Error, stored: &Stored) -> bool {
        let held = |segment: &Segment| segment.name.sequence == stored.sequence;
        error.kind() == io::ErrorKind::NotFound && !self.content().segments.iter().any(held)
    }

    fn read_stored(&self, stored: &Stored) -> Result<Bytes, LogError> {
        let file = self.segment_file(stored)?;
        let read = |buf: &mut Vec<u8>, want: usize| {
            let held = buf.len();
            buf.resize(want, 0);
            let count = file.read_at(&mut buf[held..], stored.offset + held as u64);
            buf.truncate(held + count.map_err(|error| LogError::io("read", &stored.path, error))?);
            Ok::<(), LogError>(())
        };
        let span = stored.end.saturating_sub(stored.offset) as usize;
        let mut buf = Vec::new();
        if read(&mut buf, span.min(FIRST_READ)).is_err() {
            // A sector behind the record may be the unreadable one.
            buf.clear();
            read(&mut buf, RECORD_HEADER)?;
        }
        let corrupt = |reason| LogError::Corrupt { path: stored.path.clone(), offset: stored.offset, index: stored.index, reason };
        let header = RecordHeader::decode(stored.id, stored.offset, &buf).ok_or_else(|| corrupt("record header checksum"))?;
        if header.kind != Kind::Entry || header.index != stored.index {
            return Err(corrupt("another record stands there"));
        }
        let length = header.length as usize;
        if buf.len() < span.min(RECORD_HEADER + length) {
            read(&mut buf, span.min(RECORD_HEADER + length))?;
        }
        let Some(payload) = buf.get(RECORD_HEADER..RECORD_HEADER + length) else {
            return Err(corrupt("record is cut short"));
        };
        if !header.payload_matches(stored.id, stored.offset, payload) {
            return Err(corrupt("record payload checksum"));
        }
        Ok(Bytes::from(buf).slice(RECORD_HEADER..RECORD_HEADER + length))
    }

    /// The open file of the segment; readers go through one segment after the other, so one is kept open.
    fn segment_file(&self, stored: &Stored) -> Result<Arc<dyn DiskFile>, LogError> {
        if let Some((sequence, file)) = &self.content().last_read
            && *sequence == stored.sequence
        {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&stored.path).map_err(|error| LogError::io("open", &stored.path, error))?;
        self.content().last_read = Some((stored.sequence, Arc::clone(&file)));
        Ok(file)
    }

    pub(crate) fn stats(&self) -> LogStats {
        let content = self.content();
        LogStats {
            live_bytes: content.segments.iter().map(|segment| segment.bytes).sum(),
            segments: content.segments.len(),
            appends: self.appends.load(Ordering::Relaxed),
            fsyncs: self.fsyncs.load(Ordering::Relaxed),
            records_quarantined: self.quarantined,
            corrupt_reads: self.corrupt_reads.load(Ordering::Relaxed),
            write_errors: self.write_errors.load(Ordering::Relaxed),
            queued_requests: content.queue.len(),
            queued_bytes: content.queued_bytes,
            queue_full: self.queue_full.load(Ordering::Relaxed),
        }
    }
}
