//! Why a query has no answer, and what that means to an HTTP client.

use std::time::Duration;

/// Which bound of a query was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Series a selector may return.
    Series,
    /// Samples all selectors may load.
    Samples,
    /// Points (series times steps) an intermediate result may have.
    Points,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Series => "series",
            Self::Samples => "samples",
            Self::Points => "points",
        })
    }
}

/// Everything that can end a query without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query's text is not PromQL.
    #[error("{}parse error: {message}", position.map(|(line, column)| format!("{line}:{column}: ")).unwrap_or_default())]
    Syntax {
        /// Line and column, both from 1, where known.
        position: Option<(usize, usize)>,
        /// What is wrong there.
        message: String,
    },
    /// A request parameter that cannot be used.
    #[error("invalid parameter {name:?}: {reason}")]
    Parameter {
        /// The parameter.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Part of the language that this version does not evaluate.
    #[error("{feature} is not supported by this version")]
    Unsupported {
        /// Such as `function predict_linear`.
        feature: String,
    },
    /// A range query with too many steps.
    #[error("exceeded maximum resolution of {limit} points per timeseries. Try decreasing the query resolution (?step=XX)")]
    Resolution {
        /// Most steps permitted; printed with a thousands separator.
        limit: Thousands,
    },
    /// The expression is right, but these data do not allow it.
    #[error("{0}")]
    Execution(String),
    /// A bound of the query was exceeded.
    #[error("query needs more than {limit} {bound}, the limit per query; select fewer series, a shorter range or a larger step")]
    Limit {
        /// Which.
        bound: Bound,
        /// Its value.
        limit: usize,
    },
    /// Wall time was up.
    #[error("query timed out after {} s, the limit of wall time per query", after.as_secs_f64())]
    Timeout {
        /// The time it had.
        after: Duration,
    },
    /// Whoever asked left.
    #[error("query was cancelled")]
    Canceled,
    /// Too many queries at once.
    #[error("{running} queries run and {waiting} wait already, the limit of queries at once; try again later")]
    Busy {
        /// Most that may run.
        running: usize,
        /// Most that may wait.
        waiting: usize,
    },
    /// The place where the samples are failed.
    #[error("source {source_name} failed: {reason}")]
    Source {
        /// Which source.
        source_name: String,
        /// What it said.
        reason: String,
    },
}

impl QueryError {
    /// A parameter's error.
    pub fn parameter(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Parameter { name: name.into(), reason: reason.into() }
    }

    /// A part of the language that is not evaluated.
    pub fn unsupported(feature: impl Into<String>) -> Self {
        Self::Unsupported { feature: feature.into() }
    }

    /// Prometheus' word for the kind of error, `errorType` in its API.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Syntax { .. } | Self::Parameter { .. } | Self::Unsupported { .. } | Self::Resolution { .. } => "bad_data",
            Self::Execution(_) | Self::Limit { .. } => "execution",
            Self::Timeout { .. } => "timeout",
            Self::Canceled => "canceled",
            Self::Busy { .. } => "unavailable",
            Self::Source { .. } => "internal",
        }
    }

    /// The HTTP status it is answered with, as Prometheus does.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.kind() {
            "bad_data" => 400,
            "execution" => 422,
            "internal" => 500,
            _ => 503,
        }
    }
}

/// A number printed as `11,000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thousands(pub usize);

impl std::fmt::Display for Thousands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        for (number, text) in [(0, "0"), (999, "999"), (11_000, "11,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Thousands(number).to_string(), text);
        }
    }
}
