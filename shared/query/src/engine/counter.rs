//! How far a counter went: resets, wraps and marked discontinuities, in exact integers where samples are integers.
//!
//! ```text
//! sample    10      4000000000   5          7 (marked)   9
//! 32 bits        +3999999990  +294967301  +7           +2      wrap, then a reset by its mark
//! unknown        +3999999990  +5          +7           +2      a decrease is a reset
//! ```

use anemone_model::{CounterWidth, Sample, Value};

/// Increase from `prev` to `next`, exact; a decrease without a mark is a wrap or a reset as `width` says.
pub(crate) fn step(prev: u64, next: u64, marked: bool, width: CounterWidth) -> u64 {
    if marked {
        return next;
    }
    if next >= prev {
        return next - prev;
    }
    match width {
        CounterWidth::Bits32 if prev <= u64::from(u32::MAX) => (1_u64 << 32) - prev + next,
        // Half the range of a 64-bit counter within one poll interval is no device's traffic: it restarted.
        CounterWidth::Bits64 if next.wrapping_sub(prev) < 1 << 63 => next.wrapping_sub(prev),
        _ => next,
    }
}

/// As [`step`] for floats.
fn step_f64(prev: f64, next: f64, marked: bool, width: CounterWidth) -> f64 {
    if marked || (next < prev && !(width == CounterWidth::Bits32 && prev <= f64::from(u32::MAX))) {
        next
    } else if next < prev {
        next - prev + 4_294_967_296.0
    } else {
        next - prev
    }
}

/// Increase between two neighbouring samples.
#[expect(clippy::cast_precision_loss, reason = "the difference is exact; rates are floats")]
pub(crate) fn increase_between(prev: &Sample, next: &Sample, width: CounterWidth) -> f64 {
    let marked = next.discontinuity.is_some();
    match (prev.value, next.value) {
        (Value::U64(a), Value::U64(b)) => step(a, b, marked, width) as f64,
        (a, b) => step_f64(a.as_f64(), b.as_f64(), marked, width),
    }
}

/// Increases of one series from its first sample on, so that a window's increase is one subtraction.
pub(crate) struct Increases {
    /// Exact running totals, one per sample; `None` for a series with floats.
    totals: Option<Vec<u128>>,
    width: CounterWidth,
}

impl Increases {
    /// Prepares a series.
    pub(crate) fn of(samples: &[Sample], width: CounterWidth) -> Self {
        let mut totals = Vec::with_capacity(samples.len());
        let mut total = 0_u128;
        let mut prev = None;
        for sample in samples {
            let Value::U64(value) = sample.value else {
                return Self { totals: None, width };
            };
            if let Some(prev) = prev {
                total += u128::from(step(prev, value, sample.discontinuity.is_some(), width));
            }
            totals.push(total);
            prev = Some(value);
        }
        Self { totals: Some(totals), width }
    }

    /// Increase over `window`, whose first sample is number `first` of the series.
    #[expect(clippy::cast_precision_loss, reason = "the difference is exact; rates are floats")]
    pub(crate) fn over(&self, window: &[Sample], first: usize) -> f64 {
        let (Some(head), Some(tail)) = (window.first(), window.last()) else {
            return 0.0;
        };
        if let Some(totals) = &self.totals {
            return (totals[first + window.len() - 1] - totals[first]) as f64;
        }
        // As Prometheus does it, so that floats round alike: last - first, plus what each reset or wrap took away.
        let mut increase = tail.value.as_f64() - head.value.as_f64();
        for pair in window.windows(2) {
            let (prev, next) = (pair[0].value.as_f64(), pair[1].value.as_f64());
            let marked = pair[1].discontinuity.is_some();
            if marked || next < prev {
                let wrapped = !marked && self.width == CounterWidth::Bits32 && prev <= f64::from(u32::MAX);
                increase += if wrapped { 4_294_967_296.0 } else { prev };
            }
        }
        increase
    }
}

#[cfg(test)]
mod tests {
    use anemone_model::Discontinuity;

    use super::*;

    #[test]
    fn steps_wrap_reset_or_grow() {
        let max = u64::MAX;
        for (prev, next, marked, width, expected) in [
            (10, 25, false, CounterWidth::Unknown, 15),
            (25, 10, false, CounterWidth::Unknown, 10),
            (4_294_967_290, 4, false, CounterWidth::Bits32, 10),
            (4_294_967_290, 4, true, CounterWidth::Bits32, 4),
            (4, 4_294_967_290, true, CounterWidth::Bits32, 4_294_967_290),
            // More than 32 bits was never a Counter32: a reset.
            (4_294_967_297, 4, false, CounterWidth::Bits32, 4),
            (max - 5, 4, false, CounterWidth::Bits64, 10),
            (1000, 10, false, CounterWidth::Bits64, 10),
            // Exactly 2^63 is no longer plausible.
            ((1 << 63) + 5, 5, false, CounterWidth::Bits64, 5),
            ((1 << 63) + 6, 5, false, CounterWidth::Bits64, (1 << 63) - 1),
        ] {
            assert_eq!(step(prev, next, marked, width), expected, "{prev} -> {next} {marked} {width:?}");
        }
    }

    #[test]
    fn totals_and_floats_agree() {
        let values = [5_u64, 4_294_967_200, 100, 50, 60, 4_000_000_000, 3];
        let integers: Vec<Sample> = (0..).zip(values).map(|(t, v)| Sample::new(t, Value::U64(v))).collect();
        let mut floats: Vec<Sample> = (0..).zip(values).map(|(t, v)| Sample::new(t, Value::F64(v as f64))).collect();
        let mut marked = integers.clone();
        marked[3].discontinuity = Some(Discontinuity::UptimeWentBack);
        floats[3].discontinuity = marked[3].discontinuity;
        for width in [CounterWidth::Unknown, CounterWidth::Bits32] {
            let (exact, float) = (Increases::of(&marked, width), Increases::of(&floats, width));
            for first in 0..values.len() {
                for end in first + 1..=values.len() {
                    let by_steps: f64 = marked[first..end].windows(2).map(|p| increase_between(&p[0], &p[1], width)).sum();
                    assert_eq!(exact.over(&marked[first..end], first), by_steps, "{width:?} {first}..{end}");
                    assert_eq!(float.over(&floats[first..end], first), by_steps, "{width:?} {first}..{end}");
                    let between: f64 = floats[first..end].windows(2).map(|p| increase_between(&p[0], &p[1], width)).sum();
                    assert_eq!(between, by_steps);
                }
            }
        }
    }

    #[test]
    fn differences_above_two_to_53_are_exact() {
        let samples = [Sample::new(0, Value::U64((1 << 63) + 1)), Sample::new(1, Value::U64((1 << 63) + 8))];
        assert_eq!(Increases::of(&samples, CounterWidth::Bits64).over(&samples, 0), 7.0);
        assert_eq!(increase_between(&samples[0], &samples[1], CounterWidth::Bits64), 7.0);
    }
}
