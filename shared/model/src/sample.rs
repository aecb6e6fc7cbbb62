//! Values and samples.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A measured value: exact for counters, floating for the rest.
///
/// A Counter64 above 2^53 does not fit an `f64`, so it stays an integer from the device to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// An exact unsigned integer (counters, states).
    U64(u64),
    /// A floating point number (gauges, derived values).
    F64(f64),
}

impl Value {
    /// The value as a float; integers above 2^53 are rounded.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "documented: the exact value is in U64")]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::U64(v) => v as f64,
            Self::F64(v) => v,
        }
    }

    /// Whether it is Prometheus' staleness marker: the NaN with bits 0x7ff0000000000002.
    #[must_use]
    pub fn is_stale(self) -> bool {
        matches!(self, Self::F64(v) if v.to_bits() == STALE_NAN_BITS)
    }

    /// Prometheus' staleness marker.
    #[must_use]
    pub fn stale() -> Self {
        Self::F64(f64::from_bits(STALE_NAN_BITS))
    }
}

/// Bits of the NaN that marks the end of a series (Prometheus `model/value`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

impl fmt::Display for Value {
    /// As Prometheus' API prints sample values: `NaN`, `+Inf`, `-Inf`, shortest round-trip float, or the exact integer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::U64(v) => write!(f, "{v}"),
            Self::F64(v) if v.is_nan() => f.write_str("NaN"),
            Self::F64(v) if v.is_infinite() => f.write_str(if v > 0.0 { "+Inf" } else { "-Inf" }),
            Self::F64(v) if v != 0.0 && !(1e-6..1e21).contains(&v.abs()) => write_exponent(f, v),
            Self::F64(v) => write!(f, "{v}"),
        }
    }
}

/// Go's `'e'` form: a sign and at least two digits in the exponent.
fn write_exponent(f: &mut fmt::Formatter<'_>, v: f64) -> fmt::Result {
    let text = format!("{v:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    write!(f, "{mantissa}e{sign}{digits:0>2}")
}

/// Why a counter does not continue from the sample before: a rate must not be taken across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Discontinuity {
    /// `sysUpTime` went back: the device or its SNMP engine restarted (RFC 3418).
    UptimeWentBack = 1,
    /// `ifCounterDiscontinuityTime` changed (RFC 2863).
    CounterDiscontinuityTime = 2,
    /// `snmpEngineBoots` changed (RFC 3411).
    EngineBoots = 3,
    /// The series was measured on another object before, such as after an ifIndex was reused.
    Reassigned = 4,
}

impl Discontinuity {
    /// The mark with this number, as used in encodings.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::UptimeWentBack),
            2 => Some(Self::CounterDiscontinuityTime),
            3 => Some(Self::EngineBoots),
            4 => Some(Self::Reassigned),
            _ => None,
        }
    }

    /// Its number in encodings, 1 or more.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When the answer was received, in milliseconds since 1970 UTC.
    pub ts_ms: i64,
    /// What was measured.
    pub value: Value,
    /// Set on the first sample after a break in a counter.
    pub discontinuity: Option<Discontinuity>,
}

impl Sample {
    /// A sample that continues the series.
    #[must_use]
    pub fn new(ts_ms: i64, value: Value) -> Self {
        Self { ts_ms, value, discontinuity: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_prometheus_prints_them() {
        for (value, text) in [
            (Value::U64(9_223_372_036_854_775_809), "9223372036854775809"),
            (Value::F64(1.0), "1"),
            (Value::F64(0.1), "0.1"),
            (Value::F64(1e21), "1e+21"),
            (Value::F64(2.5e-7), "2.5e-07"),
            (Value::F64(0.000_05), "0.00005"),
            (Value::F64(123_456_789_012_345_680_000.0), "123456789012345680000"),
            (Value::F64(f64::NEG_INFINITY), "-Inf"),
            (Value::F64(f64::INFINITY), "+Inf"),
            (Value::F64(f64::NAN), "NaN"),
            (Value::F64(0.0), "0"),
            (Value::F64(-0.0), "-0"),
        ] {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn discontinuities_have_stable_numbers() {
        for code in 0..=255_u8 {
            assert!(Discontinuity::from_code(code).is_none_or(|d| d.code() == code));
        }
        assert!(Value::stale().is_stale() && !Value::F64(f64::NAN).is_stale());
    }
}
