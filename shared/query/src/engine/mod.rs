//! The PromQL engine: text in, result out, over any [`Source`].
//!
//! ```text
//! text --parse--> tree --compile--> plan --fetch--> samples --evaluate--> result
//!       syntax.rs       compile.rs        Source     eval.rs (blocking pool)
//! ```
//!
//! An instant query is a range query with one step. Every node is evaluated over all steps before its parent is, series
//! by series. Nothing is fetched before the whole query is known to be supported.

mod aggregate;
mod answer;
mod binary;
mod compile;
mod counter;
mod eval;
mod fold;
mod functions;
mod matching;
mod plan;
mod scan;
mod select;
mod sets;
mod sum;
mod syntax;
mod vector;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anemone_store::matcher::Matcher;
use futures_util::future::try_join_all;
use promql_parser::parser::Expr;
use promql_parser::parser::value::ValueType;

pub use answer::{Answer, MatrixSeries, QueryResult, VectorSample};
pub use syntax::{NESTING_MAX, OPERATORS_MAX, QUERY_MAX};
pub use vector::NameRemoval;

use crate::error::{QueryError, Thousands};
use crate::source::{Limits, SelectRequest, SeriesSamples, Source};
use eval::{Annotations, Budget, Evaluator};
use plan::{Plan, Steps};

/// Bounds and rules of evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// How old the latest sample may be at an instant; 5 minutes. Exactly that old is too old.
    pub lookback: Duration,
    /// Most steps of a range query; 11,000.
    pub steps_max: usize,
    /// What each selector may fetch; the samples are counted over all selectors of a query.
    pub limits: Limits,
    /// Most points (series times steps) of an intermediate result.
    pub points_max: usize,
    /// Most wall time of a query; 2 minutes.
    pub wall_time: Duration,
    /// When metric names are taken away.
    pub names: NameRemoval,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lookback: Duration::from_secs(300),
            steps_max: 11_000,
            limits: Limits { series: 250_000, samples: 25_000_000 },
            points_max: 20_000_000,
            wall_time: Duration::from_secs(120),
            names: NameRemoval::Immediate,
        }
    }
}

/// When a query is evaluated. Times are milliseconds since 1970 UTC, within ±2^61.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once.
    Instant(i64),
    /// At `start_ms`, and every `step_ms` until `end_ms`.
    Range {
        /// The first instant.
        start_ms: i64,
        /// No instant after this.
        end_ms: i64,
        /// At least 1.
        step_ms: i64,
    },
}

/// One query.
#[derive(Clone, Debug)]
pub struct QueryRequest {
    /// PromQL.
    pub query: String,
    /// When it is evaluated.
    pub when: When,
    /// Instead of [`EngineOptions::lookback`].
    pub lookback: Option<Duration>,
    /// Instead of [`EngineOptions::wall_time`], where shorter.
    pub timeout: Option<Duration>,
}

impl QueryRequest {
    /// A query at one instant.
    #[must_use]
    pub fn instant(query: impl Into<String>, time_ms: i64) -> Self {
        Self { query: query.into(), when: When::Instant(time_ms), lookback: None, timeout: None }
    }

    /// A query over a range.
    #[must_use]
    pub fn range(query: impl Into<String>, start_ms: i64, end_ms: i64, step_ms: i64) -> Self {
        Self { query: query.into(), when: When::Range { start_ms, end_ms, step_ms }, lookback: None, timeout: None }
    }
}

/// Evaluates queries over a source.
pub struct Engine {
    source: Arc<dyn Source>,
    options: EngineOptions,
}

impl Engine {
    /// An engine over `source`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, options: EngineOptions) -> Self {
        Self { source, options }
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates a query. Dropping the future stops the evaluation soon.
    ///
    /// # Errors
    /// Any [`QueryError`].
    pub async fn query(&self, request: &QueryRequest) -> Result<Answer, QueryError> {
        let steps = self.steps(request.when)?;
        let expr = syntax::parse(&request.query)?;
        let instant = matches!(request.when, When::Instant(_));
        check_type(&expr, instant)?;
        let plan = compile::compile(&expr, steps)?;
        let wall_time = request.timeout.map_or(self.options.wall_time, |asked| asked.min(self.options.wall_time));
        let deadline = Instant::now() + wall_time;
        let run = self.run(
            plan,
            steps,
            instant,
            request,
            Budget { points: self.options.points_max, deadline, wall_time, cancelled: Arc::new(AtomicBool::new(false)) },
        );
        tokio::time::timeout_at(deadline.into(), run).await.unwrap_or(Err(QueryError::Timeout { after: wall_time }))
    }

    fn steps(&self, when: When) -> Result<Steps, QueryError> {
        let (start_ms, end_ms, step_ms) = match when {
            When::Instant(time) => return Ok(Steps { start_ms: time, step_ms: 1, count: 1 }),
            When::Range { start_ms, end_ms, step_ms } => (start_ms, end_ms, step_ms),
        };
        if end_ms < start_ms {
            return Err(QueryError::parameter("end", "end timestamp must not be before start time"));
        }
        if step_ms <= 0 {
            return Err(QueryError::parameter(
                "step",
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            ));
        }
        let intervals = usize::try_from(end_ms.saturating_sub(start_ms) / step_ms).unwrap_or(usize::MAX);
        if intervals > self.options.steps_max {
            return Err(QueryError::Resolution { limit: Thousands(self.options.steps_max) });
        }
        Ok(Steps { start_ms, step_ms, count: intervals + 1 })
    }

    async fn run(&self, plan: Plan, steps: Steps, instant: bool, request: &QueryRequest, budget: Budget) -> Result<Answer, QueryError> {
        let lookback_ms = i64::try_from(request.lookback.unwrap_or(self.options.lookback).as_millis()).unwrap_or(i64::MAX / 4);
        let step_ms = (!instant).then_some(steps.step_ms);
        let (fetched, annotations) = self.fetch(&plan, &steps, step_ms, lookback_ms).await?;
        let names = self.options.names;
        let _guard = CancelOnDrop(Arc::clone(&budget.cancelled));
        let evaluation = move || {
            let annotations = RefCell::new(annotations);
            let evaluator = Evaluator { plan: &plan, fetched: &fetched, steps, instant, lookback_ms, names, budget, annotations };
            answer::answer(&evaluator)
        };
        let joined = tokio::task::spawn_blocking(evaluation).await;
        joined.map_err(|e| QueryError::Source { source_name: "evaluation".into(), reason: e.to_string() })?
    }

    /// Fetches what all selectors need.
    async fn fetch(
        &self,
        plan: &Plan,
        steps: &Steps,
        step_ms: Option<i64>,
        lookback_ms: i64,
    ) -> Result<(Vec<Vec<SeriesSamples>>, Annotations), QueryError> {
        let limits = self.options.limits;
        let selections = try_join_all(plan.selectors.iter().map(async |selector| {
            let (from_ms, to_ms) = selector.window(steps, lookback_ms);
            let request = SelectRequest { matchers: selector.matchers.clone(), from_ms, to_ms, step_ms };
            self.source.select(&request, &limits).await
        }))
        .await?;
        let mut annotations = Annotations::default();
        let mut samples = 0;
        let mut fetched = Vec::with_capacity(selections.len());
        for (selector, mut selection) in plan.selectors.iter().zip(selections) {
            samples += selection.series.iter().map(|s| s.samples.len()).sum::<usize>();
            limits.check(selection.series.len(), samples)?;
            for (to, from) in [(&mut annotations.warnings, selection.warnings), (&mut annotations.infos, selection.infos)] {
                for text in from {
                    if !to.contains(&text) {
                        to.push(text);
                    }
                }
            }
            if selector.range_ms.is_some() {
                for series in &mut selection.series {
                    series.samples.retain(|sample| !sample.value.is_stale());
                }
            }
            selection.series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
            fetched.push(selection.series);
        }
        Ok((fetched, annotations))
    }
}

/// Tells the evaluation that nobody waits any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn check_type(expr: &Expr, instant: bool) -> Result<(), QueryError> {
    let kind = match expr.value_type() {
        ValueType::Vector | ValueType::Scalar => return Ok(()),
        ValueType::Matrix => "range vector",
        ValueType::String => "string",
    };
    if instant {
        return Ok(());
    }
    Err(QueryError::parameter("query", format!("invalid expression type {kind:?} for range query, must be Scalar or instant Vector")))
}

/// The matchers of a series selector such as `up{pop="ams1"}`, as the parameter `match[]` holds one.
///
/// # Errors
/// [`QueryError::Syntax`] for anything but an instant selector without modifiers.
pub fn selector_matchers(text: &str) -> Result<Vec<Matcher>, QueryError> {
    match syntax::parse(text)? {
        Expr::VectorSelector(selector) if selector.at.is_none() && selector.offset.is_none() => compile::matchers(&selector),
        other => Err(QueryError::Syntax {
            position: None,
            message: format!("expected a series selector, got an expression of type {}", other.value_type()),
        }),
    }
}
