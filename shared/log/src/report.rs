//! Plain values of the public interface: options in; reports, statistics and summaries out.

use std::path::PathBuf;

/// How a log lays out and syncs its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size a segment is preallocated to, bytes. Default 64 MiB. At most 1 GiB; a single append that is larger gets a
    /// segment of its own size.
    pub segment_bytes: u64,
    /// Largest record accepted, bytes. Default 8 MiB, at most 256 MiB.
    pub max_record_bytes: u32,
    /// Sync before acknowledging. `false` gives up every promise about power cuts and is for benchmarks only.
    pub sync: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, max_record_bytes: 8 << 20, sync: true }
    }
}

/// What [`Log::open`](crate::Log::open) found and did. Damage never keeps a log from opening; it is told here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Lowest index held.
    pub first_index: u64,
    /// Index of the next append.
    pub next_index: u64,
    /// Segment files in use.
    pub segments: usize,
    /// Segments without a usable footer, which had to be read in full.
    pub scanned: usize,
    /// Bytes cut from the tail of the last segment: an append that was never acknowledged.
    pub torn_bytes: u64,
    /// Index ranges whose records were acknowledged and are gone. Reading one gives [`LogError::Corrupt`](crate::LogError::Corrupt).
    pub lost: Vec<LostRange>,
    /// Damaged byte ranges, with or without a lost index.
    pub damage: Vec<Damage>,
    /// Segment files without one readable record, renamed to `*.quarantined`.
    pub quarantined: Vec<PathBuf>,
}

impl OpenReport {
    /// True when nothing acknowledged is missing or damaged (a torn tail is clean).
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.damage.is_empty() && self.quarantined.is_empty()
    }
}

/// Records `from..to` (exclusive) cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// First index lost.
    pub from: u64,
    /// One past the last index lost.
    pub to: u64,
    /// Segment that held, or should have held, the first of them.
    pub path: PathBuf,
    /// Byte offset in that segment.
    pub offset: u64,
}

/// Bytes `offset..offset + bytes` of a segment do not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Segment file.
    pub path: PathBuf,
    /// First damaged byte, as far as can be told.
    pub offset: u64,
    /// Bytes up to the next readable record.
    pub bytes: u64,
}

/// Counters and sizes of a log, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes used by segment files (without what is preallocated and not yet written).
    pub live_bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Records made durable since open.
    pub appends: u64,
    /// File syncs since open.
    pub fsyncs: u64,
    /// Records lost to damage, as found at open.
    pub records_quarantined: u64,
    /// Reads that met a damaged record since open.
    pub corrupt_reads: u64,
    /// Failed writes, syncs and file creations since open (retried ones included).
    pub write_errors: u64,
    /// Requests waiting for the writer.
    pub queued_requests: usize,
    /// Bytes waiting for the writer or being written.
    pub queued_bytes: usize,
    /// Requests that found the queue full: waited (async) or were refused (`append_with`).
    pub queue_full: u64,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// First index it holds (it may be below [`Log::first_index`](crate::Log::first_index)).
    pub first: u64,
    /// One past the last index it holds.
    pub next: u64,
    /// Bytes used.
    pub bytes: u64,
    /// The file.
    pub path: PathBuf,
}
