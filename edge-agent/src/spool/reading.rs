//! Reading back: for the uplink, for the local store after a restart, and to mend what the hub could not use. All of it blocks.

use std::collections::BTreeMap;

use anemone_log::LogError;
use anemone_model::{Sample, SeriesDef};
use anemone_wire::batch::{Batch, BatchBuilder, BatchHeader, EncodedSections};
use anemone_wire::gap::GapReason;
use bytes::Bytes;

use super::error::SpoolError;
use super::gaps::{self, Gap};
use super::{Counters, Spool, lock};

/// Most damaged records in a row that are looked for at once.
const DAMAGE_RUN_MAX: u64 = 100_000;

/// A batch to ship.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its sequence.
    pub sequence: u64,
    /// How many sequences it stands for.
    pub covers: u64,
    /// The sealed batch.
    pub bytes: Bytes,
}

/// What replaying brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Batches read.
    pub batches: u64,
    /// Samples handed on.
    pub samples: u64,
    /// Batches that could not be read.
    pub unreadable: u64,
    /// Samples whose definition is lost.
    pub undefined: u64,
}

impl Spool {
    /// The batches to ship from `from` on: as many as fit into `max_bytes`, but one at least if there is one on disk. What cannot be
    /// read back becomes a gap, for exactly those sequences.
    ///
    /// # Errors
    /// The disk refuses to be read, or to keep a gap.
    pub fn read(&self, from: u64, max_bytes: u64) -> Result<Vec<Outgoing>, SpoolError> {
        let durable = self.log.durable_index();
        let (mut at, mut bytes, mut batches) = (from, 0_u64, Vec::new());
        while at < durable && (batches.is_empty() || bytes < max_bytes) {
            let outgoing = match self.substitute(at)? {
                Some(outgoing) => outgoing,
                None => match self.log.read(at) {
                    Ok(Some(record)) => Outgoing { sequence: at, covers: 1, bytes: record },
                    // Purged meanwhile: either acknowledged, or a gap stands for it by now.
                    Ok(None) if at < self.log.first_index() && lock(&self.state).gaps.covering(at).is_some() => continue,
                    Ok(None) => break,
                    Err(LogError::Corrupt { .. }) => {
                        self.account_for_damage(at, durable)?;
                        continue;
                    }
                    Err(error) if batches.is_empty() => return Err(error.into()),
                    Err(_) => break,
                },
            };
            at = outgoing.sequence + outgoing.covers;
            bytes += outgoing.bytes.len() as u64;
            batches.push(outgoing);
        }
        Ok(batches)
    }

    /// What is shipped in the place of the record at `sequence`, if anything is.
    fn substitute(&self, sequence: u64) -> Result<Option<Outgoing>, SpoolError> {
        let state = lock(&self.state);
        if let Some(gap) = state.gaps.covering(sequence) {
            let gap = gap.from(sequence);
            return Ok(Some(Outgoing { sequence, covers: gap.header.covers, bytes: gap.seal()? }));
        }
        Ok(state.amended.get(&sequence).map(|bytes| Outgoing { sequence, covers: 1, bytes: bytes.clone() }))
    }

    /// Makes one gap for the damaged records from `from` on.
    fn account_for_damage(&self, from: u64, durable: u64) -> Result<(), SpoolError> {
        let limit = durable.min(from.saturating_add(DAMAGE_RUN_MAX));
        let mut end = from + 1;
        while end < limit && matches!(self.log.read(end), Err(LogError::Corrupt { .. })) && lock(&self.state).gaps.covering(end).is_none() {
            end += 1;
        }
        let mut state = lock(&self.state);
        let gap = gaps::unknown(self.header(&state, from, end - from), GapReason::SpoolCorrupt);
        state.gaps.add(vec![gap])?;
        Counters::add(&self.counters.corrupt, end - from);
        tracing::error!(from, to = end, "batches of the spool cannot be read back; a gap record goes in their place");
        Ok(())
    }

    /// Puts a gap in the place of a batch that the hub will never take. A gap that it does not take either loses its definitions.
    ///
    /// # Errors
    /// The disk refuses to keep the gap.
    pub fn give_up(&self, sequence: u64, why: &str) -> Result<(), SpoolError> {
        tracing::error!(sequence, why, "the hub refuses a batch for good; a gap record goes in its place");
        Counters::add(&self.counters.given_up, 1);
        let record = self.log.read(sequence);
        let mut state = lock(&self.state);
        state.amended.remove(&sequence);
        if state.gaps.covering(sequence).is_some() {
            return state.gaps.strip(sequence);
        }
        let batch = record.ok().flatten().and_then(|record| Batch::decode(record).ok());
        let gap = match batch {
            Some(batch) => gaps::of_batch(&batch, GapReason::SpoolCorrupt),
            None => gaps::unknown(self.header(&state, sequence, 1), GapReason::SpoolCorrupt),
        };
        state.gaps.add(vec![gap])
    }

    /// Seals a batch anew with the definitions of all references it uses: the hub has not got them. Where they are lost the batch is
    /// given up, and if its dictionary is the present one the batcher is told to begin another.
    ///
    /// # Errors
    /// The disk refuses to be read, or to keep a gap.
    pub fn amend(&self, sequence: u64) -> Result<(), SpoolError> {
        let amended = match self.log.read(sequence)? {
            Some(record) => self.with_definitions(record)?,
            None => return Ok(()),
        };
        match amended {
            Some(bytes) => {
                tracing::warn!(sequence, "the hub lacks series definitions; the batch is sent again with them");
                Counters::add(&self.counters.amended, 1);
                lock(&self.state).amended.insert(sequence, bytes);
                Ok(())
            }
            None => {
                let current = lock(&self.state).starts.last().is_some_and(|start| *start <= sequence);
                if current {
                    self.want_new_dictionary();
                }
                self.give_up(sequence, "it uses series whose definitions are lost")
            }
        }
    }

    /// Tells the batcher to define everything anew.
    pub(crate) fn want_new_dictionary(&self) {
        let Some(generation) = lock(&self.state).generation else { return };
        // Several batches of one generation ask for the same next one.
        self.generation_wanted.fetch_max(generation + 1, std::sync::atomic::Ordering::AcqRel);
    }

    /// The batch with all definitions it needs, or nothing where one is lost.
    fn with_definitions(&self, record: Bytes) -> Result<Option<Bytes>, SpoolError> {
        let batch = Batch::decode(record)?;
        let known = self.definitions(&batch.header);
        let mut wanted: Vec<u32> = batch.samples()?.iter().map(|(reference, _)| *reference).collect();
        wanted.dedup();
        let mut builder = BatchBuilder::new();
        for reference in wanted {
            match known.get(&reference) {
                Some(def) => builder.define(reference, def.clone()),
                None => return Ok(None),
            }
        }
        let definitions = Batch::decode(builder.encode()?.seal(&batch.header)?)?.sections;
        let own = batch.sections.into_iter().filter(|section| section.kind != anemone_wire::batch::kind::DEFINITIONS);
        let sections = definitions.into_iter().chain(own).collect();
        Ok(EncodedSections::from_sections(sections).seal(&batch.header).ok())
    }

    /// Everything that the dictionary of this batch defines up to and with it, as far as it can be read.
    fn definitions(&self, header: &BatchHeader) -> BTreeMap<u32, SeriesDef> {
        let mut known = self.dictionaries.read(header.dictionary, self.epoch);
        for sequence in header.dictionary.max(self.log.first_index())..=header.sequence {
            let batch = self.log.read(sequence).ok().flatten().and_then(|record| Batch::decode(record).ok());
            known.extend(batch.and_then(|batch| batch.definitions().ok()).into_iter().flatten());
        }
        known
    }

    /// Hands on every sample from the first batch that the local store does not cover. `define` names a series as its definition is
    /// met and gives what `take` gets with each of its samples.
    pub fn replay<S: Copy>(&self, mut define: impl FnMut(&SeriesDef) -> Option<S>, mut take: impl FnMut(S, Sample)) -> Replayed {
        let from = lock(&self.state).covered_below.max(self.log.first_index());
        let (mut replayed, mut dictionary) = (Replayed::default(), None);
        let mut series: BTreeMap<u32, Option<S>> = BTreeMap::new();
        for sequence in from..self.log.next_index() {
            let read = self.log.read(sequence).ok().flatten().and_then(|record| Batch::decode(record).ok());
            let Some((batch, samples)) = read.and_then(|batch| batch.samples().ok().map(|samples| (batch, samples))) else {
                replayed.unreadable += 1;
                continue;
            };
            let definitions = if dictionary.replace(batch.header.dictionary) == Some(batch.header.dictionary) {
                batch.definitions().unwrap_or_default()
            } else {
                series.clear();
                self.definitions(&batch.header).into_iter().collect()
            };
            series.extend(definitions.into_iter().map(|(reference, def)| (reference, define(&def))));
            replayed.batches += 1;
            for (reference, sample) in samples {
                match series.get(&reference) {
                    Some(Some(series)) => {
                        replayed.samples += 1;
                        take(*series, sample);
                    }
                    _ => replayed.undefined += 1,
                }
            }
        }
        replayed
    }
}

impl Gap {
    /// The part of it from `sequence` on.
    fn from(&self, sequence: u64) -> Self {
        let mut rest = self.clone();
        rest.cut(sequence);
        rest
    }
}
