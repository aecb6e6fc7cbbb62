//! What is stored against what the devices answered, series by series.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http;
use crate::check::{Answered, Number, Report, Rules, Stored, reconcile};
use crate::sim::{LedgerSeries, now_ms};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Ledger and samples are also read this much around the window, since a sample is stamped when it was received.
const MARGIN_MS: i64 = 10_000;

/// An agent that learns the rows of a table reads it, and polls it right after.
const TWICE_ASKED_MS: i64 = 700;

/// A series of interface tables: device, metric, interface.
type Key = (String, String, String);

/// What the simulator says it answered.
#[derive(Debug)]
pub struct Ledger {
    series: BTreeMap<Key, Vec<Answered>>,
    pops: BTreeMap<String, String>,
    excused: Vec<Excused>,
    /// Everything answered until then is in it.
    read_ms: i64,
}

/// A time in which the answers to some devices need not have been stored: an agent was killed before it had flushed.
#[derive(Clone, Debug)]
pub struct Excused {
    /// The agent's PoP.
    pub pop: String,
    /// From and to, milliseconds since 1970.
    pub window_ms: Range<i64>,
}

impl Ledger {
    /// Reads what was answered to `devices` (see the simulator's control) in and around the window.
    ///
    /// # Errors
    /// The simulator does not answer.
    pub async fn read(simulator: &str, devices: &str, window: &Range<i64>, excused: &[Excused]) -> Result<Self> {
        let (from, to) = (window.start.saturating_sub(MARGIN_MS), window.end.saturating_add(MARGIN_MS));
        let read_ms = now_ms();
        let text = http::get_text(format!("{simulator}/ledger?devices={}&from={from}&to={to}", http::encoded(devices)), TIMEOUT).await?;
        let mut best: BTreeMap<Key, LedgerSeries> = BTreeMap::new();
        let mut pops = BTreeMap::new();
        for line in text.lines() {
            let series: LedgerSeries = serde_json::from_str(line).context("the ledger has a line that is no series")?;
            let Some(interface) = series.if_name.clone() else { continue };
            pops.insert(series.device.clone(), series.pop.clone());
            let key = (series.device.clone(), series.metric.clone(), interface);
            // An agent that had a choice of columns for one thing asks for both once, then for the one it stores.
            match best.get(&key) {
                Some(known) if rank(known) >= rank(&series) => {}
                _ => drop(best.insert(key, series)),
            }
        }
        let answered = |s: LedgerSeries| s.entries.iter().map(|e| Answered::from_ledger(e, s.scale)).collect();
        Ok(Self { series: best.into_iter().map(|(key, s)| (key, answered(s))).collect(), pops, excused: excused.to_vec(), read_ms })
    }

    /// Names of the devices in it.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let mut devices: Vec<String> = self.series.keys().map(|(device, ..)| device.clone()).collect();
        devices.dedup();
        devices
    }

    /// Compares what the node at `base` has stored of these devices in the window.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn compare(&self, base: &str, window: &Range<i64>) -> Result<Report> {
        let mut report = Report::default();
        for device in self.devices() {
            let mut stored = stored(base, &device, window).await?;
            let from = (device.clone(), String::new(), String::new());
            let of_pop = self.excused.iter().filter(|e| self.pops.get(&device) == Some(&e.pop));
            let excused = of_pop.map(|e| e.window_ms.clone()).collect();
            let rules = Rules { retry_ms: TWICE_ASKED_MS, excused, window: window.clone(), ..Rules::default() };
            for (key, answered) in self.series.range(from..).take_while(|((d, ..), _)| *d == device) {
                let mut samples = stored.remove(key).unwrap_or_default();
                // What came in since belongs to answers that are not in the ledger as it was read.
                samples.retain(|sample| sample.at_ms <= self.read_ms);
                report.add(&named(key), reconcile(answered, &samples, &rules));
            }
            for (key, mut samples) in stored {
                samples.retain(|sample| sample.at_ms <= self.read_ms && window.contains(&sample.at_ms));
                if !samples.is_empty() {
                    report.add(&named(&key), reconcile(&[], &samples, &rules));
                }
            }
        }
        Ok(report)
    }
}

fn named((device, metric, interface): &Key) -> String {
    format!("{metric}{{device=\"{device}\",if_name=\"{interface}\"}}")
}

/// The column asked for more often counts; among equals the wider one.
fn rank(series: &LedgerSeries) -> (usize, u8) {
    (series.entries.len(), if series.object == "ifHighSpeed" { 64 } else { series.width })
}

/// All samples of a device's interfaces in and around the window, exactly as the node has them.
async fn stored(base: &str, device: &str, window: &Range<i64>) -> Result<BTreeMap<Key, Vec<Stored>>> {
    let to = window.end + MARGIN_MS;
    let span = to - window.start + MARGIN_MS;
    let expression = format!("{{device=\"{device}\",if_name!=\"\"}}[{span}ms]");
    let (result, _) = http::query(base, &expression, Some(to), TIMEOUT).await?;
    let mut series = BTreeMap::new();
    for row in result {
        let label = |name: &str| row["metric"][name].as_str().unwrap_or_default().to_owned();
        let key = (device.to_owned(), label("__name__"), label("if_name"));
        let values = row["values"].as_array().into_iter().flatten();
        let samples =
            values.map(|v| sample(v).with_context(|| format!("{base}: {} has the sample {v}", named(&key)))).collect::<Result<_>>()?;
        if series.contains_key(&key) {
            bail!("{base}: there are two series {}, with other labels than device and if_name", named(&key));
        }
        series.insert(key, samples);
    }
    Ok(series)
}

/// `[seconds, "value"]`; staleness markers are no samples and never come this far.
fn sample(pair: &Value) -> Option<Stored> {
    let (seconds, text) = (pair.get(0)?.as_f64()?, pair.get(1)?.as_str()?);
    let value = text.parse().map(Number::Exact).or_else(|_| text.parse().map(Number::Float)).ok()?;
    Some(Stored { at_ms: (seconds * 1000.0).round() as i64, value })
}

/// One line for people.
#[must_use]
pub fn summary(report: &Report) -> String {
    format!(
        "{} samples in {} series as they were answered; {} missing, {} doubled, {} invented",
        report.matched, report.series, report.missing, report.doubled, report.invented
    )
}

/// The same as JSON.
#[must_use]
pub fn json(report: &Report) -> Value {
    let unclean = report.unclean.iter().map(|(series, verdict)| {
        serde_json::json!({
            "series": series,
            "missing": verdict.missing.count,
            "doubled": verdict.doubled.count,
            "invented": verdict.invented.count,
        })
    });
    serde_json::json!({
        "series": report.series,
        "answered": report.answered,
        "stored": report.matched,
        "missing": report.missing,
        "doubled": report.doubled,
        "invented": report.invented,
        "clean": report.is_clean(),
        "first_findings": unclean.collect::<Vec<_>>(),
    })
}
