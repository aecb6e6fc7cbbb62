//! A PoP that is cut off from all hubs.

use std::time::Duration;

use anemone_chaos::demo::http;
use anemone_chaos::relay::Fault;
use anyhow::{Context, Result, ensure};

use super::bench::{ASK, Bench, INTERVAL, now_ms, rows};

/// How long the PoP is cut off.
const CUT_MS: i64 = 12_000;
/// Silence after which the hubs call an agent dark, with time for that to be noticed, replicated and asked for.
const NOTICED_MS: i64 = 9_000;
/// Within this time after the heal every hub has everything.
const CATCH_UP: Duration = Duration::from_secs(10);

pub(crate) async fn a_pop_that_is_cut_off_goes_on_and_catches_up(bench: &mut Bench) -> Result<()> {
    bench.cluster.set_links("ams1", Fault { cut: true, ..Fault::default() })?;
    let cut_ms = now_ms();
    let mut oldest: f64 = 0.0;
    let mut questions = 0;
    let mut noticed_ms = None;
    while now_ms() < cut_ms + CUT_MS {
        oldest = oldest.max(oldest_device(bench).await?);
        questions += 1;
        if warned(bench, cut_ms).await? {
            noticed_ms.get_or_insert(now_ms() - cut_ms);
        } else {
            ensure!(now_ms() < cut_ms + NOTICED_MS, "{} ms after the cut the hubs do not warn of ams1", now_ms() - cut_ms);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let healed_ms = now_ms();
    bench.cluster.set_links("ams1", Fault::default())?;
    let seconds = bench.complete("pop:ams1", cut_ms..healed_ms, CATCH_UP * 2).await?;
    bench.say(&format!(
        "ams1 cut for {} s: oldest of the latest samples at the edge {oldest:.2} s in {questions} questions; hubs warned after {:.1} s; {seconds:.1} s after the heal all hubs have everything",
        (healed_ms - cut_ms) / 1000,
        noticed_ms.unwrap_or(0) as f64 / 1000.0
    ));
    ensure!(seconds <= CATCH_UP.as_secs_f64(), "catching up took {seconds:.1} s");
    super::bench::until("the warning is gone", Duration::from_secs(10), async || {
        for (hub, url) in &bench.hubs {
            let (_, warnings) = http::query(url, "count(if_in_octets)", None, ASK).await?;
            ensure!(warnings.is_empty(), "hub {hub} warns: {warnings:?}");
        }
        Ok(())
    })
    .await
}

/// Age of the latest sample of the device that was not polled for longest, as the PoP's own agents answer, in seconds.
async fn oldest_device(bench: &Bench) -> Result<f64> {
    let mut ages = Vec::new();
    for node in bench.agents_of("ams1") {
        for row in rows(&node, "time() - max by (device) (timestamp(if_in_octets))", None).await? {
            ages.push((row.number()?, row.label("device").to_owned()));
        }
    }
    let devices = bench.devices_of("ams1").count();
    ensure!(ages.len() == devices, "the agents of ams1 answer for {} of {devices} devices", ages.len());
    let (age, device) = ages.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).context("there are devices")?;
    ensure!(age < 2.0 * INTERVAL.as_secs_f64(), "the latest sample of {device} at the edge is {age} s old");
    Ok(age)
}

/// Whether all hubs warn of the PoP; what they say must be right, and about no other PoP.
async fn warned(bench: &Bench, cut_ms: i64) -> Result<bool> {
    let mut all = true;
    for (hub, url) in &bench.hubs {
        for expression in ["count(if_in_octets)", "if_oper_status{pop=\"ams1\"}"] {
            let (_, warnings) = http::query(url, expression, None, ASK).await?;
            let Some(warning) = warnings.iter().find(|text| text.starts_with("PoP ams1 is dark since ")) else {
                all = false;
                continue;
            };
            let since_ms = warning.get(23..43).and_then(utc_ms).with_context(|| format!("hub {hub}: no time in {warning:?}"))?;
            ensure!((cut_ms - 4_000..cut_ms + 2_000).contains(&since_ms), "hub {hub}: cut at {cut_ms}, but {warning:?}");
        }
        for expression in ["count(if_in_octets{pop=\"nyc1\"})", "{pop=\"nyc1\"}"] {
            let (result, warnings) = http::query(url, expression, None, ASK).await?;
            ensure!(warnings.is_empty() && !result.is_empty(), "hub {hub}: {expression}: {} rows, {warnings:?}", result.len());
        }
    }
    Ok(all)
}

/// `2026-11-22T19:00:00Z` as milliseconds since 1970.
fn utc_ms(text: &str) -> Option<i64> {
    let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Years begin in March, so that the day that may be missing is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some((days * 86_400 + number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?) * 1_000)
}

#[test]
fn times_of_warnings_are_read() {
    for (text, seconds) in [("1970-01-01T00:00:00Z", 0), ("2000-02-29T12:00:01Z", 951_825_601), ("2025-11-22T19:00:00Z", 1_763_838_000)] {
        assert_eq!(utc_ms(text), Some(seconds * 1_000), "{text}");
    }
}
