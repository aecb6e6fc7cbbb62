//! Functions of one value. Exact integers stay exact where the function leaves integers alone.

use anemone_model::Value;

use super::{Body, Function};

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "abs", body: Body::Map(|value, _| Some(on_floats(value, f64::abs))) },
    Function { name: "ceil", body: Body::Map(|value, _| Some(on_floats(value, f64::ceil))) },
    Function { name: "floor", body: Body::Map(|value, _| Some(on_floats(value, f64::floor))) },
    Function { name: "round", body: Body::Map(round) },
    Function { name: "clamp", body: Body::Map(clamp) },
    Function { name: "clamp_min", body: Body::Map(|value, bounds| clamp(value, &[*bounds.first()?, f64::INFINITY])) },
    Function { name: "clamp_max", body: Body::Map(|value, bounds| clamp(value, &[f64::NEG_INFINITY, *bounds.first()?])) },
];

/// Applies what is the identity on integers.
fn on_floats(value: Value, function: fn(f64) -> f64) -> Value {
    match value {
        Value::U64(_) => value,
        Value::F64(v) => Value::F64(function(v)),
    }
}

/// To the nearest multiple of the argument, 1 by default; halves go up.
fn round(value: Value, nearest: &[f64]) -> Option<Value> {
    if let (Value::U64(_), []) = (value, nearest) {
        return Some(value);
    }
    // The inverse, as Prometheus does it: multiples of 0.1 come out better than by a division.
    let inverse = 1.0 / nearest.first().copied().unwrap_or(1.0);
    Some(Value::F64((value.as_f64() * inverse + 0.5).floor() / inverse))
}

/// Into `[least, most]`; nothing where that is empty, NaN where a bound is NaN.
fn clamp(value: Value, bounds: &[f64]) -> Option<Value> {
    let [least, most] = bounds else { return None };
    let v = value.as_f64();
    if most < least {
        return None;
    }
    if v.is_nan() || least.is_nan() || most.is_nan() {
        return Some(Value::F64(f64::NAN));
    }
    if v < *least {
        return Some(Value::F64(*least));
    }
    Some(if v > *most { Value::F64(*most) } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stay_exact() {
        let big = Value::U64((1 << 63) + 1);
        assert_eq!(on_floats(big, f64::ceil), big);
        assert_eq!(round(big, &[]), Some(big));
        assert_eq!(clamp(big, &[0.0, f64::INFINITY]), Some(big));
    }

    #[test]
    fn halves_round_up() {
        for (value, nearest, expected) in
            [(2.5, None, 3.0), (-2.5, None, -2.0), (-2.6, None, -3.0), (0.0567, Some(0.1), 0.1), (7.0, Some(5.0), 5.0)]
        {
            assert_eq!(round(Value::F64(value), nearest.as_slice()), Some(Value::F64(expected)), "{value}");
        }
    }
}
