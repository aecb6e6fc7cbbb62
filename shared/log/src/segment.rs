//! One segment as kept in memory, and the writing of whole-file parts: the head of a new one, the footer of a full one.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::DiskFile;
use crate::format::{self, Footer, Kind, Place, SEGMENT_HEADER, SegmentName, State};
use crate::report::SegmentSummary;

/// A segment of the log. Only the newest one may be empty.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    pub(crate) path: PathBuf,
    /// Where the entries from `name.base` on start; `LOST` where one is damaged.
    pub(crate) offsets: Vec<u32>,
    /// Bytes of the file in use.
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn new(dir: &Path, name: SegmentName, bytes: u64) -> Self {
        Self { name, path: dir.join(name.file_name()), offsets: Vec::new(), bytes }
    }

    /// One past the last index held.
    pub(crate) fn next(&self) -> u64 {
        self.name.base + self.offsets.len() as u64
    }

    /// Forgets the entries at `from` and above.
    pub(crate) fn cut(&mut self, from: u64) {
        self.offsets.truncate(from.saturating_sub(self.name.base) as usize);
    }

    /// True when no entry at `floor` or above is left in it.
    pub(crate) fn is_dead(&self, floor: u64) -> bool {
        self.offsets.is_empty() || self.next() <= floor
    }

    pub(crate) fn summary(&self) -> SegmentSummary {
        SegmentSummary { first: self.name.base, next: self.next(), bytes: self.bytes, path: self.path.clone() }
    }
}

/// The bytes a new segment starts with.
pub(crate) fn encode_head(name: SegmentName, state: &State) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    name.encode_header(&mut out);
    debug_assert_eq!(out.len(), SEGMENT_HEADER);
    Place { id: name.id, start: 0, synced: 0 }.encode(&mut out, Kind::State, name.base, &state.encode());
    out
}

/// Cuts the file at `end` (freeing what was preallocated), appends footer and trailer and syncs. Returns the new length.
/// A crash or error on the way leaves a file that is scanned instead.
pub(crate) fn seal(file: &dyn DiskFile, end: u64, name: SegmentName, footer: Footer) -> io::Result<u64> {
    file.set_len(end)?;
    let next = footer.base + footer.offsets.len() as u64;
    // Offsets, and so `end`, fit: segments are far below 4 GiB.
    let place = Place { id: name.id, start: end, synced: end as u32 };
    let mut out = Vec::new();
    place.encode(&mut out, Kind::Footer, next, &footer.encode());
    format::encode_trailer(name.id, end, &mut out);
    file.write_all_at(&out, end)?;
    file.sync()?;
    Ok(end + out.len() as u64)
}
