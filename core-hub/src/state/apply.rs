//! Applying one command to the state. Synchronous, deterministic, never fails: what is wrong with a command is its outcome.

use std::collections::BTreeSet;

use anemone_model::{AgentId, Sample, SeriesDef};
use anemone_store::{SeriesRef, Store};
use anemone_wire::batch::{Batch, BatchHeader};
use anemone_wire::gap::GapRecord;
use bytes::Bytes;

use super::ControlState;
use super::agents::{Dictionary, Gap, REFUSED_SERIES, SeriesNumber};
use super::command::{BatchOutcome, Command, Control, Outcome};

/// Series in the order of their first definition: what turns a number, the same on every node, into this process' reference.
#[derive(Debug, Default)]
pub struct SeriesTable {
    references: Vec<SeriesRef>,
    /// Number + 1 by store reference; 0 where the store knows a series that the log has not defined.
    numbers: Vec<u32>,
}

impl SeriesTable {
    /// The number of a series, given now if it has none.
    pub fn number(&mut self, reference: SeriesRef) -> SeriesNumber {
        let at = reference.0 as usize;
        if self.numbers.len() <= at {
            self.numbers.resize(at + 1, 0);
        }
        if self.numbers[at] == 0 {
            self.references.push(reference);
            self.numbers[at] = u32::try_from(self.references.len()).expect("the store has fewer than 2^32 series");
        }
        self.numbers[at] - 1
    }

    /// The store's references in order of number.
    #[must_use]
    pub fn references(&self) -> &[SeriesRef] {
        &self.references
    }
}

/// A batch with everything decoded, ready to apply under the lock.
#[derive(Debug)]
pub struct DecodedBatch {
    header: BatchHeader,
    definitions: Vec<(u32, SeriesDef)>,
    samples: Vec<(u32, Sample)>,
    gaps: Vec<GapRecord>,
}

/// A batch that does not decode.
#[derive(Debug)]
pub struct BadBatch {
    /// The agent and spool epoch it says it is of, if that much can be read.
    of: Option<(AgentId, u64)>,
    why: String,
}

/// A command with its batches decoded.
#[derive(Debug)]
pub enum Decoded {
    /// Batches, each good or not.
    Batches(Vec<Result<DecodedBatch, BadBatch>>),
    /// A control command.
    Control(Control),
    /// Not a command.
    Refused(String),
}

/// Decodes an entry: the part that needs no state.
#[must_use]
pub fn decode(entry: &Bytes) -> Decoded {
    match Command::decode(entry) {
        Ok(Command::Control(control)) => Decoded::Control(control),
        Ok(Command::Batches(batches)) => Decoded::Batches(batches.into_iter().map(decode_batch).collect()),
        Err(error) => Decoded::Refused(error.to_string()),
    }
}

fn decode_batch(bytes: Bytes) -> Result<DecodedBatch, BadBatch> {
    let sections = |batch: Batch| {
        let (definitions, samples, gaps) = (batch.definitions()?, batch.samples()?, batch.gaps()?);
        Ok(DecodedBatch { header: batch.header, definitions, samples, gaps })
    };
    Batch::decode(bytes.clone())
        .and_then(sections)
        .map_err(|error| BadBatch { of: BatchHeader::peek(&bytes).ok().map(|header| (header.agent, header.epoch)), why: error.to_string() })
}

/// Applies a decoded entry at log index `index`.
pub fn apply(state: &mut ControlState, series: &mut SeriesTable, store: &Store, index: u64, decoded: Decoded) -> Outcome {
    match decoded {
        Decoded::Control(control) => Outcome::Changed(apply_control(state, index, control)),
        Decoded::Refused(why) => Outcome::Refused(why),
        Decoded::Batches(batches) => Outcome::Batches(apply_batches(state, series, store, batches)),
    }
}

/// Applies the batches of one entry. After one that is refused, those of the same spool epoch are refused too: were a later one
/// applied, the refused one could count as applied.
fn apply_batches(
    state: &mut ControlState,
    series: &mut SeriesTable,
    store: &Store,
    batches: Vec<Result<DecodedBatch, BadBatch>>,
) -> Vec<(BatchOutcome, u64)> {
    let mut interrupted = BTreeSet::new();
    let mut outcomes = Vec::with_capacity(batches.len());
    for batch in batches {
        outcomes.push(match batch {
            Ok(batch) => {
                let of = (batch.header.agent.clone(), batch.header.epoch);
                let after_refused = interrupted.contains(&of);
                let outcome = apply_batch(state, series, store, batch, after_refused);
                if !matches!(outcome.0, BatchOutcome::Applied | BatchOutcome::Duplicate) {
                    interrupted.insert(of);
                }
                outcome
            }
            Err(BadBatch { of, why }) => {
                interrupted.extend(of);
                (BatchOutcome::Malformed(why), 0)
            }
        });
    }
    outcomes
}

fn apply_batch(
    state: &mut ControlState,
    series: &mut SeriesTable,
    store: &Store,
    batch: DecodedBatch,
    after_refused: bool,
) -> (BatchOutcome, u64) {
    let BatchHeader { agent: id, epoch: epoch_name, sequence, covers, dictionary: dictionary_name, .. } = batch.header;
    let agent = state.agents.entry(id).or_default();
    let epoch = agent.epoch(epoch_name);
    let end = sequence + covers;
    if epoch.applied.contains(sequence, end) {
        return (BatchOutcome::Duplicate, epoch.applied.applied_below());
    }
    if after_refused {
        return (BatchOutcome::AfterRefused, epoch.applied.applied_below());
    }
    if let Some(reference) = undefined(&batch.definitions, &batch.samples, epoch.dictionaries.get(&dictionary_name)) {
        let outcome = BatchOutcome::UnknownSeries { dictionary: dictionary_name, reference };
        return (outcome, epoch.applied.applied_below());
    }
    let dictionary = epoch.dictionaries.entry(dictionary_name).or_default();
    let mut collisions = 0;
    for (reference, def) in &batch.definitions {
        let number = match store.register(def) {
            Ok(registered) => series.number(registered),
            Err(error) => {
                tracing::warn!(series = %def.labels, %error, "series refused");
                collisions += 1;
                REFUSED_SERIES
            }
        };
        dictionary.define(*reference, number);
    }
    let mut refused = 0;
    for (reference, sample) in &batch.samples {
        match dictionary.series(*reference).filter(|n| *n != REFUSED_SERIES) {
            // What the store says of a sample (new, duplicate) depends on what it has sealed already, which differs from node to
            // node, so it must not become part of the replicated state; the store counts it.
            Some(number) => drop(store.append(series.references[number as usize], *sample)),
            None => refused += 1,
        }
    }
    epoch.record(sequence, end);
    let below = epoch.applied.applied_below();
    agent.samples += batch.samples.len() as u64;
    agent.refused += refused;
    for record in batch.gaps {
        agent.push_gap(Gap { epoch: epoch_name, record });
    }
    state.collisions += collisions;
    state.series = u32::try_from(series.references.len()).unwrap_or(u32::MAX);
    (BatchOutcome::Applied, below)
}

/// The first reference among a batch's samples that neither the batch nor its dictionary defines.
fn undefined(definitions: &[(u32, SeriesDef)], samples: &[(u32, Sample)], dictionary: Option<&Dictionary>) -> Option<u32> {
    let new: BTreeSet<u32> = definitions.iter().map(|(reference, _)| *reference).collect();
    let known = |reference| dictionary.is_some_and(|d| d.series(reference).is_some()) || new.contains(&reference);
    samples.iter().map(|(reference, _)| *reference).find(|reference| !known(*reference))
}

fn apply_control(state: &mut ControlState, index: u64, control: Control) -> u64 {
    match control {
        Control::PutDevices(devices) => state.inventory.put(devices, index, &mut state.agents),
        Control::RemoveDevices(names) => state.inventory.remove(&names, index, &mut state.agents),
        Control::AgentSeen { agent: id, http, software } => {
            let agent = state.agents.entry(id.clone()).or_default();
            let joined = !std::mem::replace(&mut agent.active, true);
            agent.dark_since_ms = None;
            agent.http = http;
            agent.software = software;
            1 + if joined { state.inventory.reassign(&id.pop, index, &mut state.agents) } else { 0 }
        }
        Control::AgentDark { agent, since_ms } => set_dark(state, &agent, since_ms),
        Control::AgentEvicted { agent: id } => match state.agents.get_mut(&id) {
            Some(agent) if agent.active => {
                agent.active = false;
                1 + state.inventory.reassign(&id.pop, index, &mut state.agents)
            }
            _ => 0,
        },
    }
}

fn set_dark(state: &mut ControlState, agent: &AgentId, since_ms: i64) -> u64 {
    match state.agents.get_mut(agent) {
        Some(agent) if agent.dark_since_ms.is_none() => {
            agent.dark_since_ms = Some(since_ms);
            1
        }
        _ => 0,
    }
}
