//! The rows of a device's tables: found by a walk, named by labels, kept from one inventory to the next.
//!
//! A row's identity is its labels, not its index: when indices are dealt out anew, a series follows its name. What a row's counters
//! need to be attributed (series ref, chosen source, pending mark) stays in a slot per row and metric, so that a poll builds no label.

use std::collections::HashMap;

use anemone_model::{Discontinuity, MetricKind};

use crate::collector::snmp::ber::ValueView;
use crate::collector::snmp::oid::{index_text, order};
use crate::collector::snmp::table::{Plan, Rows};
use crate::profiles::{Role, Table};

/// A series that the sink has not given a ref yet.
pub const UNREGISTERED: u32 = u32::MAX;
/// A metric that the row has no column for.
const NO_COLUMN: u8 = u8::MAX;
/// Longest label taken from a device, in characters (DisplayString, RFC 2579).
const LABEL_CHARACTERS_MAX: usize = 255;

/// Where one series of a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its ref, or [`UNREGISTERED`].
    pub series: u32,
    column: u8,
    mark: u8,
}

impl Slot {
    /// A series without a ref, read from this column.
    #[must_use]
    pub fn new(column: Option<usize>) -> Self {
        Self { series: UNREGISTERED, column: column.and_then(|c| u8::try_from(c).ok()).unwrap_or(NO_COLUMN), mark: 0 }
    }

    /// Whether it is read from this column.
    #[must_use]
    pub fn reads(&self, column: usize) -> bool {
        usize::from(self.column) == column
    }

    /// The next sample does not continue the series. A mark set earlier stays.
    pub fn mark(&mut self, reason: Discontinuity) {
        if self.mark == 0 {
            self.mark = reason.code();
        }
    }

    /// The mark for the sample at hand; it is then no longer pending.
    pub fn take_mark(&mut self) -> Option<Discontinuity> {
        Discontinuity::from_code(std::mem::take(&mut self.mark))
    }
}

/// A table of a device as last walked.
#[derive(Debug, Default)]
pub struct TableState {
    /// Rows in order of index, with the columns asked of each.
    pub rows: Rows,
    /// Labels, `labels of the table` per row.
    pub labels: Vec<Box<str>>,
    /// Slots, `metrics of the table` per row.
    pub slots: Vec<Slot>,
    /// Last value of the discontinuity column per row.
    pub discontinuities: Vec<Option<u32>>,
    /// Requests that poll it.
    pub plan: Plan,
    /// The plan no longer fits rows, limits or scalars.
    pub plan_stale: bool,
    /// Answers were longer than reckoned.
    pub wide: bool,
    /// When it is due next, in milliseconds since 1970 UTC.
    pub next_due_ms: i64,
}

impl TableState {
    /// The labels of a row.
    #[must_use]
    pub fn labels(&self, table: &Table, row: usize) -> &[Box<str>] {
        let width = table.labels.len();
        &self.labels[row * width..(row + 1) * width]
    }

    /// Marks all counters of a row.
    pub fn mark_row(&mut self, table: &Table, row: usize, reason: Discontinuity) {
        let width = table.metrics.len();
        for (slot, metric) in self.slots[row * width..(row + 1) * width].iter_mut().zip(&table.metrics) {
            if metric.kind == MetricKind::Counter {
                slot.mark(reason);
            }
        }
    }

    /// The device restarted: no counter continues, and discontinuity times mean nothing any more.
    pub fn restarted(&mut self, table: &Table) {
        for row in 0..self.rows.len() {
            self.mark_row(table, row, Discontinuity::UptimeWentBack);
        }
        self.discontinuities.fill(None);
    }

    /// Takes what a walk found in place of what was known; `first` says that nothing was. Returns whether rows or labels differ.
    pub fn replace(&mut self, table: &Table, found: Gather, first: bool) -> bool {
        let mut next = found.into_rows(table);
        let known: HashMap<&[Box<str>], usize> = (0..self.rows.len()).map(|row| (self.labels(table, row), row)).collect();
        let width = table.metrics.len();
        for row in 0..next.rows.len() {
            let before = known.get(next.labels(table, row)).copied();
            for (at, metric) in table.metrics.iter().enumerate() {
                let slot = &mut next.slots[row * width + at];
                match before.map(|before| self.slots[before * width + at]) {
                    Some(old) if old.column == slot.column => *slot = old,
                    None if first => {}
                    // Another object, or one that was gone: whatever it counted before, it does not continue here.
                    _ if metric.kind == MetricKind::Counter => slot.mark(Discontinuity::Reassigned),
                    _ => {}
                }
            }
            next.discontinuities[row] = before.and_then(|before| self.discontinuities[before]);
        }
        let changed = next.rows != self.rows || next.labels != self.labels;
        (next.wide, next.next_due_ms) = (self.wide, self.next_due_ms);
        *self = next;
        changed
    }
}

/// What a walk has found so far.
#[derive(Debug, Default)]
pub struct Gather {
    drafts: HashMap<Box<[u8]>, Draft>,
}

#[derive(Debug, Default)]
struct Draft {
    columns: u64,
    /// Rank and text of the best source so far, per label.
    labels: Vec<Option<(usize, String)>>,
}

impl Gather {
    /// Takes one cell of the table.
    pub fn add(&mut self, table: &Table, column: usize, index: &[u8], value: ValueView<'_>) {
        if !self.drafts.contains_key(index) {
            if self.drafts.len() >= table.rows_max {
                return;
            }
            self.drafts.insert(index.into(), Draft { columns: 0, labels: vec![None; table.labels.len()] });
        }
        let Some(draft) = self.drafts.get_mut(index) else { return };
        let usable = match table.roles[column] {
            Role::Label { label, rank } => {
                let better = draft.labels[label].as_ref().is_none_or(|(known, _)| rank < *known);
                if let Some(text) = text(value).filter(|text| better && !text.is_empty()) {
                    draft.labels[label] = Some((rank, text));
                }
                return;
            }
            Role::Discontinuity => value.as_u64().is_some(),
            Role::Metric { metric, rank } => {
                let source = &table.metrics[metric].sources[rank].1;
                value.as_f64().is_some_and(|v| v != 0.0 || !source.zero_is_absent)
            }
        };
        if usable {
            draft.columns |= 1 << column;
        }
    }

    /// Chooses each row's columns and labels.
    fn into_rows(self, table: &Table) -> TableState {
        let mut drafts: Vec<_> = self.drafts.into_iter().collect();
        drafts.sort_by(|(a, _), (b, _)| order(a, b));
        let mut state = TableState { plan_stale: true, ..TableState::default() };
        for (index, draft) in drafts {
            let chosen: Vec<Option<usize>> = table
                .metrics
                .iter()
                .map(|metric| metric.sources.iter().map(|(column, _)| *column).find(|column| draft.columns >> column & 1 == 1))
                .collect();
            let mut columns = chosen.iter().flatten().fold(0, |set, column| set | 1 << column);
            if columns == 0 {
                continue;
            }
            if let Some(column) = table.discontinuity {
                columns |= draft.columns & 1 << column;
            }
            state.rows.push(&index, columns);
            state.slots.extend(chosen.into_iter().map(Slot::new));
            state.discontinuities.push(None);
            for (label, text) in table.labels.iter().zip(draft.labels) {
                let text = text.map_or_else(|| label.default.replace("{index}", &index_text(&index)), |(_, text)| text);
                state.labels.push(text.into());
            }
        }
        state.tell_apart(table);
        state
    }
}

impl TableState {
    /// Appends `#index` to the first label of rows whose labels are the same: to all of them, so that order does not matter.
    fn tell_apart(&mut self, table: &Table) {
        let mut seen: HashMap<&[Box<str>], u32> = HashMap::new();
        for row in 0..self.rows.len() {
            *seen.entry(self.labels(table, row)).or_default() += 1;
        }
        let twice: Vec<usize> = (0..self.rows.len()).filter(|row| seen[self.labels(table, *row)] > 1).collect();
        for row in twice {
            let label = &mut self.labels[row * table.labels.len()];
            *label = format!("{label}#{}", index_text(self.rows.index_of(row))).into();
        }
    }
}

/// A device's text as a label: UTF-8 or else Latin-1, without control characters and surrounding space.
#[must_use]
pub fn text(value: ValueView<'_>) -> Option<String> {
    let raw = match value {
        ValueView::OctetString(octets) => {
            std::str::from_utf8(octets).map_or_else(|_| octets.iter().map(|octet| char::from(*octet)).collect(), str::to_owned)
        }
        ValueView::ObjectIdentifier(oid) => oid.to_string(),
        ValueView::IpAddress(octets) => std::net::Ipv4Addr::from(octets).to_string(),
        ValueView::Integer(number) => number.to_string(),
        other => other.as_u64()?.to_string(),
    };
    let printable: String = raw.trim_matches(|c: char| c.is_whitespace() || c.is_control()).chars().take(LABEL_CHARACTERS_MAX).collect();
    Some(printable.replace(char::is_control, " "))
}
