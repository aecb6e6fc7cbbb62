//! The checker: what devices answered against what the system stored, series by series.
//!
//! Pure logic. A stored sample belongs to the latest answer not yet taken that has its value and was given shortly
//! before the sample's time (the agent stamps a sample when the reply arrives). Answers with one request id
//! are one answer: a retransmission. Refuses to guess: what cannot be matched is reported, with the first few by name.

mod reconcile;

use std::fmt;

use crate::sim::LedgerEntry;

pub use reconcile::{Rules, reconcile};

/// How many findings of a kind are kept per series and shown.
const FINDINGS_SHOWN: usize = 5;

/// A value, exact where it is a counter.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// A whole number of 64 bits.
    Exact(u64),
    /// Anything else.
    Float(f64),
}

impl PartialEq for Number {
    /// Whole numbers are compared exactly; where one side is a float, to one part in 10^9.
    fn eq(&self, other: &Self) -> bool {
        let float = |number: &Self| match number {
            Self::Exact(value) => *value as f64,
            Self::Float(value) => *value,
        };
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (a, b) => {
                let (a, b) = (float(a), float(b));
                (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
            }
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}

/// A value a device gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// The canonical value.
    pub value: Number,
    /// Request id of the request it answers.
    pub request_id: i32,
}

impl Answered {
    /// An entry of the simulator's ledger, scaled to the canonical unit.
    pub fn from_ledger(entry: &LedgerEntry, scale: f64) -> Self {
        let value = if scale == 1.0 { Number::Exact(entry.value) } else { Number::Float(entry.value as f64 * scale) };
        Self { at_ms: entry.answered_ms, value, request_id: entry.request_id }
    }
}

/// A sample the system stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stored {
    /// The sample's time, milliseconds since 1970.
    pub at_ms: i64,
    /// Its value.
    pub value: Number,
}

/// Something that should not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// Time of the answer or sample concerned.
    pub at_ms: i64,
    /// Its value.
    pub value: Number,
    /// Its request id, for an answer.
    pub request_id: Option<i32>,
}

/// All findings of a kind: how many, and the first few.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: Vec<Finding>,
}

impl Findings {
    fn push(&mut self, finding: Finding) {
        self.count += 1;
        if self.first.len() < FINDINGS_SHOWN {
            self.first.push(finding);
        }
    }
}

/// The outcome for one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Answers, retransmissions counted once.
    pub answered: usize,
    /// Samples judged.
    pub stored: usize,
    /// Samples that belong to an answer.
    pub matched: usize,
    /// Answers given again to a retransmission.
    pub retransmitted: usize,
    /// Answers not stored because the request was repeated with a new id and that answer was.
    pub superseded: usize,
    /// Answers that no sample belongs to.
    pub missing: Findings,
    /// Samples whose answer another sample has taken.
    pub doubled: Findings,
    /// Samples no device has answered.
    pub invented: Findings,
}

impl Verdict {
    /// Nothing missing, doubled or invented.
    pub fn is_clean(&self) -> bool {
        self.missing.count == 0 && self.doubled.count == 0 && self.invented.count == 0
    }
}

/// The outcome for many series.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Series judged.
    pub series: usize,
    /// Sums over all series; their findings are in [`Self::unclean`].
    pub answered: usize,
    /// Samples that belong to an answer.
    pub matched: usize,
    /// Answers that no sample belongs to.
    pub missing: usize,
    /// Samples whose answer another sample has taken.
    pub doubled: usize,
    /// Samples no device has answered.
    pub invented: usize,
    /// The first series with findings.
    pub unclean: Vec<(String, Verdict)>,
}

impl Report {
    /// Adds a series' verdict.
    pub fn add(&mut self, series: &str, verdict: Verdict) {
        self.series += 1;
        self.answered += verdict.answered;
        self.matched += verdict.matched;
        self.missing += verdict.missing.count;
        self.doubled += verdict.doubled.count;
        self.invented += verdict.invented.count;
        if !verdict.is_clean() && self.unclean.len() < FINDINGS_SHOWN {
            self.unclean.push((series.to_owned(), verdict));
        }
    }

    /// Something was compared, and nothing is missing, doubled or invented anywhere.
    pub fn is_clean(&self) -> bool {
        self.matched > 0 && self.missing == 0 && self.doubled == 0 && self.invented == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { series, answered, matched, missing, doubled, invented, unclean } = self;
        write!(f, "{series} series, {answered} answers: {matched} stored, {missing} missing, {doubled} doubled, {invented} invented")?;
        for (series, verdict) in unclean {
            for (kind, findings) in [("missing", &verdict.missing), ("doubled", &verdict.doubled), ("invented", &verdict.invented)] {
                for finding in &findings.first {
                    write!(f, "\n  {kind}: {series} at {} value {}", finding.at_ms, finding.value)?;
                    if let Some(id) = finding.request_id {
                        write!(f, " request {id}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
