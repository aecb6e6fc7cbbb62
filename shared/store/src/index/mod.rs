//! The series index: which series exist, their labels, and which of them fit matchers.
//!
//! Made to be small: label strings are interned once, each name=value pair has a number, a series is a slice of pair numbers in
//! one arena, and the postings of a pair are a bitmap of series. About 50 bytes a series of interface counters. Series are never removed.

mod postings;
mod table;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use anemone_model::{CounterWidth, Labels, METRIC_NAME, MetricKind, SeriesDef, SeriesId};
use postings::Postings;
use table::Table;

use crate::error::StoreError;

/// A series in this process: dense, from 0, in order of registration. Means nothing to another process or after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesRef(pub u32);

/// A name=value pair as numbers of interned strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    pub(crate) name: u32,
    pub(crate) value: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SeriesIndex {
    hasher: RandomState,
    strings: Vec<Arc<str>>,
    string_table: Table,
    pairs: Vec<Pair>,
    pair_table: Table,
    postings: Vec<Postings>,
    /// The pairs of each label name, by the name's number.
    pairs_of: HashMap<u32, Vec<u32>>,
    /// The pair numbers of all series, one after the other.
    arena: Vec<u32>,
    /// Where each series' pairs end in the arena.
    ends: Vec<u32>,
    ids: Vec<u64>,
    id_table: Table,
    /// Kind and width of each series: see [`kind_code`].
    kinds: Vec<u8>,
}

/// Kind and counter width in one byte: the kind's code above two bits of width.
pub(crate) fn kind_code(kind: MetricKind, width: CounterWidth) -> u8 {
    (kind.code() << 2) | (width.bits() / 32)
}

/// The inverse of [`kind_code`].
pub(crate) fn kind_of_code(code: u8) -> Option<(MetricKind, CounterWidth)> {
    Some((MetricKind::from_code(code >> 2)?, CounterWidth::from_bits((code & 3) * 32)?))
}

impl SeriesIndex {
    /// The number of series.
    pub(crate) fn len(&self) -> u32 {
        self.ids.len() as u32
    }

    /// Adds a series, or finds it; the kind and width given last count.
    pub(crate) fn register(&mut self, def: &SeriesDef, limit: u32) -> Result<SeriesRef, StoreError> {
        self.register_as(def.id(), def, limit)
    }

    fn register_as(&mut self, id: SeriesId, def: &SeriesDef, limit: u32) -> Result<SeriesRef, StoreError> {
        let code = kind_code(def.kind, def.width);
        if let Some(found) = self.id_table.find(id.0, |n| self.ids[n as usize] == id.0) {
            if !self.has_labels(found, &def.labels) {
                let existing = self.labels(SeriesRef(found));
                return Err(StoreError::Collision { id, existing, offered: def.labels.clone() });
            }
            self.kinds[found as usize] = code;
            return Ok(SeriesRef(found));
        }
        let series = self.len();
        if series >= limit || self.arena.len() + def.labels.len() > u32::MAX as usize {
            return Err(StoreError::SeriesLimit { limit: limit.min(series) });
        }
        for (name, value) in def.labels.as_pairs() {
            let pair = Pair { name: self.intern(name), value: self.intern(value) };
            let number = self.intern_pair(pair);
            self.postings[number as usize].insert(series);
            self.arena.push(number);
        }
        self.ends.push(self.arena.len() as u32);
        self.ids.push(id.0);
        self.kinds.push(code);
        let ids = &self.ids;
        self.id_table.insert(id.0, series, |n| ids[n as usize]);
        Ok(SeriesRef(series))
    }

    /// The series with exactly these labels.
    pub(crate) fn find(&self, labels: &Labels) -> Option<SeriesRef> {
        let id = SeriesId::of(labels).0;
        self.id_table.find(id, |n| self.ids[n as usize] == id && self.has_labels(n, labels)).map(SeriesRef)
    }

    fn has_labels(&self, series: u32, labels: &Labels) -> bool {
        let pairs = self.pairs_of_series(SeriesRef(series));
        pairs.len() == labels.len()
            && pairs
                .zip(labels.iter())
                .all(|(p, (name, value))| *self.strings[p.name as usize] == *name && *self.strings[p.value as usize] == *value)
    }

    fn intern(&mut self, string: &Arc<str>) -> u32 {
        if let Some(found) = self.string(string) {
            return found;
        }
        let number = self.strings.len() as u32;
        self.strings.push(Arc::clone(string));
        let (hasher, strings) = (&self.hasher, &self.strings);
        self.string_table.insert(hasher.hash_one(&**string), number, |n| hasher.hash_one(&*strings[n as usize]));
        number
    }

    fn intern_pair(&mut self, pair: Pair) -> u32 {
        if let Some(found) = self.pair(pair) {
            return found;
        }
        let number = self.pairs.len() as u32;
        self.pairs.push(pair);
        self.postings.push(Postings::default());
        self.pairs_of.entry(pair.name).or_default().push(number);
        let (hasher, pairs) = (&self.hasher, &self.pairs);
        self.pair_table.insert(hasher.hash_one(pair), number, |n| hasher.hash_one(pairs[n as usize]));
        number
    }

    /// The number of an interned string.
    fn string(&self, string: &str) -> Option<u32> {
        self.string_table.find(self.hasher.hash_one(string), |n| *self.strings[n as usize] == *string)
    }

    fn pair(&self, pair: Pair) -> Option<u32> {
        self.pair_table.find(self.hasher.hash_one(pair), |n| self.pairs[n as usize] == pair)
    }

    /// The interned string of a number that came from [`Self::pairs_of_series`].
    pub(crate) fn text(&self, string: u32) -> &Arc<str> {
        &self.strings[string as usize]
    }

    /// A series' labels as numbers of strings, in order of label name.
    pub(crate) fn pairs_of_series(&self, series: SeriesRef) -> impl ExactSizeIterator<Item = Pair> {
        let at = series.0 as usize;
        let from = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.arena[from as usize..self.ends[at] as usize].iter().map(|n| self.pairs[*n as usize])
    }

    /// A series' labels.
    pub(crate) fn labels(&self, series: SeriesRef) -> Labels {
        let pairs = self.pairs_of_series(series).map(|p| (Arc::clone(self.text(p.name)), Arc::clone(self.text(p.value))));
        Labels::new(pairs).expect("the labels were valid when they were registered")
    }

    /// The byte of a series' kind and width.
    pub(crate) fn kind(&self, series: SeriesRef) -> u8 {
        self.kinds[series.0 as usize]
    }

    /// A series' definition.
    pub(crate) fn def(&self, series: SeriesRef) -> SeriesDef {
        let (kind, width) = kind_of_code(self.kind(series)).expect("only written from a kind and a width");
        SeriesDef { labels: self.labels(series), kind, width }
    }

    /// The number of the string `__name__`, where any series has a metric name.
    fn metric_name(&self) -> Option<u32> {
        self.string(METRIC_NAME)
    }
}

#[cfg(test)]
mod tests;
