//! Label matchers, as PromQL selectors have them.

use regex::Regex;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends.
    Regex,
    /// `!~`, anchored at both ends.
    NotRegex,
}

/// One condition on a label. An absent label counts as the empty string, as in Prometheus.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The label's name; the metric name is `__name__`.
    pub name: String,
    /// How to compare.
    pub op: MatchOp,
    /// The value or the pattern as written.
    pub value: String,
    pattern: Option<Regex>,
}

/// A pattern that does not compile or is too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} for label {name:?} is not usable: {reason}")]
pub struct PatternError {
    /// The label.
    pub name: String,
    /// The pattern as written.
    pub pattern: String,
    /// What the regex compiler said.
    pub reason: String,
}

impl Matcher {
    /// A matcher; patterns are compiled here, with a size limit.
    ///
    /// # Errors
    /// A pattern that does not compile or needs more than 1 MiB compiled.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Self, PatternError> {
        let (name, value) = (name.into(), value.into());
        let pattern = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => {
                let anchored = format!("^(?s:{value})$");
                let built = regex::RegexBuilder::new(&anchored).size_limit(1 << 20).build();
                Some(built.map_err(|e| PatternError { name: name.clone(), pattern: value.clone(), reason: e.to_string() })?)
            }
        };
        Ok(Self { name, op, value, pattern })
    }

    /// Whether a label with this value (empty for an absent one) fits.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let by_pattern = |value: &str| self.pattern.as_ref().is_some_and(|p| p.is_match(value));
        match self.op {
            MatchOp::Equal => self.value == value,
            MatchOp::NotEqual => self.value != value,
            MatchOp::Regex => by_pattern(value),
            MatchOp::NotRegex => !by_pattern(value),
        }
    }
}
