//! What the replicated state knows of agents: reachability, what of their spools is applied, their dictionaries, their gaps.

use std::collections::BTreeMap;

use anemone_model::AgentId;
use anemone_wire::gap::GapRecord;
use serde::{Deserialize, Serialize};

use super::intervals::IntervalSet;

/// Number of a series in the replicated state: the order of its first registration, the same on every node.
pub type SeriesNumber = u32;
/// Marks a reference that was defined but refused, such as for a collision of ids; its samples are counted, not stored.
pub const REFUSED_SERIES: SeriesNumber = u32::MAX;
const UNDEFINED: u32 = 0;
const REFUSED_STORED: u32 = u32::MAX;
/// How many spool epochs of an agent keep their dictionaries; older ones keep only what was applied.
const EPOCHS_WITH_DICTIONARIES: usize = 2;
/// How many gap records are kept per agent; older ones are dropped first.
const GAPS_MAX: usize = 1_000;

/// References of one dictionary. Stored as number + 1, so that 0 is "not defined"; encoded as one string of little-endian bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "serde_bytes::ByteBuf", into = "serde_bytes::ByteBuf")]
pub struct Dictionary(Vec<u32>);

impl From<serde_bytes::ByteBuf> for Dictionary {
    fn from(bytes: serde_bytes::ByteBuf) -> Self {
        Self(bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect())
    }
}

impl From<Dictionary> for serde_bytes::ByteBuf {
    fn from(dictionary: Dictionary) -> Self {
        Self::from(dictionary.0.iter().flat_map(|stored| stored.to_le_bytes()).collect::<Vec<u8>>())
    }
}

impl Dictionary {
    /// Says what a reference stands for.
    pub fn define(&mut self, reference: u32, series: SeriesNumber) {
        let at = reference as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, UNDEFINED);
        }
        self.0[at] = if series == REFUSED_SERIES { REFUSED_STORED } else { series + 1 };
    }

    /// What a reference stands for.
    #[must_use]
    pub fn series(&self, reference: u32) -> Option<SeriesNumber> {
        match self.0.get(reference as usize) {
            None | Some(&UNDEFINED) => None,
            Some(&REFUSED_STORED) => Some(REFUSED_SERIES),
            Some(stored) => Some(stored - 1),
        }
    }

    /// How many references it spans.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was defined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One spool epoch of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochState {
    /// Sequences applied.
    pub applied: IntervalSet,
    /// Dictionaries by name.
    pub dictionaries: BTreeMap<u64, Dictionary>,
    /// Order of first appearance among the agent's epochs.
    pub order: u64,
}

/// A gap as it was reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The spool epoch it belongs to.
    pub epoch: u64,
    /// The record.
    pub record: GapRecord,
}

/// One agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Base URL of its HTTP API; empty until it said hello to a leader.
    pub http: String,
    /// Its software version.
    pub software: String,
    /// Set while it is dark: when it was last heard, in milliseconds since 1970 UTC.
    pub dark_since_ms: Option<i64>,
    /// Whether it takes part in assignment: it said hello and was not evicted since.
    pub active: bool,
    /// Epoch of its newest assignment: the log index of the change.
    pub assignment_epoch: u64,
    /// Its spool epochs.
    pub epochs: BTreeMap<u64, EpochState>,
    /// What it had to give up, oldest first.
    pub gaps: Vec<Gap>,
    /// Samples in its batches applied so far.
    pub samples: u64,
    /// How many of them were of series refused for a collision of ids, and so not stored.
    pub refused: u64,
}

impl AgentState {
    /// The epoch's state, created when new; creating one may retire the dictionaries of an old one.
    pub fn epoch(&mut self, epoch: u64) -> &mut EpochState {
        if !self.epochs.contains_key(&epoch) {
            let order = self.epochs.values().map(|e| e.order + 1).max().unwrap_or(0);
            self.epochs.insert(epoch, EpochState { order, ..EpochState::default() });
            for old in self.epochs.values_mut().filter(|e| e.order + EPOCHS_WITH_DICTIONARIES as u64 <= order) {
                old.dictionaries.clear();
            }
        }
        self.epochs.get_mut(&epoch).expect("present or just inserted")
    }

    /// Below which sequence everything of `epoch` is applied; 0 for an epoch never seen.
    #[must_use]
    pub fn applied_below(&self, epoch: u64) -> u64 {
        self.epochs.get(&epoch).map_or(0, |e| e.applied.applied_below())
    }

    /// Adds a gap, dropping the oldest over the limit.
    pub fn push_gap(&mut self, gap: Gap) {
        if self.gaps.len() == GAPS_MAX {
            self.gaps.remove(0);
        }
        self.gaps.push(gap);
    }
}

impl EpochState {
    /// Records `from..to` as applied and lets go of dictionaries that no batch to come can use: those before the newest
    /// one whose beginning is applied.
    pub fn record(&mut self, from: u64, to: u64) {
        self.applied.insert(from, to);
        let below = self.applied.applied_below();
        if let Some((&current, _)) = self.dictionaries.range(..=below).next_back() {
            self.dictionaries.retain(|name, _| *name >= current);
        }
    }
}

/// All agents, in order.
pub type Agents = BTreeMap<AgentId, AgentState>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_tells_undefined_from_refused() {
        let mut dictionary = Dictionary::default();
        dictionary.define(2, 0);
        dictionary.define(3, REFUSED_SERIES);
        assert_eq!([0, 2, 3, 4].map(|r| dictionary.series(r)), [None, Some(0), Some(REFUSED_SERIES), None]);
    }

    #[test]
    fn a_dictionary_goes_once_the_next_has_begun_and_all_before_is_applied() {
        let mut epoch = EpochState::default();
        for name in [1, 10, 20] {
            epoch.dictionaries.insert(name, Dictionary::default());
        }
        epoch.record(1, 9);
        assert_eq!(epoch.dictionaries.len(), 3);
        epoch.record(9, 10);
        assert_eq!(epoch.dictionaries.keys().copied().collect::<Vec<_>>(), [10, 20]);
        epoch.record(15, 30);
        assert_eq!(epoch.dictionaries.len(), 2, "10..15 is still to come");
    }

    #[test]
    fn old_epochs_keep_what_was_applied_but_no_dictionary() {
        let mut agent = AgentState::default();
        for epoch in [7, 3, 9] {
            let state = agent.epoch(epoch);
            state.dictionaries.insert(1, Dictionary::default());
            state.record(1, 5);
        }
        assert_eq!(agent.applied_below(7), 5);
        assert!(agent.epochs[&7].dictionaries.is_empty());
        assert!(!agent.epochs[&3].dictionaries.is_empty() && !agent.epochs[&9].dictionaries.is_empty());
    }
}
