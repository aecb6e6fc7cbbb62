//! Times and durations as Prometheus' API takes them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::QueryError;

/// No time beyond this many milliseconds from 1970 is accepted, so that sums and differences of times never overflow.
pub(crate) const TIME_MAX_MS: i64 = 1 << 61;

/// What Prometheus' clients send for "the beginning" and "the end" (Go's extreme times).
const EXTREMES: [(&str, i64); 2] = [("-292273086-05-16T16:47:06Z", -TIME_MAX_MS), ("292277025-08-18T07:12:54.999999999Z", TIME_MAX_MS)];

/// A time in milliseconds: Unix seconds, with fraction, or RFC 3339.
pub(crate) fn parse_time(name: &str, text: &str) -> Result<i64, QueryError> {
    if let Some((_, extreme)) = EXTREMES.iter().find(|(t, _)| *t == text) {
        return Ok(*extreme);
    }
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => rounded_millis(seconds),
        Err(_) => {
            OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|t| i64::try_from(t.unix_timestamp_nanos().div_euclid(1_000_000)).ok())
        }
    };
    parsed.ok_or_else(|| QueryError::parameter(name, format!("cannot parse {text:?} to a valid timestamp")))
}

/// A duration in milliseconds: seconds, with fraction, or as in PromQL (`1h30m`).
pub(crate) fn parse_duration(name: &str, text: &str) -> Result<i64, QueryError> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => rounded_millis(seconds),
        Err(_) => promql_duration(text),
    };
    parsed.ok_or_else(|| QueryError::parameter(name, format!("cannot parse {text:?} to a valid duration")))
}

/// Milliseconds nearest to `seconds`; `None` out of bounds.
fn rounded_millis(seconds: f64) -> Option<i64> {
    let millis = (seconds * 1000.0).round();
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let in_bounds = millis.abs() <= TIME_MAX_MS as f64;
    #[expect(clippy::cast_possible_truncation, reason = "in bounds; NaN is not")]
    in_bounds.then_some(millis as i64)
}

/// `y w d h m s ms`, each at most once and in this order.
fn promql_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] =
        [("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut rest, mut total, mut next_unit) = (text, 0_i64, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = UNITS.iter().position(|(unit, _)| *unit == &rest[digits..digits + letters])?;
        if unit < next_unit {
            return None;
        }
        next_unit = unit + 1;
        total = total.checked_add(number.checked_mul(UNITS[unit].1)?)?;
        rest = &rest[digits + letters..];
    }
    (!text.is_empty() && total <= TIME_MAX_MS).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc3339() {
        for (text, expected) in [
            ("1700000000.123", Some(1_700_000_000_123)),
            ("-1.5", Some(-1500)),
            ("0", Some(0)),
            ("1e9", Some(1_000_000_000_000)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T23:13:20.5+01:00", Some(1_700_000_000_500)),
            ("-292273086-05-16T16:47:06Z", Some(-TIME_MAX_MS)),
            ("NaN", None),
            ("inf", None),
            ("1e300", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse_time("time", text).ok(), expected, "{text}");
        }
        assert_eq!(
            parse_time("time", "foo").unwrap_err().to_string(),
            "invalid parameter \"time\": cannot parse \"foo\" to a valid timestamp"
        );
    }

    #[test]
    fn durations_are_seconds_or_promql() {
        for (text, expected) in [
            ("15", Some(15_000)),
            ("0.5", Some(500)),
            ("-1", Some(-1000)),
            ("15s", Some(15_000)),
            ("1h30m", Some(5_400_000)),
            ("1m500ms", Some(60_500)),
            ("1y2w3d4h5m6s7ms", Some(31_536_000_000 + 1_209_600_000 + 259_200_000 + 14_400_000 + 300_000 + 6_007)),
            ("30m1h", None),
            ("1m1m", None),
            ("5", Some(5000)),
            ("5x", None),
            ("m", None),
            ("", None),
            ("99999999999999y", None),
            ("1 m", None),
            ("1é", None),
            ("é", None),
        ] {
            assert_eq!(parse_duration("step", text).ok(), expected, "{text}");
        }
    }
}
