//! Gap batches: what stands in the place of sequences that will never come.
//!
//! Kept in one small sidecar beside the log, as records of sealed batches (`files::put_record`): what is shipped is what is stored.
//! The file is replaced whole and flushed *before* the log lets go of what a gap stands for, so no sequence is ever unaccounted for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anemone_model::SeriesDef;
use anemone_wire::WireError;
use anemone_wire::batch::{Batch, BatchBuilder, BatchHeader};
use anemone_wire::gap::{GapReason, GapRecord};
use bytes::Bytes;

use super::error::SpoolError;
use crate::files;

/// Most definitions one gap batch may carry when gaps are merged: far below what fits a batch.
const DEFINITIONS_MAX: usize = 20_000;

/// Sequences given up.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// Identity; `sequence` and `covers` say what it stands for.
    pub header: BatchHeader,
    /// What is known of what is gone.
    pub record: GapRecord,
    /// What the batches given up defined for later ones.
    pub definitions: Vec<(u32, SeriesDef)>,
}

impl Gap {
    /// One past the last sequence it stands for.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.header.sequence.saturating_add(self.header.covers)
    }

    /// The batch that travels.
    ///
    /// # Errors
    /// It does not fit a batch.
    pub fn seal(&self) -> Result<Bytes, WireError> {
        let mut builder = BatchBuilder::new();
        for (reference, def) in &self.definitions {
            builder.define(*reference, def.clone());
        }
        builder.push_gap(self.record.clone());
        builder.encode()?.seal(&self.header)
    }

    fn unseal(bytes: &[u8]) -> Result<Self, String> {
        let batch = Batch::decode(Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
        let definitions = batch.definitions().map_err(|e| e.to_string())?;
        let record = batch.gaps().map_err(|e| e.to_string())?.into_iter().next().ok_or("a batch without a gap record")?;
        Ok(Self { header: batch.header, record, definitions })
    }

    /// Whether `next` continues this gap and both fit one batch.
    fn takes(&self, next: &Self) -> bool {
        self.end() == next.header.sequence
            && (self.header.epoch, self.header.dictionary) == (next.header.epoch, next.header.dictionary)
            && self.record.reason == next.record.reason
            && self.definitions.len() + next.definitions.len() <= DEFINITIONS_MAX
    }

    fn merge(&mut self, next: Self) {
        self.header.covers += next.header.covers;
        self.header.sealed_at_ms = self.header.sealed_at_ms.max(next.header.sealed_at_ms);
        self.record.sequences += next.record.sequences;
        self.record.samples += next.record.samples;
        self.record.from_ms = [self.record.from_ms, next.record.from_ms].into_iter().flatten().min();
        self.record.to_ms = [self.record.to_ms, next.record.to_ms].into_iter().flatten().max();
        self.definitions.extend(next.definitions);
    }

    /// Leaves out what lies below `below`, which the hub has.
    pub(super) fn cut(&mut self, below: u64) {
        let gone = below.saturating_sub(self.header.sequence).min(self.header.covers);
        self.header.sequence += gone;
        self.header.covers -= gone;
        self.record.from_sequence = self.header.sequence;
        self.record.sequences = self.header.covers;
    }
}

/// The gaps of a spool, in order, and the file that keeps them.
#[derive(Debug)]
pub(super) struct Gaps {
    path: PathBuf,
    entries: BTreeMap<u64, Gap>,
    /// Set while the file still has what the hub has got.
    stale: bool,
}

impl Gaps {
    /// Reads the sidecar of a spool with this epoch; what is of another epoch does not count. A damaged part is reported as text
    /// and left out: the spool then finds the sequences unaccounted for and makes new gaps for them.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(super) fn load(path: &Path, epoch: u64) -> Result<(Self, Option<String>), SpoolError> {
        let mut gaps = Self { path: path.to_owned(), entries: BTreeMap::new(), stale: false };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((gaps, None)),
            Err(source) => return Err(SpoolError::File { what: "read", path: path.to_owned(), source }),
        };
        for record in files::records(&bytes) {
            match record.and_then(Gap::unseal) {
                Ok(gap) if gap.header.epoch == epoch => {
                    gaps.entries.insert(gap.header.sequence, gap);
                }
                Ok(_) => {}
                Err(why) => return Ok((gaps, Some(why))),
            }
        }
        Ok((gaps, None))
    }

    /// The gap that stands for `sequence`.
    #[must_use]
    pub(super) fn covering(&self, sequence: u64) -> Option<&Gap> {
        self.entries.range(..=sequence).next_back().map(|(_, gap)| gap).filter(|gap| gap.end() > sequence)
    }

    /// The first sequence that a gap stands for.
    #[must_use]
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.keys().next().copied()
    }

    /// All gaps in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.entries.values()
    }

    /// Adds gaps and makes them durable. They must not overlap those there are; neighbours of one kind become one.
    ///
    /// # Errors
    /// The disk refuses; nothing has changed then.
    pub(super) fn add(&mut self, gaps: Vec<Gap>) -> Result<(), SpoolError> {
        let mut entries = self.entries.clone();
        for gap in gaps {
            match entries.range_mut(..gap.header.sequence).next_back() {
                Some((_, before)) if before.takes(&gap) => before.merge(gap),
                _ => {
                    entries.insert(gap.header.sequence, gap);
                }
            }
        }
        self.replace(entries)
    }

    /// Takes the definitions out of the gap that stands for `sequence`: the hub does not take it with them.
    ///
    /// # Errors
    /// The disk refuses; nothing has changed then.
    pub(super) fn strip(&mut self, sequence: u64) -> Result<(), SpoolError> {
        let Some(first) = self.covering(sequence).map(|gap| gap.header.sequence) else { return Ok(()) };
        let mut entries = self.entries.clone();
        entries.entry(first).and_modify(|gap| gap.definitions.clear());
        self.replace(entries)
    }

    /// Forgets what lies below `below`, which the hub has; not flushed by itself, since it would only be shipped once more.
    pub(super) fn acknowledge(&mut self, below: u64) -> bool {
        if self.first().is_none_or(|first| first >= below) {
            return false;
        }
        let mut kept = self.entries.split_off(&below);
        if let Some((_, last)) = self.entries.pop_last()
            && last.end() > below
        {
            let mut last = last;
            last.cut(below);
            kept.insert(below, last);
        }
        self.entries = kept;
        self.stale = true;
        true
    }

    /// Writes the file if it still has what the hub has got.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn save_if_changed(&mut self) -> Result<(), SpoolError> {
        if std::mem::take(&mut self.stale)
            && let Err(error) = self.write(&self.entries)
        {
            self.stale = true;
            return Err(error);
        }
        Ok(())
    }

    fn replace(&mut self, entries: BTreeMap<u64, Gap>) -> Result<(), SpoolError> {
        self.write(&entries)?;
        self.entries = entries;
        self.stale = false;
        Ok(())
    }

    fn write(&self, entries: &BTreeMap<u64, Gap>) -> Result<(), SpoolError> {
        let mut out = Vec::new();
        for gap in entries.values() {
            files::put_record(&mut out, &gap.seal()?);
        }
        files::replace(&self.path, &out).map_err(|source| SpoolError::File { what: "write", path: self.path.clone(), source })
    }
}

/// A gap over `from..to` with nothing known of its content.
pub(super) fn unknown(header: BatchHeader, reason: GapReason) -> Gap {
    let record = GapRecord { from_sequence: header.sequence, sequences: header.covers, from_ms: None, to_ms: None, samples: 0, reason };
    Gap { header, record, definitions: Vec::new() }
}

/// The gap that takes the place of a batch, with what the batch says about itself.
pub(super) fn of_batch(batch: &Batch, reason: GapReason) -> Gap {
    let mut gap = unknown(batch.header.clone(), reason);
    // A section that does not decode says nothing; the sequence is accounted for all the same.
    let samples = batch.samples().unwrap_or_default();
    gap.record.samples = samples.len() as u64;
    gap.record.from_ms = samples.iter().map(|(_, sample)| sample.ts_ms).min();
    gap.record.to_ms = samples.iter().map(|(_, sample)| sample.ts_ms).max();
    gap.definitions = batch.definitions().unwrap_or_default();
    gap
}

#[cfg(test)]
mod tests {
    use anemone_model::{AgentId, CounterWidth, MetricKind};

    use super::*;

    fn def(n: u32) -> (u32, SeriesDef) {
        let name = n.to_string();
        (n, SeriesDef::new("m", [("n", name.as_str())], MetricKind::Gauge, CounterWidth::Unknown).unwrap())
    }

    fn gap(sequence: u64, covers: u64, dictionary: u64, defs: &[u32]) -> Gap {
        let agent = AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() };
        let header = BatchHeader { agent, epoch: 7, sequence, covers, dictionary, sealed_at_ms: 0 };
        let record = GapRecord {
            from_sequence: sequence,
            sequences: covers,
            from_ms: Some(sequence as i64),
            to_ms: Some((sequence + covers) as i64),
            samples: 10 * covers,
            reason: GapReason::SpoolFull,
        };
        Gap { header, record, definitions: defs.iter().map(|n| def(*n)).collect() }
    }

    fn ranges(gaps: &Gaps) -> Vec<(u64, u64)> {
        gaps.iter().map(|gap| (gap.header.sequence, gap.end())).collect()
    }

    #[test]
    fn neighbours_of_one_dictionary_are_merged_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gaps.cbor");
        let (mut gaps, damage) = Gaps::load(&path, 7).unwrap();
        assert_eq!(damage, None);
        gaps.add(vec![gap(3, 2, 1, &[0, 1]), gap(5, 1, 1, &[2])]).unwrap();
        gaps.add(vec![gap(6, 4, 1, &[]), gap(10, 1, 10, &[0]), gap(12, 1, 10, &[])]).unwrap();
        assert_eq!(ranges(&gaps), [(3, 10), (10, 11), (12, 13)]);
        let merged = gaps.covering(9).unwrap();
        assert_eq!((merged.record.samples, merged.record.from_ms, merged.record.to_ms), (70, Some(3), Some(10)));
        assert_eq!(merged.definitions, [def(0), def(1), def(2)]);
        assert!(gaps.covering(2).is_none() && gaps.covering(11).is_none());

        let (again, damage) = Gaps::load(&path, 7).unwrap();
        assert_eq!(damage, None);
        assert!(again.iter().eq(gaps.iter()));
        let batch = Batch::decode(merged.seal().unwrap()).unwrap();
        assert_eq!((batch.header.sequence, batch.header.covers), (3, 7));
        assert_eq!(batch.gaps().unwrap(), std::slice::from_ref(&merged.record));
        assert!(Gaps::load(&path, 8).unwrap().0.first().is_none(), "of another epoch");
    }

    #[test]
    fn what_the_hub_has_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (mut gaps, _) = Gaps::load(&dir.path().join("gaps.cbor"), 7).unwrap();
        gaps.add(vec![gap(3, 7, 1, &[0]), gap(20, 2, 1, &[])]).unwrap();
        assert!(!gaps.acknowledge(3));
        assert!(gaps.acknowledge(6));
        assert_eq!(ranges(&gaps), [(6, 10), (20, 22)]);
        assert_eq!(gaps.covering(6).unwrap().record.from_sequence, 6);
        assert_eq!(gaps.covering(6).unwrap().definitions.len(), 1, "later batches may still need them");
        assert!(gaps.acknowledge(20));
        assert_eq!(ranges(&gaps), [(20, 22)]);
    }

    #[test]
    fn definitions_can_be_given_up_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gaps.cbor");
        let (mut gaps, _) = Gaps::load(&path, 7).unwrap();
        gaps.add(vec![gap(3, 7, 1, &[0])]).unwrap();
        gaps.strip(5).unwrap();
        assert!(Gaps::load(&path, 7).unwrap().0.covering(3).unwrap().definitions.is_empty());
    }

    #[test]
    fn a_damaged_sidecar_gives_what_is_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gaps.cbor");
        let (mut gaps, _) = Gaps::load(&path, 7).unwrap();
        gaps.add(vec![gap(3, 1, 1, &[]), gap(20, 2, 1, &[])]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (gaps, damage) = Gaps::load(&path, 7).unwrap();
        assert_eq!(ranges(&gaps), [(3, 4)]);
        assert!(damage.unwrap().contains("cut off or damaged"));
    }
}
