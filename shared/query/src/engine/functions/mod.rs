//! The function table: one file per group, one entry per function.
//!
//! A function is one of three shapes. [`Body::Window`]: one window of one series into one value. [`Body::Map`]: one
//! value, and numbers, into one value. [`Body::Special`]: anything else, with the evaluator at hand. The parser has
//! already checked number and types of the arguments.

mod labels;
mod math;
mod over_time;
mod rate;
mod special;

use anemone_model::{CounterWidth, Sample, Value};

use super::counter::Increases;
use super::eval::Evaluator;
use super::plan::Node;
use super::select::Bounds;
use super::vector::Evaluated;
use crate::error::QueryError;

/// A function of the language.
pub(crate) struct Function {
    /// As in queries.
    pub(crate) name: &'static str,
    /// How it is evaluated.
    pub(crate) body: Body,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// How a function is evaluated.
pub(crate) enum Body {
    /// Over the windows of its range vector.
    Window(WindowFunction),
    /// Value by value of its first argument; the other arguments are numbers. `None` takes the value away.
    Map(fn(Value, &[f64]) -> Option<Value>),
    /// By itself.
    Special(fn(&Evaluator<'_>, &[Node]) -> Result<Evaluated, QueryError>),
}

/// A function of one window.
pub(crate) struct WindowFunction {
    /// Never asked about an empty window.
    pub(crate) evaluate: fn(&Window<'_>) -> Option<Value>,
    /// The result means what the samples meant.
    pub(crate) keeps_name: bool,
    /// Wants [`Window::increases`].
    pub(crate) running_totals: bool,
    /// An info is due where the metric is no counter.
    pub(crate) expects_counter: bool,
}

impl WindowFunction {
    const fn new(evaluate: fn(&Window<'_>) -> Option<Value>) -> Self {
        Self { evaluate, keeps_name: false, running_totals: false, expects_counter: false }
    }
}

/// One window of one series; staleness markers are gone.
pub(crate) struct Window<'a> {
    /// At least one.
    pub(crate) samples: &'a [Sample],
    /// Times, and where `samples` stand in the series.
    pub(crate) bounds: Bounds,
    /// For functions with `running_totals`.
    pub(crate) increases: Option<&'a Increases>,
    /// Width of the device's counter.
    pub(crate) width: CounterWidth,
}

const GROUPS: [&[Function]; 5] = [rate::FUNCTIONS, over_time::FUNCTIONS, math::FUNCTIONS, labels::FUNCTIONS, special::FUNCTIONS];

/// The function of this name, if this version has it.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    GROUPS.into_iter().flatten().find(|function| function.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_is_there_once() {
        for function in GROUPS.into_iter().flatten() {
            assert_eq!(GROUPS.into_iter().flatten().filter(|f| f.name == function.name).count(), 1, "{function:?}");
        }
        assert!(find("rate").is_some() && find("predict_linear").is_none());
    }
}
