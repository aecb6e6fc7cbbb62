//! Hand-computed queries over a source in memory.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::support::Memory;
use anemone_model::{CounterWidth, Discontinuity, MetricKind, Sample, Value};
use anemone_query::engine::{NameRemoval, QueryResult};
use anemone_query::{Answer, Engine, EngineOptions, Limits, QueryError, QueryRequest};

/// `labels value` per line; of a matrix `labels value@second ...`.
fn show(answer: &Answer) -> String {
    let mut out = String::new();
    match &answer.result {
        QueryResult::Scalar { value, .. } => write!(out, "{}", Value::F64(*value)).unwrap(),
        QueryResult::Text { text, .. } => write!(out, "{text:?}").unwrap(),
        QueryResult::Vector { samples, .. } => {
            for sample in samples {
                writeln!(out, "{} {}", sample.labels, sample.value).unwrap();
            }
        }
        QueryResult::Matrix(series) => {
            for one in series {
                write!(out, "{}", one.labels).unwrap();
                for (time, value) in &one.points {
                    write!(out, " {value}@{}", *time as f64 / 1000.0).unwrap();
                }
                out.push('\n');
            }
        }
    }
    out.trim_end().to_owned()
}

async fn run(memory: Memory, request: &QueryRequest) -> Result<Answer, QueryError> {
    Engine::new(Arc::new(memory), EngineOptions::default()).query(request).await
}

/// Checks instant queries at `seconds` over one `load` block.
async fn check(load: &str, seconds: i64, cases: &[(&str, &str)]) {
    for (query, expected) in cases {
        let shown = match run(Memory::load(load), &QueryRequest::instant(*query, seconds * 1000)).await {
            Ok(answer) => show(&answer),
            Err(error) => format!("error: {error}"),
        };
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected, "{query}");
    }
}

#[tokio::test]
async fn exact_integers_come_through_what_keeps_values() {
    let load = "60
        if_in_octets{device=\"a\"} u9223372036854775809
        if_in_octets{device=\"b\"} u9223372036854775810";
    check(
        load,
        60,
        &[
            ("if_in_octets{device=\"a\"}", "if_in_octets{device=\"a\"} 9223372036854775809"),
            ("max(if_in_octets)", "{} 9223372036854775810"),
            ("min(if_in_octets)", "{} 9223372036854775809"),
            ("topk(1, if_in_octets)", "if_in_octets{device=\"b\"} 9223372036854775810"),
            ("bottomk(1, if_in_octets)", "if_in_octets{device=\"a\"} 9223372036854775809"),
            (
                "last_over_time(if_in_octets[5m])",
                "if_in_octets{device=\"a\"} 9223372036854775809\nif_in_octets{device=\"b\"} 9223372036854775810",
            ),
            ("max(max_over_time(if_in_octets[5m]))", "{} 9223372036854775810"),
            (
                "if_in_octets > ignoring(device) group_left max(if_in_octets) - 4096",
                "if_in_octets{device=\"a\"} 9223372036854775809\nif_in_octets{device=\"b\"} 9223372036854775810",
            ),
            ("sort_desc(if_in_octets)", "if_in_octets{device=\"b\"} 9223372036854775810\nif_in_octets{device=\"a\"} 9223372036854775809"),
            ("if_in_octets + 0", "{device=\"a\"} 9223372036854776000\n{device=\"b\"} 9223372036854776000"),
        ],
    )
    .await;
}

/// One counter polled every 10 s, from 0.
fn counter(width: CounterWidth, values: &[u64], marked: &[usize]) -> Memory {
    let mut memory = Memory::default();
    memory.add("if_in_octets{if_name=\"e0\"} _", 1);
    let series = &mut memory.series[0];
    (series.kind, series.width) = (MetricKind::Counter, width);
    series.samples = (0..).zip(values).map(|(at, v)| Sample::new(at * 10_000, Value::U64(*v))).collect();
    for at in marked {
        series.samples[*at].discontinuity = Some(Discontinuity::UptimeWentBack);
    }
    memory
}

#[tokio::test]
async fn counters_wrap_reset_and_break_as_their_width_and_marks_say() {
    let near_32 = [4_294_967_000, 4_294_967_100, 4, 104, 204];
    let near_64 = [u64::MAX - 99, u64::MAX, 100, 200, 300];
    for (width, values, marked, expected) in [
        // 100, 200 (wrapped), 100, 100 over 40 s
        (CounterWidth::Bits32, near_32, vec![], 500.0),
        (CounterWidth::Bits32, near_32, vec![2], 304.0),
        (CounterWidth::Unknown, near_32, vec![], 304.0),
        // 99, 101 (wrapped), 100, 100
        (CounterWidth::Bits64, near_64, vec![], 400.0),
        (CounterWidth::Bits64, near_64, vec![2], 399.0),
        (CounterWidth::Bits64, [1000, 2000, 10, 20, 30], vec![], 1030.0),
        // A mark counts from zero, also where the value went up.
        (CounterWidth::Bits64, [1000, 2000, 5000, 6000, 7000], vec![2], 8000.0),
        // Above 2^53 nothing is lost.
        (CounterWidth::Bits64, [1 << 63, (1 << 63) + 1, (1 << 63) + 2, (1 << 63) + 3, (1 << 63) + 7], vec![], 7.0),
    ] {
        // The window ends and starts on samples, so nothing is extrapolated.
        let memory = counter(width, &values, &marked);
        let answer = run(memory, &QueryRequest::instant("increase(if_in_octets[40001ms])", 40_000)).await.unwrap();
        let QueryResult::Vector { samples, .. } = &answer.result else { panic!("{answer:?}") };
        let got = samples[0].value.as_f64();
        assert!((got / expected - 1.0).abs() < 1e-4, "{width:?} {values:?} {marked:?}: {got} is not {expected}");
        assert!(answer.infos.is_empty(), "a counter by kind needs no name that says so: {:?}", answer.infos);
    }
}

#[tokio::test]
async fn ranges_are_open_on_the_left() {
    let load = "10
        c_total 0+10x6
        g 1 2 3 stale 5";
    check(
        load,
        40,
        &[
            // (20, 40]: samples at 30 and 40.
            ("count_over_time(c_total[20s])", "{} 2"),
            // Sampled 10 s of 20, both edges nearer than 1.1 intervals: 10 to the left, 0 to the right.
            ("increase(c_total[20s])", "{} 20"),
            ("rate(c_total[20s])", "{} 1"),
            ("irate(c_total[20s])", "{} 1"),
            ("rate(c_total[10s])", ""),
            ("g[40s]", "g{} 2@10 3@20 5@40"),
            ("count_over_time(g[1m])", "{} 4"),
            ("avg_over_time(g[1m])", "{} 2.75"),
            ("sum_over_time(g[1m] offset 20s)", "{} 6"),
            ("min_over_time(g[1m])", "{} 1"),
            ("delta(g[30s])", "{} 3"),
            ("last_over_time(g[20s])", "g{} 5"),
            ("g offset 10s", ""),
            ("g @ 20", "g{} 3"),
            ("g @ 25 offset 10s", "g{} 2"),
            ("g offset -1h", ""),
        ],
    )
    .await;
    // The zero point: 40 per 10 s from a first value of 10 was zero 2.5 s before.
    check("10\nc_total _ _ _ _ _ _ 10 50 90", 80, &[("increase(c_total[1m])", "{} 90"), ("delta(c_total[1m])", "{} 100")]).await;
}

#[tokio::test]
async fn lookback_and_staleness_end_series() {
    let load = "60
        a 1
        b 1 stale";
    check(load, 299, &[("a", "a{} 1"), ("b", "")]).await;
    check(load, 300, &[("a", ""), ("absent(a)", "{} 1"), ("absent(a{x=\"1\",y=~\"2\"})", "{x=\"1\"} 1")]).await;
    check(load, 30, &[("b", "b{} 1"), ("timestamp(b)", "{} 0"), ("timestamp(b + 0)", "{} 30")]).await;
    let request = QueryRequest { lookback: Some(Duration::from_secs(10)), ..QueryRequest::instant("a", 10_000) };
    assert_eq!(show(&run(Memory::load(load), &request).await.unwrap()), "");
}

#[tokio::test]
async fn aggregations_group() {
    let load = "60
        m{pop=\"ams1\",device=\"a\"} 1
        m{pop=\"ams1\",device=\"b\"} 3
        m{pop=\"nyc1\",device=\"c\"} 5
        m{pop=\"nyc1\",device=\"d\"} NaN";
    check(
        load,
        60,
        &[
            ("sum by (pop) (m > 0)", "{pop=\"ams1\"} 4\n{pop=\"nyc1\"} 5"),
            ("count(m)", "{} 4"),
            ("max without (device) (m)", "{pop=\"ams1\"} 3\n{pop=\"nyc1\"} 5"),
            ("avg by (pop) (m{pop=\"ams1\"})", "{pop=\"ams1\"} 2"),
            ("group(m)", "{} 1"),
            ("stddev(m{pop=\"ams1\"})", "{} 1"),
            ("quantile(0.5, m{pop=\"ams1\"})", "{} 2"),
            ("topk(2, m)", "m{device=\"c\",pop=\"nyc1\"} 5\nm{device=\"b\",pop=\"ams1\"} 3"),
            ("bottomk by (pop) (1, m)", "m{device=\"a\",pop=\"ams1\"} 1\nm{device=\"c\",pop=\"nyc1\"} 5"),
            ("topk(0, m)", ""),
            ("topk(NaN, m)", "error: Parameter value is NaN"),
            ("topk(1e30, m)", "error: Scalar value 1e+30 overflows int64"),
            ("sum(nothing)", ""),
            ("scalar(m{device=\"a\"}) + time()", "61"),
            ("scalar(m)", "NaN"),
            ("sort(m{pop=\"nyc1\"})", "m{device=\"c\",pop=\"nyc1\"} 5\nm{device=\"d\",pop=\"nyc1\"} NaN"),
        ],
    )
    .await;
}

#[tokio::test]
async fn vectors_match() {
    let load = "60
        in{pop=\"ams1\",device=\"a\"} 10
        in{pop=\"ams1\",device=\"b\"} 30
        out{pop=\"ams1\",device=\"a\"} 5
        site{pop=\"ams1\",city=\"Amsterdam\"} 2
        site{pop=\"ams1\",city=\"Haarlem\"} 3";
    check(load, 60, &[
        ("in - out", "{device=\"a\",pop=\"ams1\"} 5"),
        ("in > on(device) out", "{device=\"a\"} 10"),
        ("in > bool out", "{device=\"a\",pop=\"ams1\"} 1"),
        ("in > ignoring(pop) out", "in{device=\"a\"} 10"),
        ("in * on(pop) group_left(city) site{city=\"Haarlem\"}", "{city=\"Haarlem\",device=\"a\",pop=\"ams1\"} 30\n{city=\"Haarlem\",device=\"b\",pop=\"ams1\"} 90"),
        ("site{city=\"Haarlem\"} < on(pop) group_right in", "in{device=\"a\",pop=\"ams1\"} 3\nin{device=\"b\",pop=\"ams1\"} 3"),
        ("in and on(device) out", "in{device=\"a\",pop=\"ams1\"} 10"),
        ("in unless on(device) out", "in{device=\"b\",pop=\"ams1\"} 30"),
        ("out or on(device) in", "out{device=\"a\",pop=\"ams1\"} 5\nin{device=\"b\",pop=\"ams1\"} 30"),
        ("in * on(pop) site", "error: found duplicate series for the match group {pop=\"ams1\"} on the right hand-side of the operation: [{__name__=\"site\", city=\"Amsterdam\", pop=\"ams1\"}, {__name__=\"site\", city=\"Haarlem\", pop=\"ams1\"}];many-to-many matching not allowed: matching labels must be unique on one side"),
        ("in * on(pop) out", "error: multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"),
        ("nothing * on(pop) site", ""),
        ("10 - in{device=\"a\"}", "{device=\"a\",pop=\"ams1\"} 0"),
        ("20 < in", "in{device=\"b\",pop=\"ams1\"} 30"),
        ("1 + 2 * 3 ^ 2 % 4", "3"),
        ("-in{device=\"a\"}", "{device=\"a\",pop=\"ams1\"} -10"),
        ("label_replace(out, \"device\", \"$1-$1\", \"device\", \"(.*)\")", "out{device=\"a-a\",pop=\"ams1\"} 5"),
        ("label_replace(in, \"device\", \"\", \"device\", \".*\")", "error: vector cannot contain metrics with the same labelset"),
        ("clamp(in, 15, 20)", "{device=\"a\",pop=\"ams1\"} 15\n{device=\"b\",pop=\"ams1\"} 20"),
        ("abs({device=\"a\"})", "error: vector cannot contain metrics with the same labelset"),
        ("\"a string\"", "\"a string\""),
    ])
    .await;
}

#[tokio::test]
async fn ranges_evaluate_each_step() {
    let load = "10
        a 0 1 2 stale _ 5
        b 9 _ _ 9 9 9";
    for (query, expected) in [
        ("a", "a{} 0@0 1@10 2@20 5@50"),
        ("a or b", "a{} 0@0 1@10 2@20 5@50\nb{} 9@30 9@40"),
        ("a > 1", "a{} 2@20 5@50"),
        ("sum(a) + 1", "{} 1@0 2@10 3@20 6@50"),
        ("1", "{} 1@0 1@10 1@20 1@30 1@40 1@50"),
        ("time()", "{} 0@0 10@10 20@20 30@30 40@40 50@50"),
        ("absent(a)", "{} 1@30 1@40"),
        ("topk(1, {__name__=~\"a|b\"})", "b{} 9@0 9@10 9@20 9@30 9@40 9@50"),
        ("a @ end()", "a{} 5@0 5@10 5@20 5@30 5@40 5@50"),
        ("sum_over_time(a[20s] @ 20)", "{} 3@0 3@10 3@20 3@30 3@40 3@50"),
    ] {
        let answer = run(Memory::load(load), &QueryRequest::range(query, 0, 50_000, 10_000)).await.unwrap();
        assert_eq!(show(&answer), expected, "{query}");
    }
}

#[tokio::test]
async fn names_go_at_once_unless_delayed() {
    let load = "60\nm_total{a=\"1\"} 0 60 120\nn_total{a=\"1\"} 0 60 120";
    let query = QueryRequest::instant("sum by (__name__) (rate({a=\"1\"}[2m]))", 120_000);
    for (names, expected) in [
        (NameRemoval::Immediate, "vector cannot contain metrics with the same labelset"),
        (NameRemoval::Delayed, "vector cannot contain metrics with the same labelset"),
    ] {
        let options = EngineOptions { names, ..EngineOptions::default() };
        let error = Engine::new(Arc::new(Memory::load(load)), options).query(&query).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let query = QueryRequest::instant("label_replace(rate(m_total[2m]), \"was\", \"$1\", \"__name__\", \"(.+)\")", 120_000);
    for (names, expected) in [(NameRemoval::Immediate, "{a=\"1\"} 1"), (NameRemoval::Delayed, "{a=\"1\",was=\"m_total\"} 1")] {
        let options = EngineOptions { names, ..EngineOptions::default() };
        let answer = Engine::new(Arc::new(Memory::load(load)), options).query(&query).await.unwrap();
        assert_eq!(show(&answer), expected);
    }
}

#[tokio::test]
async fn what_is_missing_is_refused_by_name() {
    for (query, expected) in [
        ("predict_linear(a[5m], 60)", "function predict_linear is not supported by this version"),
        ("histogram_quantile(0.9, a)", "function histogram_quantile is not supported by this version"),
        ("max_over_time(a[5m:1m])", "a subquery is not supported by this version"),
        ("count_values(\"v\", a)", "aggregation count_values is not supported by this version"),
        ("limitk(1, a)", "aggregation limitk is not supported by this version"),
        ("a + fill(0) b", "modifier fill is not supported by this version"),
        ("{a=\"1\" or b=\"2\"}", "\"or\" between label matchers is not supported by this version"),
    ] {
        let error = run(Memory::default(), &QueryRequest::instant(query, 0)).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (expected, "bad_data"), "{query}");
    }
}

#[tokio::test]
async fn each_limit_is_named() {
    let load = "1\na 0+1x99\nb 0+1x99\nc 0+1x99";
    let base = EngineOptions::default();
    let small = |series, samples, points_max| EngineOptions { limits: Limits { series, samples }, points_max, ..base.clone() };
    for (options, query, expected) in [
        (small(2, 1000, 1000), "{__name__=~\".+\"}", "query needs more than 2 series, the limit per query"),
        (small(9, 150, 1000), "a + b", "query needs more than 150 samples, the limit per query"),
        (small(9, 1000, 100), "a or b or c or {__name__=~\".+\"}", "query needs more than 100 points, the limit per query"),
        (EngineOptions { wall_time: Duration::ZERO, ..base.clone() }, "a", "query timed out after 0 s, the limit of wall time per query"),
    ] {
        let error =
            Engine::new(Arc::new(Memory::load(load)), options).query(&QueryRequest::range(query, 0, 99_000, 1000)).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{query}: {error}");
    }
    let error = run(Memory::default(), &QueryRequest::range("1", 0, 11_001, 1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"
    );
    assert!(run(Memory::default(), &QueryRequest::range("1", 0, 11_000, 1)).await.is_ok());
}

#[tokio::test]
async fn deep_queries_within_the_bounds_evaluate() {
    for query in [
        format!("{}1{}", "(".repeat(100), ")".repeat(100)),
        format!("vector(1){}", " + vector(1)".repeat(199)),
        format!("vector(2){}", " ^ vector(1)".repeat(199)),
        format!("{}vector(1)", "-".repeat(200)),
        format!("{}vector(1){}", "abs(".repeat(98), ")".repeat(98)),
        format!("{}vector(1){}{}", "-abs(".repeat(98), ")".repeat(98), " + vector(1)".repeat(102)),
    ] {
        assert!(run(Memory::default(), &QueryRequest::instant(query, 0)).await.is_ok());
    }
}

#[tokio::test]
async fn a_rate_of_what_is_no_counter_is_noted() {
    let answer = run(Memory::load("10\ntemperature 1 2 3"), &QueryRequest::instant("rate(temperature[1m])", 20_000)).await.unwrap();
    assert_eq!(
        answer.infos,
        ["PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"temperature\""]
    );
}
