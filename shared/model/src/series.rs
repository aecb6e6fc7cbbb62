//! Series: identity, kind, definition.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::label::{Labels, LabelsError, METRIC_NAME};

/// 64-bit hash of a series' canonical labels. Two series with one id are refused where they are registered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesId(pub u64);

impl SeriesId {
    /// The id of the series with these labels: XXH3-64 of the canonical form.
    #[must_use]
    pub fn of(labels: &Labels) -> Self {
        let mut canonical = Vec::with_capacity(128);
        labels.write_canonical(&mut canonical);
        Self(xxh3_64(&canonical))
    }
}

impl fmt::Debug for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the values of a metric mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// Only goes up, until it wraps or is reset.
    Counter,
    /// Goes up and down.
    Gauge,
    /// One of an enumeration's numbers.
    State,
    /// Constant 1; the labels are the message.
    Info,
}

impl MetricKind {
    /// Its number in encodings.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Counter => 1,
            Self::Gauge => 2,
            Self::State => 3,
            Self::Info => 4,
        }
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::State, Self::Info].into_iter().find(|k| k.code() == code)
    }
}

/// How many bits a device's counter has; where a decrease is a wrap, this much is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum CounterWidth {
    /// Not a device counter, or not known: a decrease is a reset.
    #[default]
    Unknown,
    /// Counter32 (RFC 2578, 7.1.6).
    Bits32,
    /// Counter64 (RFC 2578, 7.1.10).
    Bits64,
}

impl CounterWidth {
    /// Bits as a number: 0, 32 or 64.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }

    /// The width of so many bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Unknown),
            32 => Some(Self::Bits32),
            64 => Some(Self::Bits64),
            _ => None,
        }
    }
}

/// Everything that is said once about a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesDef {
    /// All labels, the metric name as `__name__`.
    pub labels: Labels,
    /// What its values mean.
    pub kind: MetricKind,
    /// Width of the device's counter.
    pub width: CounterWidth,
}

impl SeriesDef {
    /// A definition from a metric name and its other labels.
    ///
    /// # Errors
    /// As [`Labels::new`].
    pub fn new<'a>(
        metric: &'a str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        kind: MetricKind,
        width: CounterWidth,
    ) -> Result<Self, LabelsError> {
        let labels = Labels::new(labels.into_iter().chain([(METRIC_NAME, metric)]))?;
        Ok(Self { labels, kind, width })
    }

    /// The id of its labels.
    #[must_use]
    pub fn id(&self) -> SeriesId {
        SeriesId::of(&self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_of_the_labels_in_any_order() {
        let a = SeriesDef::new("m", [("b", "2"), ("a", "1")], MetricKind::Gauge, CounterWidth::Unknown).unwrap();
        let b = SeriesDef::new("m", [("a", "1"), ("b", "2")], MetricKind::Counter, CounterWidth::Bits64).unwrap();
        let c = SeriesDef::new("m", [("a", "12"), ("b", "")], MetricKind::Gauge, CounterWidth::Unknown).unwrap();
        assert_eq!(a.id(), b.id());
        assert_ne!(a.id(), c.id());
    }

    #[test]
    fn the_id_never_changes_between_releases() {
        let def = SeriesDef::new(
            "if_in_octets",
            [("pop", "ams1"), ("device", "sw1"), ("if_name", "eth0")],
            MetricKind::Counter,
            CounterWidth::Bits64,
        )
        .unwrap();
        let mut canonical = Vec::new();
        def.labels.write_canonical(&mut canonical);
        assert_eq!(canonical, b"__name__\xffif_in_octets\xffdevice\xffsw1\xffif_name\xffeth0\xffpop\xffams1\xff");
        assert_eq!(def.id().0, xxh3_64(&canonical));
    }

    #[test]
    fn codes_round_trip() {
        for code in 0..=255_u8 {
            assert!(MetricKind::from_code(code).is_none_or(|k| k.code() == code));
            assert!(CounterWidth::from_bits(code).is_none_or(|w| w.bits() == code));
        }
    }
}
