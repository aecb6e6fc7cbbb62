//! From a query's text to `promql-parser`'s tree: bounds before parsing, positions after a failure.
//!
//! The parser recurses over what it built and says "invalid promql query" without a place. So a small scanner of ours
//! reads the text first. It bounds length and nesting, and, where the parser refused, names the first token that
//! cannot stand where it stands. It never decides whether a query is valid: the parser does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use promql_parser::parser::Expr;

use super::scan::scan;
use crate::error::QueryError;

/// Longest query, in bytes.
pub const QUERY_MAX: usize = 128 * 1024;
/// Most brackets open at once.
pub const NESTING_MAX: usize = 100;
/// Most operators: chains nest as brackets do.
pub const OPERATORS_MAX: usize = 200;

/// Parses a query.
///
/// # Errors
/// [`QueryError::Syntax`] with the position where it is known.
pub(crate) fn parse(query: &str) -> Result<Expr, QueryError> {
    if query.len() > QUERY_MAX {
        return Err(refused(format!("query of {} bytes is longer than the limit of {QUERY_MAX}", query.len())));
    }
    let scanned = scan(query);
    if scanned.nesting > NESTING_MAX {
        return Err(refused(format!("query nests {} deep, deeper than the limit of {NESTING_MAX}", scanned.nesting)));
    }
    if scanned.operators > OPERATORS_MAX {
        return Err(refused(format!("query has {} operators, more than the limit of {OPERATORS_MAX}", scanned.operators)));
    }
    if scanned.byte_escape {
        return Err(QueryError::unsupported("an escape of a byte above 0x7f in a string"));
    }
    // The parser panics on some numbers that do not fit a duration.
    let parsed = catch_unwind(AssertUnwindSafe(|| promql_parser::parser::parse(query)));
    let message = match parsed {
        Ok(Ok(expr)) => return Ok(expr),
        Ok(Err(message)) => message,
        Err(_) => "a number or duration is out of range".to_owned(),
    };
    let vague = message == "invalid promql query";
    let (offset, message) = match scanned.problem {
        Some((offset, problem)) => (Some(offset), if vague { problem } else { message }),
        None if vague => (None, "the query is not valid PromQL".to_owned()),
        None => (call_named_in(&message, query), message),
    };
    Err(QueryError::Syntax { position: offset.map(|offset| position(query, offset)), message })
}

fn refused(message: String) -> QueryError {
    QueryError::Syntax { position: None, message }
}

/// Line and column, from 1, of a byte offset; columns count characters.
fn position(query: &str, offset: usize) -> (usize, usize) {
    let before = query.get(..offset).unwrap_or(query);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Where the function stands that a type error names in quotes.
fn call_named_in(message: &str, query: &str) -> Option<usize> {
    let name = message.split(['\'', '"']).nth(1)?;
    let starts_call = |at: &usize| query[at + name.len()..].trim_start().starts_with('(');
    query.match_indices(name).map(|(at, _)| at).find(|at| !name.is_empty() && starts_call(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(query: &str) -> String {
        parse(query).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where() {
        for (query, text) in [
            ("sum(foo", "1:8: parse error: unexpected end of input, \"(\" at byte 3 is not closed"),
            ("foo bar", "1:5: parse error: unexpected identifier \"bar\""),
            ("foo +\n  * bar", "2:3: parse error: unexpected \"*\""),
            ("foo)", "1:4: parse error: unexpected \")\""),
            ("foo[5m)", "1:7: parse error: unexpected \")\", \"[\" at byte 3 is not closed"),
            ("1 +", "1:4: parse error: unexpected end of input"),
            ("", "1:1: parse error: no expression found in input: ''"),
            ("foo{a=\"b}", "1:7: parse error: unterminated quoted string"),
            ("1 $ 2", "1:3: parse error: unexpected character '$'"),
        ] {
            let got = error(query);
            assert!(
                got == text || (got.split(' ').next() == text.split(' ').next() && !got.contains("invalid promql")),
                "{query:?}: {got}"
            );
        }
        assert!(error("rate(foo)").starts_with("1:1: parse error: expected type"), "{}", error("rate(foo)"));
        assert!(error("1 + rate(foo)").starts_with("1:5: "), "{}", error("1 + rate(foo)"));
    }

    #[test]
    fn absurd_queries_are_refused_before_parsing() {
        assert!(error(&"(".repeat(200_000)).contains("longer than the limit"));
        assert!(error(&format!("{}1{}", "(".repeat(101), ")".repeat(101))).contains("nests 101 deep"));
        assert!(error(&format!("1{}", "+1".repeat(201))).contains("201 operators"));
        assert!(error(&format!("1{}", " and up".repeat(201))).contains("201 operators"));
        assert!(error(&format!("{}1", "-".repeat(201))).contains("201 operators"));
    }

    #[test]
    fn what_is_in_bounds_parses_without_overflow() {
        for query in [
            format!("{}1{}", "(".repeat(100), ")".repeat(100)),
            format!("1{}", "+1".repeat(200)),
            format!("1{}", "^1".repeat(200)),
            format!("{}1", "-".repeat(200)),
        ] {
            assert!(parse(&query).is_ok(), "{query}");
        }
    }

    #[test]
    fn numbers_out_of_range_do_not_panic() {
        for query in [
            "foo[99999999999999999999y]",
            "foo offset 1e400",
            "foo[1e400]",
            "foo @ 1e400",
            "foo[-1]",
            "foo[NaN]",
            "foo @ -1e300",
            "foo[0]",
            "foo[1e300]",
        ] {
            let _ = parse(query);
        }
    }
}
