//! Polls a table whose rows are known, in as few datagrams as they need.
//!
//! ```text
//! [sysUpTime, watches] [c1 c2 c3 ... cn] x rows     one GetBulk: all columns of a few neighbouring rows
//! ```
//!
//! A [`Plan`] cuts the table into chunks that fit a datagram and encodes each chunk's request once. Rows with the same columns that
//! follow one another share chunks; the columns of a row, the one that tells of discontinuities first, come in one answer, so they
//! are of one moment. Repetitions never overshoot the chunk. An answer is read by comparing each name with the one expected; only
//! where it differs is a row searched for. Values of rows outside the chunk are ignored: their own chunk asks for them.

use csnmp::ObjectIdentifier;

use super::ber::{Message, ValueView};
use super::limits::Limits;
use super::oid::order;
use super::request::{EncodeError, EncodedRequest};
use super::walk::{bulk_or_next, position};
use crate::profiles::{COLUMNS_MAX, Object};

/// UDP payload that an Ethernet frame carries over IPv4 (1500 - 20 - 8).
pub const ANSWER_BYTES_MAX: usize = 1472;

/// Rows of a table in order of their index, with the columns wanted of each as a bit set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    indices: Vec<u8>,
    ends: Vec<u32>,
    columns: Vec<u64>,
}

impl Rows {
    /// Appends a row. Rows come in order of their index.
    pub fn push(&mut self, index: &[u8], columns: u64) {
        self.indices.extend_from_slice(index);
        // 65,536 rows of at most 128 sub-identifiers of 5 octets stay far below 2^32.
        self.ends.push(u32::try_from(self.indices.len()).unwrap_or(u32::MAX));
        self.columns.push(columns);
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The index of row `at`, which must exist.
    #[must_use]
    pub fn index_of(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.indices[start..self.ends[at] as usize]
    }

    /// The row with this index.
    #[must_use]
    pub fn find(&self, index: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match order(self.index_of(middle), index) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The columns wanted of row `at`.
    #[must_use]
    pub fn columns(&self, at: usize) -> u64 {
        self.columns[at]
    }
}

/// A few neighbouring rows and the columns asked of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Columns as a bit set.
    pub columns: u64,
    /// First row.
    pub first: usize,
    /// How many rows, 1 or more.
    pub rows: usize,
}

impl Span {
    /// How many varbinds its answer has.
    #[must_use]
    pub fn varbinds(&self) -> usize {
        self.columns.count_ones() as usize * self.rows
    }

    /// Encodes its request; `scalars` (without their `.0`) come first.
    ///
    /// # Errors
    /// As [`EncodedRequest::new`].
    pub fn request(&self, ask: &Asking<'_>, rows: &Rows) -> Result<EncodedRequest, EncodeError> {
        let before = self.first.checked_sub(1).map_or(&[][..], |row| rows.index_of(row));
        let starts = each_bit(self.columns).map(|column| position(&ask.columns[column], before));
        let repetitions = u32::try_from(self.rows).unwrap_or(1);
        EncodedRequest::new(ask.community, bulk_or_next(ask.scalars.len(), repetitions), ask.scalars.iter().copied().chain(starts))
    }

    /// Reads the answer, whose first `scalars` varbinds are not of the table. `each` is given row, column and value.
    pub fn take(
        &self,
        columns: &[Object],
        rows: &Rows,
        message: &Message<'_>,
        scalars: usize,
        mut each: impl FnMut(usize, usize, ValueView<'_>),
    ) -> Taken {
        let mut wanted = [0_u8; COLUMNS_MAX];
        let width = each_bit(self.columns).zip(&mut wanted).map(|(column, place)| *place = column as u8).count();
        // Next row that each column may give: what is below has been given or passed over.
        let mut due = [self.first; COLUMNS_MAX];
        let end = self.first + self.rows;
        let mut taken = Taken::default();
        let (mut count, mut row) = (0, self.first);
        let mut index = rows.index_of(row);
        for varbind in message.varbinds().skip(scalars) {
            let place = count % width;
            if place == 0 && count > 0 && row + 1 < end {
                row += 1;
                index = rows.index_of(row);
            }
            count += 1;
            let Ok(varbind) = varbind else {
                taken.bad += 1;
                continue;
            };
            let column = usize::from(wanted[place]);
            let Some(given) = varbind.name.index_below(&columns[column].octets) else {
                taken.changed = true;
                continue;
            };
            let at = if given == index { Some(row) } else { rows.find(given) };
            taken.changed |= at != Some(row);
            let Some(at) = at.filter(|at| (due[place]..end).contains(at)) else { continue };
            due[place] = at + 1;
            match varbind.value() {
                Ok(value) if value.is_exception() => taken.changed = true,
                Ok(value) => each(at, column, value),
                Err(_) => taken.bad += 1,
            }
        }
        taken.rows = (count / width).min(self.rows);
        taken
    }
}

/// What an answer brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Rows answered in full, counted from the span's first.
    pub rows: usize,
    /// Rows were missing or not known: the table is no longer as it was walked.
    pub changed: bool,
    /// Varbinds that could not be read.
    pub bad: u64,
}

/// What all requests of a table have in common.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Columns of the table.
    pub columns: &'a [Object],
    /// Community.
    pub community: &'a [u8],
    /// Scalars read with each request, without their `.0`.
    pub scalars: &'a [ObjectIdentifier],
}

/// A table cut into requests.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    chunks: Vec<(Span, EncodedRequest)>,
}

impl Plan {
    /// Cuts the table within `limits`. `wide` reckons with the longest values a type can have instead of usual ones.
    ///
    /// # Errors
    /// As [`EncodedRequest::new`].
    pub fn new(ask: &Asking<'_>, rows: &Rows, limits: &Limits, wide: bool) -> Result<Self, EncodeError> {
        let mut chunks = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let columns = rows.columns(first);
            let run = (first..rows.len()).take_while(|row| rows.columns(*row) == columns).count();
            for columns in split(columns, limits.varbinds()) {
                let width = columns.count_ones() as usize;
                let fit = fitting_rows(ask, rows, columns, first + run - 1, wide).min(limits.varbinds() / width).max(1);
                for at in (0..run).step_by(fit) {
                    let span = Span { columns, first: first + at, rows: fit.min(run - at) };
                    chunks.push((span, span.request(ask, rows)?));
                }
            }
            first += run;
        }
        chunks.shrink_to_fit();
        Ok(Self { chunks })
    }

    /// The requests in order.
    #[must_use]
    pub fn chunks(&self) -> &[(Span, EncodedRequest)] {
        &self.chunks
    }
}

/// Cuts a bit set into sets of at most `most` bits; none of the empty set.
fn split(columns: u64, most: usize) -> Vec<u64> {
    let bits: Vec<usize> = each_bit(columns).collect();
    bits.chunks(most.max(1)).map(|part| part.iter().fold(0, |set, bit| set | 1 << bit)).collect()
}

fn each_bit(set: u64) -> impl Iterator<Item = usize> {
    (0..COLUMNS_MAX).filter(move |bit| set >> bit & 1 == 1)
}

/// How many rows like `row` fit an answer.
fn fitting_rows(ask: &Asking<'_>, rows: &Rows, columns: u64, row: usize, wide: bool) -> usize {
    // Frames, version, request id and status take 33 octets where lengths take three; a scalar's value takes at most 5.
    let header = 33 + ask.community.len() + ask.scalars.iter().map(|oid| oid.len() + 12).sum::<usize>();
    // Octets of a value: usual Counter64 stay below 2^55 (a month at 100 Gbit/s).
    let value = if wide { 9 } else { 7 };
    let varbind = |column: usize| 2 + 2 + ask.columns[column].octets.len() + rows.index_of(row).len() + 2 + value;
    ANSWER_BYTES_MAX.saturating_sub(header) / each_bit(columns).map(varbind).sum::<usize>().max(1)
}
