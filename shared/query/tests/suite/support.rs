//! A source in memory, filled from the notation of Prometheus' test scripts.

use std::sync::Mutex;

use anemone_model::{CounterWidth, Labels, METRIC_NAME, MetricKind, Sample, Value};
use anemone_query::{Found, Limits, QueryError, SelectRequest, Selection, SeriesRequest, SeriesSamples, Source};
use anemone_store::matcher::Matcher;
use async_trait::async_trait;

/// Series in memory.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) series: Vec<SeriesSamples>,
    /// Series that the notation says have native histograms: only their floats are kept.
    pub(crate) histograms: Vec<Labels>,
    /// Set when a select matched one of `histograms`.
    pub(crate) touched_histogram: Mutex<bool>,
    /// Warnings of every answer.
    pub(crate) warnings: Vec<String>,
}

/// One point of the notation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Point {
    Missing,
    Value(Value),
    Histogram,
}

impl Memory {
    /// A source with one `load` block: the step on the first line, a series on each further line.
    pub(crate) fn load(text: &str) -> Self {
        let mut memory = Self::default();
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        let step = millis(lines.next().unwrap_or_default());
        for line in lines {
            memory.add(line, step);
        }
        memory
    }

    /// Adds one line of a `load` block.
    pub(crate) fn add(&mut self, line: &str, step_ms: i64) {
        let (labels, values) = series(line);
        let mut samples = Vec::new();
        for (at, point) in (0..).zip(points(values)) {
            match point {
                Point::Missing => {}
                Point::Value(value) => samples.push(Sample::new(at * step_ms, value)),
                Point::Histogram => self.histograms.push(labels.clone()),
            }
        }
        match self.series.iter_mut().find(|s| s.labels == labels) {
            Some(known) => {
                known.samples.extend(samples);
                known.samples.sort_by_key(|s| s.ts_ms);
                known.samples.dedup_by_key(|s| s.ts_ms);
            }
            None => self.series.push(SeriesSamples { labels, kind: MetricKind::Gauge, width: CounterWidth::Unknown, samples }),
        }
    }

    fn matching(&self, request: &SeriesRequest) -> Vec<Labels> {
        let any = |labels: &Labels| request.selectors.is_empty() || request.selectors.iter().any(|s| fits(labels, s));
        let in_range = |s: &&SeriesSamples| s.samples.iter().any(|p| (request.from_ms..=request.to_ms).contains(&p.ts_ms));
        self.series.iter().filter(in_range).filter(|s| any(&s.labels)).map(|s| s.labels.clone()).collect()
    }

    fn found<T>(&self, items: Vec<T>) -> Found<T> {
        Found { items, warnings: self.warnings.clone(), infos: Vec::new() }
    }
}

pub(crate) fn fits(labels: &Labels, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|m| m.matches(labels.value(&m.name).unwrap_or("")))
}

#[async_trait]
impl Source for Memory {
    async fn select(&self, request: &SelectRequest, limits: &Limits) -> Result<Selection, QueryError> {
        if self.histograms.iter().any(|labels| fits(labels, &request.matchers)) {
            *self.touched_histogram.lock().unwrap() = true;
        }
        let mut found = Vec::new();
        let mut count = 0;
        for series in self.series.iter().filter(|s| fits(&s.labels, &request.matchers)) {
            let mut series = series.clone();
            series.samples.retain(|s| (request.from_ms..=request.to_ms).contains(&s.ts_ms));
            count += series.samples.len();
            if !series.samples.is_empty() {
                found.push(series);
            }
            limits.check(found.len(), count)?;
        }
        Ok(Selection { series: found, warnings: self.warnings.clone(), infos: Vec::new() })
    }

    async fn series(&self, request: &SeriesRequest, _: &Limits) -> Result<Found<Labels>, QueryError> {
        Ok(self.found(self.matching(request)))
    }

    async fn label_names(&self, request: &SeriesRequest, _: &Limits) -> Result<Found<String>, QueryError> {
        let labels = self.matching(request);
        Ok(self.found(labels.iter().flat_map(Labels::iter).map(|(n, _)| n.to_owned()).collect()))
    }

    async fn label_values(&self, name: &str, request: &SeriesRequest, _: &Limits) -> Result<Found<String>, QueryError> {
        let labels = self.matching(request);
        Ok(self.found(labels.iter().filter_map(|l| l.value(name)).map(str::to_owned).collect()))
    }
}

/// A duration such as `10s53ms`, or plain seconds, in milliseconds.
pub(crate) fn millis(text: &str) -> i64 {
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds * 1000.0).round() as i64;
    }
    let negative = text.starts_with('-');
    let (mut total, mut number, mut rest) = (0, 0, text.trim_start_matches(['-', '+']));
    while let Some(c) = rest.chars().next() {
        let (skip, unit) = match c {
            '0'..='9' => {
                number = number * 10 + i64::from(c as u8 - b'0');
                (1, None)
            }
            'm' if rest.starts_with("ms") => (2, Some(1)),
            's' => (1, Some(1000)),
            'm' => (1, Some(60_000)),
            'h' => (1, Some(3_600_000)),
            'd' => (1, Some(86_400_000)),
            'w' => (1, Some(604_800_000)),
            _ => panic!("not a duration: {text:?}"),
        };
        if let Some(unit) = unit {
            total += number * unit;
            number = 0;
        }
        rest = &rest[skip..];
    }
    if negative { -total } else { total }
}

/// Splits a line into labels and the text of its points.
pub(crate) fn series(line: &str) -> (Labels, &str) {
    let line = line.trim();
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace()).unwrap_or(line.len());
    let mut pairs = vec![(METRIC_NAME.to_owned(), line[..name_end].to_owned())];
    let mut rest = line[name_end..].trim_start();
    if let Some(inside) = rest.strip_prefix('{').filter(|r| !r.starts_with('{')) {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (name, after) = rest.split_once('=').expect("a label");
            let after = after.trim_start();
            let quote = after.chars().next().expect("a quote");
            let end = after[1..].find(quote).expect("a closing quote") + 1;
            pairs.push((name.trim().trim_matches('"').to_owned(), after[1..end].to_owned()));
            rest = after[end + 1..].trim_start().trim_start_matches(',').trim_start();
        }
        rest = &rest[1..];
    }
    (Labels::new(pairs).expect("labels"), rest.trim())
}

/// Expands `1 2+3x4 _ _x2 stale NaN {{histogram}}x3`.
pub(crate) fn points(text: &str) -> Vec<Point> {
    let mut out = Vec::new();
    for item in items(text) {
        if item.contains("{{") {
            let times = item.rsplit_once("}}").and_then(|(_, tail)| tail.strip_prefix('x')).map_or(1, |n| n.parse::<usize>().unwrap() + 1);
            out.extend(vec![Point::Histogram; times]);
        } else if item == "stale" {
            out.push(Point::Value(Value::stale()));
        } else if let Some(tail) = item.strip_prefix('_') {
            let times = tail.strip_prefix('x').map_or(1, |n| n.parse().unwrap());
            out.extend(vec![Point::Missing; times]);
        } else {
            expand(&item, &mut out);
        }
    }
    out
}

fn expand(item: &str, out: &mut Vec<Point>) {
    if let Some((head, times)) = item.split_once('x') {
        let times: u32 = times.parse().unwrap();
        let sign = head.char_indices().skip(1).find(|(at, c)| matches!(c, '+' | '-') && !matches!(head.as_bytes()[at - 1], b'e' | b'E'));
        let (start, delta) = match sign {
            Some((at, _)) => (number(&head[..at]), head[at..].parse::<f64>().unwrap()),
            None => (number(head), 0.0),
        };
        let mut value = start.as_f64();
        for at in 0..=times {
            out.push(Point::Value(if at == 0 { start } else { Value::F64(value) }));
            value += delta;
        }
    } else {
        out.push(Point::Value(number(item)));
    }
}

/// `u123` is an exact integer, anything else a float.
pub(crate) fn number(text: &str) -> Value {
    match text.strip_prefix('u').map(str::parse) {
        Some(Ok(exact)) => Value::U64(exact),
        _ => Value::F64(text.parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))),
    }
}

/// Splits at blanks outside of `{{ }}`.
fn items(text: &str) -> Vec<String> {
    let (mut items, mut item, mut depth) = (Vec::new(), String::new(), 0);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c.is_whitespace() && depth == 0 {
            items.extend((!item.is_empty()).then(|| std::mem::take(&mut item)));
        } else {
            item.push(c);
        }
    }
    items.extend((!item.is_empty()).then_some(item));
    items
}
