//! Registration and matchers, by tables.

use super::*;
use crate::matcher::{MatchOp, Matcher};

fn def(metric: &str, labels: &[(&str, &str)]) -> SeriesDef {
    SeriesDef::new(metric, labels.iter().copied(), MetricKind::Counter, CounterWidth::Bits64).unwrap()
}

fn index() -> SeriesIndex {
    let mut index = SeriesIndex::default();
    for (metric, labels) in [
        ("up", &[("pop", "ams1"), ("device", "sw1")][..]),
        ("up", &[("pop", "ams1"), ("device", "sw2")]),
        ("up", &[("pop", "nyc1"), ("device", "sw1")]),
        ("down", &[("pop", "nyc1"), ("note", "a\nb")]),
        ("down", &[]),
    ] {
        index.register(&def(metric, labels), 100).unwrap();
    }
    index
}

/// Matchers, and the series they choose.
type Case<'a> = (&'a [(&'a str, MatchOp, &'a str)], &'a [u32]);

#[test]
fn matchers_answer_as_prometheus_does() {
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let index = index();
    let cases: &[Case<'_>] = &[
        (&[], &[0, 1, 2, 3, 4]),
        (&[("__name__", Equal, "up")], &[0, 1, 2]),
        (&[("__name__", NotEqual, "up")], &[3, 4]),
        (&[("__name__", Regex, "up|down"), ("pop", Equal, "ams1")], &[0, 1]),
        (&[("pop", Equal, "")], &[4]),
        (&[("pop", NotEqual, "")], &[0, 1, 2, 3]),
        (&[("pop", NotEqual, "ams1")], &[2, 3, 4]),
        (&[("pop", Regex, "")], &[4]),
        (&[("pop", Regex, ".*")], &[0, 1, 2, 3, 4]),
        (&[("pop", Regex, ".+")], &[0, 1, 2, 3]),
        (&[("pop", Regex, "ams")], &[]),
        (&[("pop", Regex, "ams.|")], &[0, 1, 4]),
        (&[("pop", NotRegex, "ams.*")], &[2, 3, 4]),
        (&[("pop", NotRegex, ".+")], &[4]),
        (&[("pop", NotRegex, "")], &[0, 1, 2, 3]),
        (&[("note", Regex, "a.b")], &[3]),
        (&[("absent", Equal, "x")], &[]),
        (&[("absent", Equal, "")], &[0, 1, 2, 3, 4]),
        (&[("absent", NotEqual, "x"), ("device", Equal, "sw1")], &[0, 2]),
        (&[("device", Equal, "sw1"), ("device", NotEqual, "sw1")], &[]),
        (&[("pop", Equal, "sw1")], &[]),
    ];
    for (matchers, expected) in cases {
        let matchers: Vec<_> = matchers.iter().map(|(n, op, v)| Matcher::new(*n, *op, *v).unwrap()).collect();
        assert_eq!(index.matching(&matchers).iter().collect::<Vec<_>>(), *expected, "{matchers:?}");
    }
}

#[test]
fn registering_twice_gives_the_same_series_and_the_newest_kind() {
    let mut index = index();
    let mut again = def("up", &[("device", "sw2"), ("pop", "ams1")]);
    again.kind = MetricKind::Gauge;
    again.width = CounterWidth::Bits32;
    assert_eq!(index.register(&again, 0).unwrap(), SeriesRef(1));
    assert_eq!(index.def(SeriesRef(1)), again);
    assert_eq!(index.find(&again.labels), Some(SeriesRef(1)));
    assert_eq!(index.find(&def("up", &[]).labels), None);
    assert_eq!(index.len(), 5);
}

#[test]
fn a_collision_and_the_limit_are_refused_by_name() {
    let mut index = index();
    let first = def("up", &[("pop", "ams1"), ("device", "sw1")]);
    let error = index.register_as(first.id(), &def("up", &[("pop", "x")]), 100).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("up{pop=\"x\"}") && text.contains("up{device=\"sw1\",pop=\"ams1\"}") && text.contains("refused"), "{text}");
    assert_eq!(index.len(), 5);
    assert!(matches!(index.register(&def("new", &[]), 5), Err(StoreError::SeriesLimit { limit: 5 })));
    assert_eq!(index.register(&first, 5).unwrap(), SeriesRef(0));
}

#[test]
fn names_and_values_are_sorted_and_narrowed() {
    let index = index();
    let texts = |v: Vec<Arc<str>>| v.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(texts(index.values("pop", None)), ["ams1", "nyc1"]);
    assert_eq!(texts(index.names(None)), ["__name__", "device", "note", "pop"]);
    let down = index.matching(&[Matcher::new("__name__", MatchOp::Equal, "down").unwrap()]);
    assert_eq!(texts(index.values("pop", Some(&down))), ["nyc1"]);
    assert_eq!(texts(index.names(Some(&down))), ["__name__", "note", "pop"]);
    let order: Vec<u32> = index.by_metric().iter().flat_map(|m| m.iter().collect::<Vec<_>>()).collect();
    assert_eq!(order, [3, 4, 0, 1, 2]);
}

#[test]
fn kinds_round_trip_through_their_byte() {
    for kind in [MetricKind::Counter, MetricKind::Gauge, MetricKind::State, MetricKind::Info] {
        for width in [CounterWidth::Unknown, CounterWidth::Bits32, CounterWidth::Bits64] {
            assert_eq!(kind_of_code(kind_code(kind, width)), Some((kind, width)));
        }
    }
    assert_eq!((kind_of_code(0), kind_of_code(7), kind_of_code(0xFF)), (None, None, None));
}
