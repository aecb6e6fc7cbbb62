//! Sums and means of floats that lose as little as Prometheus' (Kahan summation as improved by Neumaier).

/// A compensated sum.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    value: f64,
    compensation: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, x: f64) {
        let next = self.value + x;
        if next.is_infinite() {
            self.compensation = 0.0;
        } else if self.value.abs() >= x.abs() {
            self.compensation += (self.value - next) + x;
        } else {
            self.compensation += (x - next) + self.value;
        }
        self.value = next;
    }

    pub(crate) fn total(self) -> f64 {
        if self.value.is_infinite() { self.value } else { self.value + self.compensation }
    }
}

/// A mean: sum over count while the sum is finite, incremental from the value on that would overflow it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    sum: Sum,
    count: f64,
    incremental: bool,
}

impl Mean {
    pub(crate) fn add(&mut self, x: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.sum.value = x;
            return;
        }
        if !self.incremental {
            let mut next = self.sum;
            next.add(x);
            if !next.value.is_infinite() {
                self.sum = next;
                return;
            }
            self.incremental = true;
            self.sum.value /= self.count - 1.0;
            self.sum.compensation /= self.count - 1.0;
        }
        let keep = (self.count - 1.0) / self.count;
        self.sum.value *= keep;
        self.sum.compensation *= keep;
        self.sum.add(x / self.count);
    }

    pub(crate) fn mean(self) -> f64 {
        if self.incremental {
            self.sum.value + self.sum.compensation
        } else {
            self.sum.value / self.count + self.sum.compensation / self.count
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = Sum::default();
        values.iter().for_each(|v| sum.add(*v));
        sum.total()
    }

    fn mean(values: &[f64]) -> f64 {
        let mut mean = Mean::default();
        values.iter().for_each(|v| mean.add(*v));
        mean.mean()
    }

    #[test]
    fn small_values_survive_large_ones() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(mean(&[1.0, 1e100, 1.0, -1e100]), 0.5);
    }

    #[test]
    fn a_mean_does_not_overflow() {
        assert_eq!(mean(&[9.9e307, 9.9e307]), 9.9e307);
        assert_eq!(sum(&[9.9e307, 9.9e307]), f64::INFINITY);
        assert_eq!(mean(&[f64::INFINITY, 0.0, f64::INFINITY]), f64::INFINITY);
        assert!(mean(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert!(sum(&[1.0, f64::NAN]).is_nan());
    }
}
