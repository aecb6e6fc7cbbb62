//! A recording's data at one moment, standing still or animated.
//!
//! Animated, the clocks tick and every counter that was not zero grows; the 32-bit and the 64-bit counter of one
//! metric and interface grow alike. After a reboot clocks and counters begin at zero and are animated in any case.

use super::{
    ber,
    counters::Law,
    device::{Clock, Conditions, StartOffset},
    ledger::SeriesKey,
    recording::Recording,
    response::Value,
    view::{Cursor, Found, View},
};

/// Borrowed while one request is answered.
pub(crate) struct ReplayView<'a> {
    pub(crate) recording: &'a Recording,
    pub(crate) key: u64,
    pub(crate) animated: bool,
    pub(crate) clock: Clock,
    pub(crate) conditions: Conditions,
}

impl ReplayView<'_> {
    fn moving(&self) -> bool {
        self.animated || self.conditions.rebooted
    }

    /// Mean rates from 50 kbit/s to some 100 Mbit/s where they are octets.
    fn growth(&self, animation: u64) -> u64 {
        let key = crate::chance::mix(self.key ^ animation);
        let law = Law { key, day_ms: self.clock.day_ms, mean_per_ms: 6.0 * f64::from(1_u32 << (key >> 50 & 0xf)) / 10.0 };
        match self.conditions.offset {
            StartOffset::NearWrap { after_ms } => law.growth(self.clock.up_ms).wrapping_sub(law.growth(u64::from(after_ms)).max(1)),
            StartOffset::High => law.growth(self.clock.up_ms) | 1 << 63,
            StartOffset::Zero => law.growth(self.clock.up_ms),
        }
    }
}

impl View for ReplayView<'_> {
    fn find(&self, oid: &[u32]) -> Found {
        let position = self.recording.position(oid);
        let at = |position: usize| (position < self.recording.len()).then(|| self.recording.arcs(self.recording.entry(position as u32)));
        if at(position).is_some_and(|name| name == oid) {
            return Found::At(Cursor { object: position as u32, row: 0 });
        }
        // The object exists if a neighbour in order shares everything but the last sub-identifier.
        let parent = oid.split_last().map_or(oid, |(_, parent)| parent);
        let neighbours = [Some(position), position.checked_sub(1)];
        if neighbours.into_iter().flatten().filter_map(at).any(|name| name.starts_with(parent)) {
            Found::NoSuchInstance
        } else {
            Found::NoSuchObject
        }
    }

    fn after(&self, oid: &[u32]) -> Option<Cursor> {
        let position = self.recording.position(oid);
        let same = position < self.recording.len() && self.recording.arcs(self.recording.entry(position as u32)) == oid;
        let position = position + usize::from(same);
        (position < self.recording.len()).then_some(Cursor { object: position as u32, row: 0 })
    }

    fn step(&self, cursor: Cursor) -> Option<Cursor> {
        let next = cursor.object + 1;
        ((next as usize) < self.recording.len()).then_some(Cursor { object: next, row: 0 })
    }

    fn oid_len(&self, cursor: Cursor) -> usize {
        self.recording.octets(self.recording.entry(cursor.object)).len()
    }

    fn put_oid(&self, cursor: Cursor, out: &mut Vec<u8>) {
        out.extend_from_slice(self.recording.octets(self.recording.entry(cursor.object)));
    }

    fn value(&self, cursor: Cursor) -> Value<'_> {
        let entry = self.recording.entry(cursor.object);
        let base = |recorded: u64| if self.conditions.rebooted { 0 } else { recorded };
        match self.recording.value(entry) {
            Value::Unsigned(ber::TIME_TICKS, recorded) if entry.uptime && self.moving() => {
                Value::Unsigned(ber::TIME_TICKS, (base(recorded) + self.clock.up_ms / 10) & 0xffff_ffff)
            }
            Value::Unsigned(tag @ ber::COUNTER32, recorded) if recorded != 0 && self.moving() => {
                Value::Unsigned(tag, base(recorded).wrapping_add(self.growth(entry.animation)) & 0xffff_ffff)
            }
            Value::Unsigned(tag @ ber::COUNTER64, recorded) if recorded != 0 && self.moving() => {
                Value::Unsigned(tag, base(recorded).wrapping_add(self.growth(entry.animation)))
            }
            recorded => recorded,
        }
    }

    fn series(&self, cursor: Cursor) -> Option<SeriesKey> {
        self.recording.entry(cursor.object).series
    }
}
