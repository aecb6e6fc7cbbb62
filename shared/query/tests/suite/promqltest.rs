//! Prometheus' own test scripts, replayed over a source in memory.
//!
//! The scripts are not in this repository: they are looked for in `$ANEMONE_CORPUS/promqltest` and in
//! `../shared/corpus/promqltest` beside the project. Every case whose features this version has must pass; the others
//! are counted by the feature they lack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::{Memory, Point, millis, points, series};
use anemone_model::{Labels, Value};
use anemone_query::engine::{NameRemoval, QueryResult};
use anemone_query::{Answer, Engine, EngineOptions, QueryError, QueryRequest, When};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_supported_case_of_prometheus_passes() {
    let Some(folder) = corpus() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "the corpus is absent in CI: set ANEMONE_CORPUS");
        println!("skipped: no promqltest corpus at $ANEMONE_CORPUS or ../shared/corpus");
        return;
    };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "test")).collect();
    files.sort();
    assert!(!files.is_empty(), "no .test files in {}", folder.display());
    let (mut passed, mut failures) = (0, Vec::new());
    let mut lacking: BTreeMap<String, usize> = BTreeMap::new();
    for file in &files {
        let mut script = Script::default();
        script.run(&std::fs::read_to_string(file).unwrap()).await;
        let name = file.file_name().unwrap().to_string_lossy();
        println!("{name}: {} passed, {} failed, {} unsupported", script.passed, script.failures.len(), script.lacking.len());
        passed += script.passed;
        failures.extend(script.failures.into_iter().map(|f| format!("{name}:{f}")));
        script.lacking.into_iter().for_each(|feature| *lacking.entry(feature).or_default() += 1);
    }
    let unsupported: usize = lacking.values().sum();
    println!("total: {passed} passed, {} failed, {unsupported} unsupported", failures.len());
    for (feature, cases) in &lacking {
        println!("  unsupported {cases:4}  {feature}");
    }
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
    assert!(passed >= 380, "only {passed} cases ran");
}

fn corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    let root = std::env::var_os("ANEMONE_CORPUS").map_or(beside, PathBuf::from);
    Some(root.join("promqltest")).filter(|folder| folder.is_dir())
}

/// The state of one script.
#[derive(Default)]
struct Script {
    memory: Memory,
    passed: usize,
    failures: Vec<String>,
    lacking: Vec<String>,
}

/// What a case expects.
#[derive(Default, Debug)]
struct Expected {
    fail: bool,
    fail_text: Option<Text>,
    ordered: bool,
    warn: Vec<Option<Text>>,
    info: Vec<Option<Text>>,
    no_warn: bool,
    no_info: bool,
    string: Option<String>,
    range_vector: Option<(i64, i64)>,
    scalar: Option<f64>,
    series: Vec<(Labels, Vec<Point>)>,
}

#[derive(Debug)]
enum Text {
    Exact(String),
    Pattern(regex::Regex),
}

impl Text {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }
}

impl Script {
    async fn run(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().map(str::trim).map(|l| if l.starts_with('#') { "" } else { l }).collect();
        let mut at = 0;
        while at < lines.len() {
            let head = lines[at];
            let end = (at + 1..lines.len()).find(|i| lines[*i].is_empty()).unwrap_or(lines.len());
            let block = &lines[at + 1..end];
            if head.is_empty() || head == "clear" {
                if head == "clear" {
                    self.memory = Memory::default();
                }
                at += 1;
                continue;
            }
            if head.starts_with("load") {
                let step = millis(head.split_whitespace().nth(1).unwrap());
                block.iter().for_each(|line| self.memory.add(line, step));
                if head.starts_with("load_with_nhcb") {
                    for line in block {
                        self.custom_buckets(line);
                    }
                }
            } else if head.starts_with("eval") {
                self.case(at + 1, head, block).await;
            } else {
                panic!("line {}: unknown command {head:?}", at + 1);
            }
            at = end;
        }
    }

    /// `load_with_nhcb` makes a native histogram of each classic one as well.
    fn custom_buckets(&mut self, line: &str) {
        let (labels, _) = series(line);
        if let Some(base) = labels.metric().strip_suffix("_bucket") {
            let renamed = labels.iter().filter(|(n, _)| *n != "le").map(|(n, v)| (n, if n == "__name__" { base } else { v }));
            self.memory.histograms.push(Labels::new(renamed).unwrap());
        }
    }

    async fn case(&mut self, line: usize, head: &str, block: &[&str]) {
        let (request, mut expected) = header(head);
        let mut histograms = false;
        for text in block {
            histograms |= text.contains("{{");
            expect(text, &mut expected);
        }
        let memory = std::mem::take(&mut self.memory);
        *memory.touched_histogram.lock().unwrap() = false;
        let source = Arc::new(memory);
        let options = EngineOptions { names: NameRemoval::Delayed, ..EngineOptions::default() };
        let engine = Engine::new(Arc::clone(&source) as _, options);
        let answer = engine.query(&request).await;
        drop(engine);
        self.memory = Arc::into_inner(source).expect("the engine is gone");
        let touched = *self.memory.touched_histogram.lock().unwrap();
        match &answer {
            Err(QueryError::Unsupported { feature }) => self.lacking.push(feature.clone()),
            Err(QueryError::Syntax { message, .. }) if !expected.fail => {
                self.lacking.push(format!("syntax: {} ({message})", request.query))
            }
            _ if histograms || touched => self.lacking.push("native histograms".into()),
            _ => match judge(&request, &expected, answer) {
                Ok(()) => self.passed += 1,
                Err(why) => self.failures.push(format!("{line}: {}: {why}", request.query)),
            },
        }
    }
}

fn header(head: &str) -> (QueryRequest, Expected) {
    let mut words = head.split_whitespace();
    let kind = words.next().unwrap();
    let expected = Expected { fail: kind == "eval_fail", ordered: kind == "eval_ordered", ..Expected::default() };
    let skip = |n: usize| head.splitn(n + 1, char::is_whitespace).last().unwrap().trim();
    let request = match words.next().unwrap() {
        "instant" => QueryRequest::instant(skip(4), millis(words.nth(1).unwrap())),
        "range" => {
            let mut time = || millis(words.nth(1).unwrap());
            QueryRequest::range(skip(8), time(), time(), time())
        }
        other => panic!("unknown evaluation {other:?}"),
    };
    (request, expected)
}

/// Text of an annotation without the position, which this engine does not give.
fn without_position(text: &str) -> &str {
    match text.rsplit_once(" (") {
        Some((head, tail)) if tail.ends_with(')') && tail.trim_end_matches(')').chars().all(|c| c.is_ascii_digit() || c == ':') => head,
        _ => text,
    }
}

fn expect(line: &str, expected: &mut Expected) {
    let Some(rest) = line.strip_prefix("expect ") else {
        if let Ok(number) = line.parse::<f64>() {
            expected.scalar = Some(number);
        } else {
            let (labels, values) = series(line);
            expected.series.push((labels, points(values)));
        }
        return;
    };
    let (kind, argument) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
    let text = if let Some(exact) = argument.strip_prefix("msg:") {
        Some(Text::Exact(without_position(exact.trim()).to_owned()))
    } else {
        argument.strip_prefix("regex:").map(|pattern| {
            let pattern = pattern.trim().replace(r" \([0-9]+:[0-9]+\)", "");
            Text::Pattern(regex::Regex::new(&pattern).unwrap())
        })
    };
    match kind {
        "fail" => (expected.fail, expected.fail_text) = (true, text),
        "warn" => expected.warn.push(text),
        "info" => expected.info.push(text),
        "no_warn" => expected.no_warn = true,
        "no_info" => expected.no_info = true,
        "ordered" => expected.ordered = true,
        "string" => expected.string = Some(argument[1..argument.len() - 1].to_owned()),
        "range" => {
            let words: Vec<&str> = argument.split_whitespace().collect();
            expected.range_vector = Some((millis(words[2]), millis(words[6])));
        }
        other => panic!("unknown expectation {other:?}"),
    }
}

fn judge(request: &QueryRequest, expected: &Expected, answer: Result<Answer, QueryError>) -> Result<(), String> {
    let answer = match answer {
        Ok(_) if expected.fail => return Err("expected a failure".into()),
        Ok(answer) => answer,
        Err(error) if expected.fail => {
            let fits = expected.fail_text.as_ref().is_none_or(|t| t.fits(&error.to_string()));
            return if fits { Ok(()) } else { Err(format!("failed otherwise: {error}")) };
        }
        Err(error) => return Err(format!("failed: {error}")),
    };
    annotations("warning", &answer.warnings, &expected.warn, expected.no_warn)?;
    annotations("info", &answer.infos, &expected.info, expected.no_info)?;
    match &answer.result {
        QueryResult::Scalar { value, .. } => {
            let wanted = expected.scalar.ok_or("a scalar was not expected")?;
            same(Value::F64(*value), wanted).then_some(()).ok_or(format!("got {value}, expected {wanted}"))
        }
        QueryResult::Text { text, .. } => (Some(text) == expected.string.as_ref()).then_some(()).ok_or(format!("got {text:?}")),
        QueryResult::Vector { samples, .. } => {
            let got: Vec<_> = samples.iter().map(|s| (&s.labels, vec![Point::Value(s.value)])).collect();
            compare(&got, expected)
        }
        QueryResult::Matrix(matrix) => {
            let (start, step) = match (request.when, expected.range_vector) {
                (When::Range { start_ms, step_ms, .. }, _) | (_, Some((start_ms, step_ms))) => (start_ms, step_ms),
                _ => return Err("a range vector was not expected".into()),
            };
            let mut got = Vec::new();
            for series in matrix {
                let mut row = Vec::new();
                for (time, value) in &series.points {
                    let place = usize::try_from((time - start) / step).map_err(|_| format!("a point at {time}"))?;
                    row.resize(place, Point::Missing);
                    row.push(Point::Value(*value));
                }
                got.push((&series.labels, row));
            }
            compare(&got, expected)
        }
    }
}

fn annotations(what: &str, got: &[String], wanted: &[Option<Text>], none: bool) -> Result<(), String> {
    if none && !got.is_empty() {
        return Err(format!("unexpected {what}: {got:?}"));
    }
    for text in wanted {
        if !got.iter().any(|g| text.as_ref().is_none_or(|t| t.fits(g))) {
            return Err(format!("expected {what} {text:?}, got {got:?}"));
        }
    }
    Ok(())
}

fn compare(got: &[(&Labels, Vec<Point>)], expected: &Expected) -> Result<(), String> {
    let show = || format!("got {got:?}\n    expected {:?}", expected.series);
    let mut wanted = expected.series.clone();
    for (_, row) in &mut wanted {
        while row.last() == Some(&Point::Missing) {
            row.pop();
        }
    }
    wanted.retain(|(_, row)| !row.is_empty());
    if got.len() != wanted.len() {
        return Err(show());
    }
    for (at, (labels, row)) in got.iter().enumerate() {
        let place = wanted.iter().position(|(l, _)| l == *labels).ok_or_else(show)?;
        if expected.ordered && place != at {
            return Err(format!("order: {}", show()));
        }
        let fits = |(a, b): (&Point, &Point)| match (a, b) {
            (Point::Value(a), Point::Value(b)) => same(*a, b.as_f64()),
            (a, b) => a == b,
        };
        if row.len() != wanted[place].1.len() || !row.iter().zip(&wanted[place].1).all(fits) {
            return Err(show());
        }
    }
    Ok(())
}

/// Equal within Prometheus' own tolerance.
fn same(got: Value, wanted: f64) -> bool {
    let got = got.as_f64();
    if got == wanted || (got.is_nan() && wanted.is_nan()) {
        return true;
    }
    let (sum, difference) = (got.abs() + wanted.abs(), (got - wanted).abs());
    if got == 0.0 || wanted == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < 1e-6 * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < 1e-6
}
