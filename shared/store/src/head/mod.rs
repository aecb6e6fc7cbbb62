//! The head: what was appended and is not in a block yet.
//!
//! Sharded by series, so that readers hold up the writer for one series of one shard at most. Samples that arrive out of order wait
//! in a side buffer and are folded into the series' chunk when they become many. A sample at a time the head already has for that
//! series is dropped: the first value wins. There is no clock here: what is too old or too new is a range given by the caller.

mod chunk;

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anemone_model::Sample;
use chunk::OpenChunk;
pub(crate) use chunk::{same_value, value_of};

use crate::index::SeriesRef;

const SHARDS: usize = 16;
/// Late samples of one series that wait before they are folded into its chunk.
const LATE_MAX: usize = 32;
/// Times beyond this many milliseconds from 1970 are never stored: over a hundred thousand years.
pub(crate) const TIME_LIMIT_MS: i64 = 1 << 52;

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Kept.
    New,
    /// The head already has this series' value at this time: dropped.
    Duplicate,
    /// The head has another value at this time: dropped, the first one wins.
    Conflict,
    /// Not acceptable.
    Refused(Refusal),
}

/// Why a sample was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Older than the retention.
    TooOld,
    /// Too far in the future, or beyond all sense.
    TooNew,
    /// No series has this ref.
    UnknownSeries,
}

/// How much the head holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadSize {
    pub(crate) samples: u64,
    /// Memory, without the index.
    pub(crate) bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Head {
    shards: Vec<RwLock<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    chunks: Vec<OpenChunk>,
    /// Samples earlier than the last of their series' chunk, sorted by time, by slot.
    late: HashMap<u32, Vec<Sample>>,
    samples: u64,
    chunk_bytes: u64,
    scratch: Vec<u8>,
}

fn place(series: SeriesRef) -> (usize, usize) {
    (series.0 as usize % SHARDS, series.0 as usize / SHARDS)
}

impl Head {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[shard].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a sample whose series exists and whose time is acceptable.
    pub(crate) fn append(&self, series: SeriesRef, sample: Sample) -> Appended {
        let (shard, slot) = place(series);
        self.write(shard).append(slot, sample)
    }

    /// Appends the series' samples from `from_ms` to `to_ms`, both inclusive, to `out`, in order of time.
    pub(crate) fn read_into(&self, series: SeriesRef, from_ms: i64, to_ms: i64, out: &mut Vec<Sample>) {
        let (shard, slot) = place(series);
        let shard = self.read(shard);
        let Some(chunk) = shard.chunks.get(slot).filter(|c| !c.is_empty()) else { return };
        let late = shard.late.get(&(slot as u32)).map_or(&[][..], Vec::as_slice);
        if chunk.last_ts() < from_ms || (late.is_empty() && chunk.first_ts() > to_ms) {
            return;
        }
        let wanted = |s: &Sample| (from_ms..=to_ms).contains(&s.ts_ms);
        if late.is_empty() {
            out.extend(chunk.samples().take_while(|s| s.ts_ms <= to_ms).filter(wanted));
        } else {
            out.extend(merged(chunk, late).filter(wanted));
        }
    }

    /// The times of the series' first and last sample.
    pub(crate) fn range(&self, series: SeriesRef) -> Option<(i64, i64)> {
        let (shard, slot) = place(series);
        self.read(shard).range(slot)
    }

    /// The numbers of the windows of `width_ms` that hold samples.
    pub(crate) fn windows(&self, width_ms: i64) -> BTreeSet<i64> {
        let mut windows = BTreeSet::new();
        for shard in 0..SHARDS {
            let shard = self.read(shard);
            for slot in 0..shard.chunks.len() {
                let Some((first, last)) = shard.range(slot) else { continue };
                let (first, last) = (first.div_euclid(width_ms), last.div_euclid(width_ms));
                windows.extend([first, last]);
                if last - first > 1 {
                    windows.extend(shard.chunks[slot].samples().map(|s| s.ts_ms.div_euclid(width_ms)));
                }
            }
            windows.extend(shard.late.values().flatten().map(|s| s.ts_ms.div_euclid(width_ms)));
        }
        windows
    }

    pub(crate) fn size(&self) -> HeadSize {
        let mut size = HeadSize::default();
        for shard in 0..SHARDS {
            let shard = self.read(shard);
            let late: usize = shard.late.values().map(|l| l.capacity() * size_of::<Sample>()).sum();
            size.samples += shard.samples;
            size.bytes += shard.chunk_bytes + (shard.chunks.capacity() * size_of::<OpenChunk>() + late) as u64;
        }
        size
    }
}

/// Samples of a chunk and late ones, in order of time; no time is in both.
fn merged<'a>(chunk: &'a OpenChunk, late: &'a [Sample]) -> impl Iterator<Item = Sample> + 'a {
    let (mut main, mut late) = (chunk.samples().peekable(), late.iter().copied().peekable());
    std::iter::from_fn(move || match (main.peek(), late.peek()) {
        (Some(a), Some(b)) if b.ts_ms < a.ts_ms => late.next(),
        (None, _) => late.next(),
        _ => main.next(),
    })
}

impl Shard {
    fn append(&mut self, slot: usize, sample: Sample) -> Appended {
        if slot >= self.chunks.len() {
            // In steps of an eighth: doubling would waste as much as the samples take.
            let missing = (slot + 1 - self.chunks.len()).max(self.chunks.len() / 8);
            if slot >= self.chunks.capacity() {
                self.chunks.reserve_exact(missing);
            }
            self.chunks.resize_with(slot + 1, OpenChunk::default);
        }
        let chunk = &mut self.chunks[slot];
        if chunk.is_empty() || sample.ts_ms > chunk.last_ts() {
            let before = chunk.heap_bytes();
            chunk.push(sample, &mut self.scratch);
            self.chunk_bytes += (chunk.heap_bytes() - before) as u64;
            self.samples += 1;
            return Appended::New;
        }
        self.append_late(slot, sample)
    }

    fn append_late(&mut self, slot: usize, sample: Sample) -> Appended {
        let chunk = &self.chunks[slot];
        let there = if sample.ts_ms == chunk.last_ts() {
            Some(chunk.last_value())
        } else if sample.ts_ms < chunk.first_ts() {
            None
        } else {
            chunk.samples().find(|s| s.ts_ms >= sample.ts_ms).filter(|s| s.ts_ms == sample.ts_ms).map(|s| s.value)
        };
        let late = self.late.get(&(slot as u32)).map_or(&[][..], Vec::as_slice);
        let at = late.binary_search_by_key(&sample.ts_ms, |s| s.ts_ms);
        if let Some(value) = there.or_else(|| at.ok().map(|at| late[at].value)) {
            return if same_value(value, sample.value) { Appended::Duplicate } else { Appended::Conflict };
        }
        let late = self.late.entry(slot as u32).or_default();
        late.insert(at.unwrap_or_else(|at| at), sample);
        self.samples += 1;
        if late.len() >= LATE_MAX {
            self.fold(slot);
        }
        Appended::New
    }

    /// Writes the chunk anew with its late samples in place.
    fn fold(&mut self, slot: usize) {
        let Some(late) = self.late.remove(&(slot as u32)) else { return };
        let mut folded = OpenChunk::default();
        merged(&self.chunks[slot], &late).for_each(|s| folded.push(s, &mut self.scratch));
        self.chunk_bytes += folded.heap_bytes() as u64;
        self.chunk_bytes -= self.chunks[slot].heap_bytes() as u64;
        self.chunks[slot] = folded;
    }

    fn range(&self, slot: usize) -> Option<(i64, i64)> {
        let chunk = self.chunks.get(slot).filter(|c| c.count() > 0)?;
        let late = self.late.get(&(slot as u32)).and_then(|l| l.first()).map_or(i64::MAX, |s| s.ts_ms);
        Some((chunk.first_ts().min(late), chunk.last_ts()))
    }
}

#[cfg(test)]
mod tests {
    use anemone_model::Value;

    use super::*;

    fn check(appends: &[(i64, u64, Appended)], times: &[i64]) {
        let head = Head::new();
        for &(ts, v, expected) in appends {
            assert_eq!(head.append(SeriesRef(17), Sample::new(ts, Value::U64(v))), expected, "at {ts}");
        }
        let mut read = Vec::new();
        head.read_into(SeriesRef(17), i64::MIN, i64::MAX, &mut read);
        assert_eq!(read.iter().map(|s| s.ts_ms).collect::<Vec<_>>(), times);
        assert_eq!(head.size().samples, times.len() as u64);
        assert_eq!(head.range(SeriesRef(17)), times.first().map(|first| (*first, times[times.len() - 1])));
        read.clear();
        head.read_into(SeriesRef(1), i64::MIN, i64::MAX, &mut read);
        assert!(read.is_empty());
    }

    #[test]
    fn samples_come_out_in_order_and_once() {
        use Appended::{Conflict, Duplicate, New};
        check(&[], &[]);
        check(&[(10, 1, New), (20, 2, New), (20, 2, Duplicate), (20, 3, Conflict)], &[10, 20]);
        check(&[(30, 1, New), (10, 2, New), (20, 3, New), (10, 2, Duplicate), (20, 4, Conflict), (30, 1, Duplicate)], &[10, 20, 30]);
        check(&[(10, 1, New), (20, 2, New), (30, 3, New), (20, 2, Duplicate), (20, 5, Conflict), (15, 9, New)], &[10, 15, 20, 30]);
        let backwards: Vec<_> = (0..200).rev().map(|n| (n * 10, 7, New)).collect();
        check(&backwards, &(0..200).map(|n| n * 10).collect::<Vec<_>>());
    }

    #[test]
    fn a_series_without_samples_costs_its_slot() {
        assert_eq!(size_of::<OpenChunk>(), 56);
    }
}
