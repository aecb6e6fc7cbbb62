//! Walks a plan whose selectors are fetched. Synchronous: no I/O, no clock but the deadline.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anemone_model::Value;

use super::binary::{Operator, scalars, vector_scalar};
use super::counter::Increases;
use super::functions::{Body, Function, Window, WindowFunction};
use super::plan::{Aggregation, Grouping, Matching, Node, Plan, Selector, Steps};
use super::select::{at_steps, windows};
use super::vector::{Evaluated, NameRemoval, Series, drop_empty, drop_names};
use super::{aggregate, matching, sets};
use crate::error::{Bound, QueryError};
use crate::source::SeriesSamples;

/// When evaluation must stop.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Most points of an intermediate result.
    pub(crate) points: usize,
    /// When wall time is up.
    pub(crate) deadline: Instant,
    /// How long the query had, for the error.
    pub(crate) wall_time: Duration,
    /// Set when nobody waits for the answer any more.
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Budget {
    /// Refuses to go on after the deadline or a cancellation.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(QueryError::Canceled);
        }
        if Instant::now() >= self.deadline {
            return Err(QueryError::Timeout { after: self.wall_time });
        }
        Ok(())
    }
}

/// What is said beside the result; each once, in order of first mention.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    pub(crate) warnings: Vec<String>,
    pub(crate) infos: Vec<String>,
}

/// Evaluates the nodes of one plan.
pub(crate) struct Evaluator<'a> {
    pub(crate) plan: &'a Plan,
    /// One entry per selector of the plan, sorted by labels.
    pub(crate) fetched: &'a [Vec<SeriesSamples>],
    pub(crate) steps: Steps,
    /// Instant queries keep the order that `sort` gives.
    pub(crate) instant: bool,
    pub(crate) lookback_ms: i64,
    pub(crate) names: NameRemoval,
    pub(crate) budget: Budget,
    pub(crate) annotations: RefCell<Annotations>,
}

impl Evaluator<'_> {
    /// What `node` is worth at every step.
    pub(crate) fn node(&self, node: &Node) -> Result<Evaluated, QueryError> {
        self.budget.check()?;
        match node {
            Node::Number(number) => Ok(Evaluated::Scalar(vec![*number; self.steps.count])),
            Node::Text(text) => Ok(Evaluated::Text(text.clone())),
            Node::Instant(id) => self.instant(*id, |sample| sample.value).map(Evaluated::Vector),
            Node::Range(_) => Err(QueryError::Execution("a range vector has no value of its own at a step".into())),
            Node::Negate(operand) => self.negate(operand),
            Node::Binary { operator, left, right, matching, bool_result } => self.binary(*operator, left, right, matching, *bool_result),
            Node::Set { operator, left, right, matching } => {
                sets::combine(*operator, self.vector(left)?, self.vector(right)?, matching).map(Evaluated::Vector)
            }
            Node::Aggregate { operator, operand, parameter, grouping } => {
                self.aggregate(*operator, operand, parameter.as_deref(), grouping)
            }
            Node::Call { function, arguments } => self.call(function, arguments),
        }
    }

    /// As [`Evaluator::node`], for nodes that must be instant vectors.
    pub(crate) fn vector(&self, node: &Node) -> Result<Vec<Series>, QueryError> {
        match self.node(node)? {
            Evaluated::Vector(vector) => Ok(vector),
            Evaluated::Scalar(_) | Evaluated::Text(_) => Err(QueryError::Execution("expected an instant vector".into())),
        }
    }

    /// As [`Evaluator::node`], for nodes that must be scalars.
    pub(crate) fn scalar(&self, node: &Node) -> Result<Vec<f64>, QueryError> {
        match self.node(node)? {
            Evaluated::Scalar(scalar) => Ok(scalar),
            Evaluated::Vector(_) | Evaluated::Text(_) => Err(QueryError::Execution("expected a scalar".into())),
        }
    }

    /// The string of a node that must be one.
    pub(crate) fn text<'n>(&self, node: &'n Node) -> Result<&'n str, QueryError> {
        match node {
            Node::Text(text) => Ok(text),
            _ => Err(QueryError::Execution("expected a string".into())),
        }
    }

    /// An instant selector's series, with `pick` choosing what of a sample is its value.
    pub(crate) fn instant(&self, id: usize, pick: super::select::Pick) -> Result<Vec<Series>, QueryError> {
        let selector = &self.plan.selectors[id];
        let fetched = &self.fetched[id];
        self.reserve(fetched.len())?;
        let mut vector = Vec::with_capacity(fetched.len());
        for (at, series) in fetched.iter().enumerate() {
            self.check_every(at)?;
            let values = at_steps(series, selector, self.steps, self.lookback_ms, pick);
            vector.push(Series { labels: series.labels.clone(), drop_name: false, values });
        }
        drop_empty(&mut vector);
        Ok(vector)
    }

    /// Adds a warning unless it is there.
    pub(crate) fn warn(&self, text: String) {
        let warnings = &mut self.annotations.borrow_mut().warnings;
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds an info unless it is there.
    pub(crate) fn inform(&self, text: String) {
        let infos = &mut self.annotations.borrow_mut().infos;
        if !infos.contains(&text) {
            infos.push(text);
        }
    }

    /// A vector whose meaning changed, if `changed`.
    pub(crate) fn renamed(&self, mut vector: Vec<Series>, changed: bool) -> Result<Evaluated, QueryError> {
        drop_empty(&mut vector);
        let vector = if changed { drop_names(vector, self.names)? } else { vector };
        Ok(Evaluated::Vector(vector))
    }

    fn reserve(&self, series: usize) -> Result<(), QueryError> {
        if series.saturating_mul(self.steps.count) > self.budget.points {
            return Err(QueryError::Limit { bound: Bound::Points, limit: self.budget.points });
        }
        Ok(())
    }

    fn check_every(&self, at: usize) -> Result<(), QueryError> {
        if at.is_multiple_of(256) { self.budget.check() } else { Ok(()) }
    }

    fn warn_of_quantile(&self, quantiles: &[f64]) {
        if let Some(bad) = quantiles.iter().find(|q| !(0.0..=1.0).contains(*q)) {
            self.warn(format!("PromQL warning: quantile value should be between 0 and 1, got {}", Value::F64(*bad)));
        }
    }

    fn binary(
        &self,
        operator: Operator,
        left: &Node,
        right: &Node,
        matching: &Matching,
        bool_result: bool,
    ) -> Result<Evaluated, QueryError> {
        let vector = match (self.node(left)?, self.node(right)?) {
            (Evaluated::Scalar(a), Evaluated::Scalar(b)) => return Ok(Evaluated::Scalar(scalars(operator, &a, &b))),
            (Evaluated::Vector(a), Evaluated::Vector(b)) => {
                return matching::vectors(operator, a, b, matching, bool_result, self.names).map(Evaluated::Vector);
            }
            (Evaluated::Vector(a), Evaluated::Scalar(b)) => vector_scalar(operator, a, &b, false, bool_result),
            (Evaluated::Scalar(a), Evaluated::Vector(b)) => vector_scalar(operator, b, &a, true, bool_result),
            _ => return Err(QueryError::Execution("a string cannot be an operand".into())),
        };
        self.renamed(vector, operator.drops_name(bool_result))
    }

    fn aggregate(
        &self,
        operator: Aggregation,
        operand: &Node,
        parameter: Option<&Node>,
        grouping: &Grouping,
    ) -> Result<Evaluated, QueryError> {
        let parameter = parameter.map(|p| self.scalar(p)).transpose()?.unwrap_or_default();
        if operator == Aggregation::Quantile {
            self.warn_of_quantile(&parameter);
        }
        aggregate::aggregate(operator, self.vector(operand)?, &parameter, grouping, self.steps.count).map(Evaluated::Vector)
    }

    fn negate(&self, operand: &Node) -> Result<Evaluated, QueryError> {
        match self.node(operand)? {
            Evaluated::Scalar(numbers) => Ok(Evaluated::Scalar(numbers.into_iter().map(|n| -n).collect())),
            Evaluated::Vector(mut vector) => {
                for value in vector.iter_mut().flat_map(|s| &mut s.values) {
                    *value = value.map(|v| Value::F64(-v.as_f64()));
                }
                self.renamed(vector, true)
            }
            Evaluated::Text(_) => Err(QueryError::Execution("a string cannot be negated".into())),
        }
    }

    fn call(&self, function: &Function, arguments: &[Node]) -> Result<Evaluated, QueryError> {
        match &function.body {
            Body::Special(special) => special(self, arguments),
            Body::Map(map) => {
                let Some((vector, parameters)) = arguments.split_first() else {
                    return Err(QueryError::Execution(format!("function {} needs an argument", function.name)));
                };
                let mut vector = self.vector(vector)?;
                let parameters = self.parameters(parameters)?;
                for series in &mut vector {
                    for (value, parameters) in series.values.iter_mut().zip(&parameters) {
                        *value = value.and_then(|v| map(v, parameters));
                    }
                }
                self.renamed(vector, true)
            }
            Body::Window(window) => {
                let [Node::Range(id)] = arguments else {
                    return Err(QueryError::Execution(format!("function {} needs a range vector", function.name)));
                };
                self.over_windows(window, &self.plan.selectors[*id], &self.fetched[*id])
            }
        }
    }

    /// Scalar arguments, per step.
    fn parameters(&self, nodes: &[Node]) -> Result<Vec<Vec<f64>>, QueryError> {
        let columns = nodes.iter().map(|n| self.scalar(n)).collect::<Result<Vec<_>, _>>()?;
        Ok((0..self.steps.count).map(|step| columns.iter().map(|column| column[step]).collect()).collect())
    }

    fn over_windows(&self, function: &WindowFunction, selector: &Selector, fetched: &[SeriesSamples]) -> Result<Evaluated, QueryError> {
        self.reserve(fetched.len())?;
        let mut vector = Vec::with_capacity(fetched.len());
        // A range that `@` pins is the same at every step.
        let steps = if selector.at_ms.is_some() { Steps { count: 1, ..self.steps } } else { self.steps };
        for (at, series) in fetched.iter().enumerate() {
            self.check_every(at)?;
            let increases = function.running_totals.then(|| Increases::of(&series.samples, series.width));
            let mut values: Vec<Option<Value>> = windows(&series.samples, selector, steps)
                .map(|bounds| {
                    let samples = &series.samples[bounds.first..bounds.end];
                    let window = Window { samples, bounds, increases: increases.as_ref(), width: series.width };
                    if samples.is_empty() { None } else { (function.evaluate)(&window) }
                })
                .collect();
            if selector.at_ms.is_some() {
                values.resize(self.steps.count, values[0]);
            }
            if values.iter().all(Option::is_none) {
                continue;
            }
            if function.expects_counter {
                self.inform_of_gauge(series);
            }
            vector.push(Series { labels: series.labels.clone(), drop_name: false, values });
        }
        self.renamed(vector, !function.keeps_name)
    }

    /// Where neither the kind nor the name says counter.
    fn inform_of_gauge(&self, series: &SeriesSamples) {
        let name = series.labels.metric();
        let named_so = ["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix));
        if series.kind != anemone_model::MetricKind::Counter && !named_so && !name.is_empty() {
            self.inform(format!("PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name:?}"));
        }
    }
}
