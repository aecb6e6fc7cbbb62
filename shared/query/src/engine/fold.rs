//! Accumulators of aggregations: many series into one, over all steps in one pass per series.

use anemone_model::Value;

use super::sum::{Mean, Sum};
use super::vector::{Column, compare};

/// Takes in one value after the other.
pub(crate) trait Fold: Default + Clone {
    /// Takes in a value.
    fn add(&mut self, value: Value);
    /// The result; only asked for after at least one [`Fold::add`].
    fn finish(self) -> Value;
}

/// Folds columns into one; a step without any value stays without.
pub(crate) fn fold<'a, F: Fold>(columns: impl Iterator<Item = &'a [Option<Value>]>, steps: usize) -> Column {
    let mut folds: Vec<Option<F>> = vec![None; steps];
    for column in columns {
        for (fold, value) in folds.iter_mut().zip(column) {
            if let Some(value) = value {
                fold.get_or_insert_with(F::default).add(*value);
            }
        }
    }
    folds.into_iter().map(|fold| fold.map(F::finish)).collect()
}

/// `sum`
#[derive(Clone, Default)]
pub(crate) struct Total(Sum);

impl Fold for Total {
    fn add(&mut self, value: Value) {
        self.0.add(value.as_f64());
    }

    fn finish(self) -> Value {
        Value::F64(self.0.total())
    }
}

/// `avg`
#[derive(Clone, Default)]
pub(crate) struct Average(Mean);

impl Fold for Average {
    fn add(&mut self, value: Value) {
        self.0.add(value.as_f64());
    }

    fn finish(self) -> Value {
        Value::F64(self.0.mean())
    }
}

/// `count`
#[derive(Clone, Default)]
pub(crate) struct Count(u64);

impl Fold for Count {
    fn add(&mut self, _: Value) {
        self.0 += 1;
    }

    fn finish(self) -> Value {
        Value::U64(self.0)
    }
}

/// `group`
#[derive(Clone, Default)]
pub(crate) struct Group;

impl Fold for Group {
    fn add(&mut self, _: Value) {}

    fn finish(self) -> Value {
        Value::F64(1.0)
    }
}

/// `max`, exact for integers; NaN only where there is nothing else.
#[derive(Clone, Default)]
pub(crate) struct Largest(Option<Value>);

impl Fold for Largest {
    fn add(&mut self, value: Value) {
        // NaN compares lowest, so any number replaces it.
        if self.0.is_none_or(|held| compare(value, held).is_gt()) {
            self.0 = Some(value);
        }
    }

    fn finish(self) -> Value {
        self.0.unwrap_or(Value::F64(f64::NAN))
    }
}

/// `min`, exact for integers; NaN only where there is nothing else.
#[derive(Clone, Default)]
pub(crate) struct Smallest(Option<Value>);

impl Fold for Smallest {
    fn add(&mut self, value: Value) {
        let replaces = |held: Value| held.as_f64().is_nan() || (!value.as_f64().is_nan() && compare(value, held).is_lt());
        if self.0.is_none_or(replaces) {
            self.0 = Some(value);
        }
    }

    fn finish(self) -> Value {
        self.0.unwrap_or(Value::F64(f64::NAN))
    }
}

/// `stdvar`, or `stddev` where `ROOT`: population variance by Welford's method.
#[derive(Clone, Default)]
pub(crate) struct Variance<const ROOT: bool> {
    count: f64,
    mean: f64,
    squares: f64,
}

impl<const ROOT: bool> Fold for Variance<ROOT> {
    fn add(&mut self, value: Value) {
        let value = value.as_f64();
        self.count += 1.0;
        if self.count == 1.0 {
            self.mean = value;
            self.squares = if value.is_finite() { 0.0 } else { f64::NAN };
            return;
        }
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    fn finish(self) -> Value {
        let variance = self.squares / self.count;
        Value::F64(if ROOT { variance.sqrt() } else { variance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded<F: Fold>(values: &[f64]) -> f64 {
        let mut fold = F::default();
        values.iter().for_each(|v| fold.add(Value::F64(*v)));
        fold.finish().as_f64()
    }

    #[test]
    fn extremes_prefer_numbers_to_nan() {
        let nan = f64::NAN;
        for values in [[nan, 2.0, 1.0], [1.0, nan, 2.0], [2.0, 1.0, nan]] {
            assert_eq!((folded::<Largest>(&values), folded::<Smallest>(&values)), (2.0, 1.0));
        }
        assert!(folded::<Largest>(&[nan]).is_nan() && folded::<Smallest>(&[nan, nan]).is_nan());
    }

    #[test]
    fn variance_is_of_the_population() {
        assert!((folded::<Variance<false>>(&[0.0, 8.0, 8.0, 2.0, 3.0]) - 10.56).abs() < 1e-12);
        assert!((folded::<Variance<true>>(&[0.0, 8.0, 8.0, 2.0, 3.0]) - 3.249_615_361_854_384).abs() < 1e-12);
        assert!(folded::<Variance<false>>(&[f64::INFINITY, 1.0]).is_nan());
    }
}
