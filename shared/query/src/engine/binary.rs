//! Arithmetic and comparison of numbers, and of vectors with numbers.

use anemone_model::Value;

use super::vector::Series;

/// Binary operators on numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Atan2,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub(crate) fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual)
    }

    /// The result on floats; comparisons give 0 or 1.
    pub(crate) fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Modulo => a % b,
            Self::Power => a.powf(b),
            Self::Atan2 => a.atan2(b),
            _ => f64::from(u8::from(self.holds(Value::F64(a), Value::F64(b)))),
        }
    }

    /// Whether a comparison holds; integers compare exactly. False for operators that are not comparisons.
    pub(crate) fn holds(self, a: Value, b: Value) -> bool {
        if let (Value::U64(a), Value::U64(b)) = (a, b) {
            return self.compares(&a, &b);
        }
        self.compares(&a.as_f64(), &b.as_f64())
    }

    fn compares<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::NotEqual => a != b,
            Self::Less => a < b,
            Self::LessOrEqual => a <= b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            _ => false,
        }
    }

    /// The result on two samples: a comparison without `bool_result` keeps `a` or nothing.
    pub(crate) fn combine(self, a: Value, b: Value, bool_result: bool) -> Option<Value> {
        if !self.is_comparison() {
            return Some(Value::F64(self.apply(a.as_f64(), b.as_f64())));
        }
        let holds = self.holds(a, b);
        if bool_result { Some(Value::F64(f64::from(u8::from(holds)))) } else { holds.then_some(a) }
    }

    /// Whether the result means something else than the operands did.
    pub(crate) fn drops_name(self, bool_result: bool) -> bool {
        bool_result || !self.is_comparison()
    }
}

/// Number by number.
pub(crate) fn scalars(operator: Operator, left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().zip(right).map(|(a, b)| operator.apply(*a, *b)).collect()
}

/// A vector with a number; `scalar_left` says on which side the number stands. A filter keeps the vector's value.
pub(crate) fn vector_scalar(
    operator: Operator,
    mut vector: Vec<Series>,
    scalar: &[f64],
    scalar_left: bool,
    bool_result: bool,
) -> Vec<Series> {
    for series in &mut vector {
        for (value, number) in series.values.iter_mut().zip(scalar) {
            let Some(sample) = *value else { continue };
            let number = Value::F64(*number);
            *value = if scalar_left {
                // What a filter keeps is the vector's sample, on either side.
                operator.combine(number, sample, bool_result).map(|v| if operator.drops_name(bool_result) { v } else { sample })
            } else {
                operator.combine(sample, number, bool_result)
            };
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_above_two_to_53_compare_exactly() {
        let (a, b) = (Value::U64((1 << 53) + 1), Value::U64(1 << 53));
        assert!(Operator::Greater.holds(a, b) && !Operator::Equal.holds(a, b));
        assert_eq!(Operator::Greater.combine(a, b, false), Some(a));
        assert_eq!(Operator::Less.combine(a, b, false), None);
        assert_eq!(Operator::Less.combine(a, b, true), Some(Value::F64(0.0)));
    }

    #[test]
    fn comparisons_with_nan_never_hold_but_unequal_does() {
        let nan = Value::F64(f64::NAN);
        assert!(!Operator::Equal.holds(nan, nan) && Operator::NotEqual.holds(nan, nan) && !Operator::LessOrEqual.holds(nan, nan));
    }
}
