//! Walks a table whose rows are not known: several columns side by side by GetBulk, to the end of each.
//!
//! No I/O: [`Walk::ask`] says what to ask next, [`Walk::answered`] takes the answer. Each column ends for itself: at its last row, at
//! an error status that names it, when its OIDs do not increase, or at the row limit; the others go on. An answer that brings no
//! column forward ends those it was asked for, so a walk always ends.

use csnmp::ObjectIdentifier;

use super::ber::{Message, ValueView};
use super::limits::{Limits, WALK_REPETITIONS_MAX, WALK_REPETITIONS_MIN, WALK_VARBINDS_MAX};
use super::oid::{Oid, is_valid_index, order};
use super::request::{Ask, EncodeError, EncodedRequest};
use crate::profiles::Object;

/// RFC 3416, 3: the answer would not fit a message.
pub const STATUS_TOO_BIG: u32 = 1;

/// Why a column of a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnEnd {
    /// After its last row.
    Complete,
    /// The device gave an OID not above the one before.
    NotIncreasing,
    /// More rows than are taken.
    RowLimit,
    /// The device answered with an error status for it.
    Status(u32),
    /// An answer without anything usable for it.
    NoProgress,
}

#[derive(Debug, Clone, Default)]
struct Cursor {
    /// Index of the last row seen; empty at the start.
    last: Vec<u8>,
    rows: usize,
    end: Option<ColumnEnd>,
}

/// A walk under way.
#[derive(Debug, Clone)]
pub struct Walk {
    cursors: Vec<Cursor>,
    rows_max: usize,
    /// Columns of the request under way.
    asked: Vec<usize>,
    repetitions: u32,
    /// Asks for one column at a time, to find out which one the device trips over.
    isolating: bool,
    bad_varbinds: u64,
}

impl Walk {
    /// A walk of so many columns.
    #[must_use]
    pub fn new(columns: usize, rows_max: usize) -> Self {
        let cursors = vec![Cursor::default(); columns];
        Self { cursors, rows_max, asked: Vec::new(), repetitions: 0, isolating: false, bad_varbinds: 0 }
    }

    /// Chooses what to ask next, within `limits`; `false` when all columns have ended. May be called again to ask for less.
    pub fn ask(&mut self, limits: &Limits) -> bool {
        let budget = limits.varbinds().min(WALK_VARBINDS_MAX);
        let group = if self.isolating { 1 } else { (budget / WALK_REPETITIONS_MIN as usize).max(1) };
        self.asked.clear();
        self.asked.extend(self.cursors.iter().enumerate().filter(|(_, c)| c.end.is_none()).map(|(at, _)| at).take(group));
        if self.asked.is_empty() {
            return false;
        }
        let repetitions = u32::try_from(budget / self.asked.len()).unwrap_or(1).clamp(1, WALK_REPETITIONS_MAX);
        self.repetitions = repetitions;
        true
    }

    /// How many varbinds of columns the request asks for.
    #[must_use]
    pub fn varbinds(&self) -> usize {
        self.asked.len() * self.repetitions as usize
    }

    /// Encodes what [`Walk::ask`] chose; `scalars` (without their `.0`) come first.
    ///
    /// # Errors
    /// As [`EncodedRequest::new`].
    pub fn request(&self, columns: &[Object], community: &[u8], scalars: &[ObjectIdentifier]) -> Result<EncodedRequest, EncodeError> {
        let next = self.asked.iter().map(|at| position(&columns[*at], &self.cursors[*at].last));
        let ask = bulk_or_next(scalars.len(), self.repetitions);
        EncodedRequest::new(community, ask, scalars.iter().copied().chain(next))
    }

    /// Takes an answer whose first `scalars` varbinds are not of the table. `each` is given column, index and value of every row seen.
    ///
    /// `limits` shrinks where the device says tooBig; the same rows are then asked for again.
    pub fn answered(
        &mut self,
        columns: &[Object],
        message: &Message<'_>,
        scalars: usize,
        limits: &mut Limits,
        mut each: impl FnMut(usize, &[u8], ValueView<'_>),
    ) {
        if message.error_status != 0 {
            return self.refused(message, scalars, limits);
        }
        let mut progress = vec![false; self.asked.len()];
        for (at, varbind) in message.varbinds().skip(scalars).enumerate() {
            let place = at % self.asked.len();
            let column = self.asked[place];
            let cursor = &mut self.cursors[column];
            if cursor.end.is_some() {
                continue;
            }
            let Ok(varbind) = varbind else {
                self.bad_varbinds += 1;
                continue;
            };
            progress[place] = true;
            let Some(index) = varbind.name.index_below(&columns[column].octets) else {
                cursor.end = Some(ColumnEnd::Complete);
                continue;
            };
            let value = varbind.value();
            if matches!(value, Ok(v) if v.is_exception()) {
                cursor.end = Some(ColumnEnd::Complete);
            } else if !is_valid_index(index) || !order(index, &cursor.last).is_gt() {
                cursor.end = Some(ColumnEnd::NotIncreasing);
            } else if cursor.rows >= self.rows_max {
                cursor.end = Some(ColumnEnd::RowLimit);
            } else {
                cursor.rows += 1;
                cursor.last.clear();
                cursor.last.extend_from_slice(index);
                match value {
                    Ok(value) => each(column, index, value),
                    Err(_) => self.bad_varbinds += 1,
                }
            }
        }
        // A short answer may simply not have reached the later columns; one that reached none of them helps nobody.
        if !progress.contains(&true) && !limits.shrink(self.varbinds()) {
            self.end_asked(ColumnEnd::NoProgress);
        }
    }

    fn refused(&mut self, message: &Message<'_>, scalars: usize, limits: &mut Limits) {
        let end = ColumnEnd::Status(message.error_status);
        if message.error_status == STATUS_TOO_BIG {
            if !limits.shrink(self.varbinds()) {
                self.end_asked(end);
            }
            return;
        }
        let named = (message.error_index as usize).checked_sub(scalars + 1).filter(|at| *at < self.asked.len());
        match named {
            Some(place) => self.cursors[self.asked[place]].end = Some(end),
            None if self.asked.len() > 1 => self.isolating = true,
            None => self.end_asked(end),
        }
    }

    fn end_asked(&mut self, end: ColumnEnd) {
        for at in &self.asked {
            self.cursors[*at].end = Some(end);
        }
    }

    /// Columns that ended otherwise than after their last row.
    pub fn faults(&self) -> impl Iterator<Item = (usize, ColumnEnd)> {
        self.cursors.iter().enumerate().filter_map(|(at, c)| c.end.filter(|end| *end != ColumnEnd::Complete).map(|end| (at, end)))
    }

    /// Varbinds that could not be read.
    #[must_use]
    pub fn bad_varbinds(&self) -> u64 {
        self.bad_varbinds
    }
}

/// GetNext where one repetition is all that is asked for, GetBulk otherwise.
pub(super) fn bulk_or_next(scalars: usize, repetitions: u32) -> Ask {
    match repetitions {
        1 => Ask::GetNext,
        max_repetitions => Ask::GetBulk { non_repeaters: u32::try_from(scalars).unwrap_or(0), max_repetitions },
    }
}

/// The OID whose successor is the row after `index`.
pub(super) fn position(column: &Object, index: &[u8]) -> ObjectIdentifier {
    let octets = [&column.octets, index].concat();
    // An index too deep for an OID would start the column again; the walk then ends it as not increasing.
    Oid::new(&octets).decode().unwrap_or(column.oid)
}
