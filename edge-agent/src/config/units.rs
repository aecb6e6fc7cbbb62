//! Quantities as they are written in a config: sizes like `2GiB`, durations like `10s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written as `64KiB`, `2GiB`, `10MB` or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Splits `12MiB` into its number and its unit.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = split(text);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.parse::<u64>().ok();
        let size = plain.or_else(|| scaled(text, &SIZE_UNITS));
        size.map(Self).ok_or_else(|| format!("{text:?} is not a size; write a whole number and a unit, such as 64KiB, 256MiB or 2GiB"))
    }
}

impl fmt::Display for ByteSize {
    /// In the largest binary unit that keeps it exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |&&(name, factor): &&(&str, u64)| name.contains('i') && self.0 > 0 && self.0.is_multiple_of(factor);
        match SIZE_UNITS.iter().filter(exact).max_by_key(|(_, factor)| *factor) {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Reads a duration of whole units: `500ms`, `10s`, `5m`, `48h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let millis = scaled(text, &TIME_UNITS);
    let bad = || format!("{text:?} is not a duration; write a whole number and one of ms, s, m, h, d, such as 500ms or 48h");
    millis.map(Duration::from_millis).ok_or_else(bad)
}

/// A duration as [`duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exact = TIME_UNITS.iter().filter(|(_, factor)| millis > 0 && millis.is_multiple_of(*factor)).max_by_key(|(_, factor)| *factor);
    exact.map_or_else(|| format!("{millis}ms"), |(name, factor)| format!("{}{name}", millis / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes, printed) in [
            ("0", 0, "0B"),
            ("4096", 4096, "4KiB"),
            ("64KiB", 65_536, "64KiB"),
            ("2GiB", 2 << 30, "2GiB"),
            ("10MB", 10_000_000, "10000000B"),
            ("1 MiB", 1 << 20, "1MiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
        }
        for text in ["", "GiB", "-1", "2gib", "1.5GiB", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_printed() {
        for (text, millis, printed) in
            [("500ms", 500, "500ms"), ("60s", 60_000, "1m"), ("48h", 172_800_000, "2d"), ("90m", 5_400_000, "90m")]
        {
            let span = duration(text).unwrap();
            assert_eq!((span.as_millis(), duration_text(span).as_str()), (millis, printed), "{text}");
        }
        assert!(["", "10", "1.5s", "s", "10 parsecs"].iter().all(|text| duration(text).is_err()));
    }
}
