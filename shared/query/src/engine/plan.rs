//! A query as it will be evaluated: names resolved, times resolved, everything unsupported already refused.
//!
//! The evaluator knows nothing of the parser's tree; this is the only form it sees.

use anemone_store::matcher::Matcher;

use super::binary::Operator;
use super::functions::Function;

/// The instants a query is evaluated at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    /// The first.
    pub(crate) start_ms: i64,
    /// From one to the next; irrelevant where there is one.
    pub(crate) step_ms: i64,
    /// How many, at least 1.
    pub(crate) count: usize,
}

impl Steps {
    /// The instant number `at`.
    pub(crate) fn time(&self, at: usize) -> i64 {
        self.start_ms.saturating_add(self.step_ms.saturating_mul(i64::try_from(at).unwrap_or(i64::MAX)))
    }

    /// The last instant.
    pub(crate) fn end_ms(&self) -> i64 {
        self.time(self.count - 1)
    }

    /// All instants in order.
    pub(crate) fn times(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |at| self.time(at))
    }
}

/// What a selector asks of the source.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) matchers: Vec<Matcher>,
    /// Set by `@`: the time that stands for every step.
    pub(crate) at_ms: Option<i64>,
    /// Subtracted from the time of each step.
    pub(crate) offset_ms: i64,
    /// `Some` for a range vector.
    pub(crate) range_ms: Option<i64>,
}

impl Selector {
    /// The time that stands for a step at `time_ms`.
    pub(crate) fn reference(&self, time_ms: i64) -> i64 {
        self.at_ms.unwrap_or(time_ms).saturating_sub(self.offset_ms)
    }

    /// First and last millisecond needed, inclusive; ranges and lookback are open on the left.
    pub(crate) fn window(&self, steps: &Steps, lookback_ms: i64) -> (i64, i64) {
        let back = self.range_ms.unwrap_or(lookback_ms);
        let from = self.reference(steps.start_ms).saturating_sub(back).saturating_add(1);
        (from, self.reference(steps.end_ms()))
    }
}

/// Labels that an aggregation keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Only these; none of them is one group.
    By(Vec<String>),
    /// All but these and the metric name.
    Without(Vec<String>),
}

/// How series of two vectors find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matching {
    /// Only `labels` count (`on`); otherwise all others but the metric name (`ignoring`).
    pub(crate) on: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) cardinality: Cardinality,
    /// Labels copied from the one side.
    pub(crate) include: Vec<String>,
}

/// Which side may have several series per match group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cardinality {
    OneToOne,
    /// `group_left`
    ManyToOne,
    /// `group_right`
    OneToMany,
}

/// Set operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetOperator {
    And,
    Or,
    Unless,
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregation {
    Sum,
    Count,
    Max,
    Min,
    Avg,
    Group,
    Stddev,
    Stdvar,
    Quantile,
    Topk,
    Bottomk,
}

/// One node of a plan.
#[derive(Debug)]
pub(crate) enum Node {
    Number(f64),
    Text(String),
    /// An instant selector: its place in [`Plan::selectors`].
    Instant(usize),
    /// A range selector: its place in [`Plan::selectors`].
    Range(usize),
    Negate(Box<Self>),
    Binary {
        operator: Operator,
        left: Box<Self>,
        right: Box<Self>,
        matching: Matching,
        /// 0 or 1 instead of a filter.
        bool_result: bool,
    },
    Set {
        operator: SetOperator,
        left: Box<Self>,
        right: Box<Self>,
        matching: Matching,
    },
    Aggregate {
        operator: Aggregation,
        operand: Box<Self>,
        /// `k` or the quantile.
        parameter: Option<Box<Self>>,
        grouping: Grouping,
    },
    Call {
        function: &'static Function,
        arguments: Vec<Self>,
    },
}

/// A query, ready to be evaluated once its selectors are fetched.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) root: Node,
    pub(crate) selectors: Vec<Selector>,
}
