//! The one thread that writes: groups what is queued, writes it, syncs it, publishes it, answers the callers.
//!
//! Between two groups every byte of the active segment is synced. A failed write or sync gives the segment up: the group goes
//! into a new one, whose base supersedes whatever of the failed attempt reached the disk; no page is trusted after a failed
//! sync. When the new segment fails too, the group and everything queued behind it fail, and the same indices are given again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tracing::{error, warn};

use crate::core::{Core, Op, Request, Work};
use crate::disk::{DirLock, DiskFile};
use crate::error::LogError;
use crate::format::{self, Footer, Kind, Place, SegmentName, State};
use crate::segment::{self, Segment};

struct Active {
    name: SegmentName,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Bytes written, all synced.
    end: u64,
    capacity: u64,
}

pub(crate) struct Writer {
    core: Arc<Core>,
    active: Option<Active>,
    sequence: u64,
    /// Half-made files that must go, durably, before another segment is created.
    leftovers: Vec<PathBuf>,
    buffer: Vec<u8>,
    /// Given back when the writer ends.
    lock: Option<DirLock>,
}

/// What a barrier leaves: the log continues at `next`, nothing below `floor`.
struct Start {
    next: u64,
    floor: u64,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, sequence: u64, lock: DirLock) -> Self {
        Self { core, active: None, sequence, leftovers: Vec::new(), buffer: Vec::new(), lock: Some(lock) }
    }

    /// Runs until the log is closed or its last handle dropped.
    pub(crate) fn run(mut self) {
        loop {
            match self.core.next_work() {
                Work::Group(group) => self.group(group),
                Work::Barrier(request) => self.barrier(request),
                Work::Close(request) => {
                    self.seal_active();
                    self.lock = None;
                    if let Some(request) = request {
                        (request.done)(Ok(self.core.content().durable));
                    }
                    return;
                }
            }
        }
    }

    fn group(&mut self, group: Vec<Request>) {
        let had_active = self.active.is_some();
        let mut result = self.write_group(&group);
        if result.is_err() && had_active {
            result = self.write_group(&group);
        }
        match result {
            Ok(offsets) => self.publish(group, offsets),
            Err(failure) => {
                error!(dir = %self.core.dir.display(), error = %failure, "append failed");
                self.fail(group, &failure);
            }
        }
    }

    /// Writes and syncs the group. On an error the active segment is given up.
    fn write_group(&mut self, group: &[Request]) -> Result<Vec<u32>, LogError> {
        let size: u64 = group.iter().map(|request| encoded_size(&request.op)).sum();
        if size == 0 {
            return Ok(Vec::new());
        }
        let written = self.try_write_group(group, size);
        if written.is_err() {
            self.core.write_errors.fetch_add(1, Ordering::Relaxed);
            self.give_up_active();
        }
        written
    }

    fn try_write_group(&mut self, group: &[Request], size: u64) -> Result<Vec<u32>, LogError> {
        let mut index = self.core.content().durable;
        if self.active.as_ref().is_none_or(|active| active.end + size > active.capacity) {
            self.seal_active();
            let state = self.core.content().state.clone();
            self.create_segment(index, &state, size)?;
        }
        let Some(active) = self.active.as_mut() else {
            return Err(LogError::Closed { dir: self.core.dir.clone() });
        };
        self.buffer.clear();
        // Ends fit in u32: the capacity is bounded by the options and the append limit.
        let place = Place { id: active.name.id, start: active.end, synced: active.end as u32 };
        let mut offsets = Vec::new();
        for request in group {
            match &request.op {
                Op::Append(_, records) => {
                    for record in records {
                        offsets.push(place.encode(&mut self.buffer, Kind::Entry, index, record) as u32);
                        index += 1;
                    }
                }
                Op::Meta(key, value) => {
                    place.encode(&mut self.buffer, Kind::Meta, index, &format::encode_meta(*key, value));
                }
                Op::Purge(below) => {
                    place.encode(&mut self.buffer, Kind::Purge, index, &below.to_le_bytes());
                }
                Op::Truncate(_) | Op::Reset(_) | Op::Close => {}
            }
        }
        let written = active.file.write_all_at(&self.buffer, active.end);
        written.map_err(|error| LogError::io("write", &active.path, error))?;
        if self.core.options.sync {
            active.file.sync().map_err(|error| LogError::io("sync", &active.path, error))?;
            self.core.fsyncs.fetch_add(1, Ordering::Relaxed);
        }
        active.end += self.buffer.len() as u64;
        Ok(offsets)
    }

    fn publish(&mut self, group: Vec<Request>, offsets: Vec<u32>) {
        self.core.appends.fetch_add(offsets.len() as u64, Ordering::Relaxed);
        let mut answers = Vec::with_capacity(group.len());
        let mut content = self.core.content();
        content.durable += offsets.len() as u64;
        content.tail.drain(..offsets.len());
        if let (Some(active), Some(segment)) = (&self.active, content.segments.last_mut())
            && segment.name == active.name
        {
            segment.offsets.extend(offsets);
            segment.bytes = active.end;
        }
        let mut purged = false;
        for request in group {
            content.queued_bytes = content.queued_bytes.saturating_sub(request.bytes);
            let answer = match request.op {
                Op::Append(first, _) => first,
                Op::Meta(key, value) => {
                    content.state.metas.insert(key, value);
                    content.durable
                }
                Op::Purge(below) => {
                    purged = true;
                    content.state.floor = content.state.floor.max(below);
                    below
                }
                Op::Truncate(_) | Op::Reset(_) | Op::Close => content.durable,
            };
            answers.push((request.done, answer));
        }
        let durable = content.durable;
        drop(content);
        if purged {
            self.remove_dead();
        }
        self.core.durable.send_replace(durable);
        self.core.room.notify_waiters();
        for (done, answer) in answers {
            done(Ok(answer));
        }
    }

    /// Fails the group and all that is queued behind it: their indices are given again.
    fn fail(&mut self, mut failed: Vec<Request>, failure: &LogError) {
        {
            let mut content = self.core.content();
            content.tail.clear();
            content.queued_bytes = 0;
            content.barrier = false;
            let (close, queued): (VecDeque<_>, VecDeque<_>) = content.queue.drain(..).partition(|request| matches!(request.op, Op::Close));
            content.queue = close;
            failed.extend(queued);
        }
        self.core.room.notify_waiters();
        for request in failed {
            (request.done)(Err(failure.clone()));
        }
    }

    fn barrier(&mut self, request: Request) {
        let result = self.start_over(&request.op);
        self.core.content().barrier = false;
        let result = match result {
            Ok(None) => Ok(self.core.content().durable),
            Ok(Some(next)) => {
                self.core.durable.send_replace(next);
                Ok(next)
            }
            Err(failure) => {
                if matches!(failure, LogError::Io { .. }) {
                    self.core.write_errors.fetch_add(1, Ordering::Relaxed);
                }
                error!(dir = %self.core.dir.display(), error = %failure, "truncation failed");
                Err(failure)
            }
        };
        self.core.room.notify_waiters();
        (request.done)(result);
    }

    /// Truncates or resets by starting a new segment; `None` when there was nothing to do.
    fn start_over(&mut self, op: &Op) -> Result<Option<u64>, LogError> {
        let (durable, mut state) = {
            let content = self.core.content();
            (content.durable, content.state.clone())
        };
        let first = state.floor;
        let start = match *op {
            Op::Truncate(from) if from >= durable => return Ok(None),
            Op::Truncate(from) if from < first => {
                return Err(LogError::BelowFirst { action: "truncate", asked: from, first });
            }
            Op::Truncate(from) => Start { next: from, floor: first },
            Op::Reset(next) if next < first => return Err(LogError::BelowFirst { action: "reset", asked: next, first }),
            Op::Reset(next) => Start { next, floor: next },
            Op::Append(..) | Op::Meta(..) | Op::Purge(_) | Op::Close => return Ok(None),
        };
        state.floor = start.floor;
        self.seal_active();
        self.create_segment(start.next, &state, 0)?;
        Ok(Some(start.next))
    }

    /// Makes a new active segment, durable with its directory entry, that starts at `base` and has room for `need` bytes.
    fn create_segment(&mut self, base: u64, state: &State, need: u64) -> Result<(), LogError> {
        self.clear_leftovers()?;
        let name = SegmentName { sequence: self.sequence, base, id: RandomState::new().hash_one(self.sequence) };
        self.sequence += 1;
        let path = self.core.dir.join(name.file_name());
        let head = segment::encode_head(name, state);
        match self.create_file(&path, &head, need) {
            Ok((file, capacity)) => {
                let end = head.len() as u64;
                let mut content = self.core.content();
                for segment in &mut content.segments {
                    segment.cut(base);
                }
                content.lost.retain_mut(|lost| {
                    lost.to = lost.to.min(base);
                    lost.from < lost.to
                });
                content.durable = base;
                content.state = state.clone();
                content.segments.push(Segment::new(&self.core.dir, name, end));
                drop(content);
                self.active = Some(Active { name, path, file, end, capacity });
                self.remove_dead();
                Ok(())
            }
            Err(failure) => {
                self.leftovers.push(path);
                // Tried again before the next segment; an error now is no news.
                let _removed_later = self.clear_leftovers();
                Err(failure)
            }
        }
    }

    fn create_file(&self, path: &Path, head: &[u8], need: u64) -> Result<(Arc<dyn DiskFile>, u64), LogError> {
        let file = self.core.disk.create(path).map_err(|error| LogError::io("create", path, error))?;
        let least = head.len() as u64 + need;
        let wanted = self.core.options.segment_bytes.max(least);
        let mut capacity = wanted;
        // A nearly full disk still takes a smaller segment.
        for attempt in [wanted, (wanted / 8).max(least), least] {
            capacity = attempt;
            match file.allocate(attempt) {
                Ok(()) => break,
                Err(error) => {
                    let error = LogError::io("allocate", path, error);
                    if !error.is_no_space() || attempt == least {
                        return Err(error);
                    }
                    file.set_len(0).map_err(|error| LogError::io("cut", path, error))?;
                }
            }
        }
        file.write_all_at(head, 0).map_err(|error| LogError::io("write", path, error))?;
        if self.core.options.sync {
            file.sync().map_err(|error| LogError::io("sync", path, error))?;
            self.core.fsyncs.fetch_add(1, Ordering::Relaxed);
            let dir = &self.core.dir;
            self.core.disk.sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))?;
        }
        Ok((file, capacity))
    }

    /// A half-made segment must not come back after a crash and cut what newer ones hold: its removal is made durable before
    /// the next file is created.
    fn clear_leftovers(&mut self) -> Result<(), LogError> {
        if self.leftovers.is_empty() {
            return Ok(());
        }
        for path in &self.leftovers {
            match self.core.disk.remove(path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(LogError::io("remove", path, error)),
            }
        }
        let dir = &self.core.dir;
        self.core.disk.sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))?;
        self.leftovers.clear();
        Ok(())
    }

    /// Writes the footer and frees what was preallocated. A failure costs a scan at the next open, nothing else.
    fn seal_active(&mut self) {
        let Some(active) = self.active.take() else { return };
        let footer = {
            let content = self.core.content();
            let Some(segment) = content.segments.last().filter(|segment| segment.name == active.name) else { return };
            Footer { base: active.name.base, state: content.state.clone(), offsets: segment.offsets.clone() }
        };
        match segment::seal(active.file.as_ref(), active.end, active.name, footer) {
            Ok(bytes) => {
                self.core.fsyncs.fetch_add(1, Ordering::Relaxed);
                if let Some(segment) = self.core.content().segments.last_mut() {
                    segment.bytes = bytes;
                }
            }
            Err(error) => warn!(path = %active.path.display(), %error, "segment not sealed, it will be scanned at open"),
        }
    }

    /// Never writes to the active segment again; frees what was preallocated if the disk lets us.
    fn give_up_active(&mut self) {
        let Some(active) = self.active.take() else { return };
        if let Err(error) = active.file.set_len(active.end) {
            warn!(path = %active.path.display(), %error, "segment given up, its unused space is not freed");
        }
    }

    /// Unlinks segments without a live record. They may come back after a crash; newer segments supersede them.
    fn remove_dead(&mut self) {
        let dead: Vec<Segment> = {
            let mut content = self.core.content();
            let floor = content.state.floor;
            content.lost.retain_mut(|lost| {
                lost.from = lost.from.max(floor);
                lost.from < lost.to
            });
            let newest = content.segments.last().map(|segment| segment.name);
            let (kept, dead) = content.segments.drain(..).partition(|segment| Some(segment.name) == newest || !segment.is_dead(floor));
            content.segments = kept;
            for segment in &dead {
                content.forget_file(segment.name);
            }
            dead
        };
        for segment in &dead {
            if let Err(error) = self.core.disk.remove(&segment.path) {
                warn!(path = %segment.path.display(), %error, "segment no longer needed, but not removed");
            }
        }
        if !dead.is_empty()
            && let Err(error) = self.core.disk.sync_dir(&self.core.dir)
        {
            warn!(dir = %self.core.dir.display(), %error, "directory not synced");
        }
    }
}

impl Drop for Writer {
    /// Whatever ends the writer, also a panicking callback: nobody waits for it in vain.
    fn drop(&mut self) {
        self.core.content().closing = true;
        self.fail(Vec::new(), &LogError::Closed { dir: self.core.dir.clone() });
    }
}

/// Bytes the operation takes in the file.
fn encoded_size(op: &Op) -> u64 {
    match op {
        Op::Append(_, records) => records.iter().map(|record: &Bytes| format::record_size(record.len())).sum(),
        Op::Meta(_, value) => format::record_size(1 + value.len()),
        Op::Purge(_) => format::record_size(8),
        Op::Truncate(_) | Op::Reset(_) | Op::Close => 0,
    }
}
