//! What must hold without any fault: everything is there, named, exact, and counters that wrap do not jump.

use std::time::Duration;

use anemone_chaos::demo::http;
use anyhow::{Context, Result, ensure};

use super::bench::{ASK, Bench, LARGE, Row, now_ms, rows, until};

pub(crate) async fn every_interface_is_counted(bench: &mut Bench) -> Result<()> {
    let interfaces: usize = bench.devices.iter().map(|device| device.interfaces).sum();
    for (hub, url) in bench.hubs.clone() {
        until("every interface is counted", Duration::from_secs(40), async || {
            let count = http::number(&url, "count(if_in_octets)", ASK).await?;
            ensure!(count == interfaces as u64, "hub {hub} counts {count} of {interfaces} interfaces");
            Ok(())
        })
        .await?;
    }
    bench.from_ms = now_ms();
    bench.say(&format!("all {interfaces} interfaces of {} devices are at every hub", bench.devices.len()));
    for (hub, url) in &bench.hubs {
        let series = rows(url, "{__name__=~\"if_.+\"}", None).await?;
        ensure!(series.len() >= interfaces * 10, "hub {hub} has only {} series of interfaces", series.len());
        for row in series {
            let named = ["pop", "device", "if_name"].iter().all(|name| !row.label(name).is_empty());
            ensure!(named, "hub {hub} has a series without pop, device or if_name: {}", row.labels);
        }
    }
    Ok(())
}

pub(crate) async fn a_large_counter_is_exact_everywhere(bench: &mut Bench) -> Result<()> {
    let device = bench.devices.iter().find(|d| d.name.starts_with("ams1-large-")).context("the device is simulated")?.name.clone();
    let expression = format!("if_in_octets{{device=\"{device}\",if_name=\"bond0\"}}");
    let value = async |node: &str| rows(node, &expression, None).await.map(|found| found.into_iter().flat_map(|row| row.samples).next());
    for node in bench.hub_nodes() {
        let (_, text) = value(&node).await?.with_context(|| format!("{node} does not have it"))?;
        ensure!(text == LARGE, "{node}: {text}");
    }
    let mut at_edge = Vec::new();
    for node in bench.agents_of("ams1") {
        at_edge.extend(value(&node).await?.map(|(_, text)| text));
    }
    ensure!(at_edge == [LARGE], "the agents of ams1 have {at_edge:?}");
    bench.say(&format!("{LARGE} is exact at three hubs and at the agent"));
    Ok(())
}

/// Growth from one sample to the next of a counter of this width.
fn growth(width: u32, from: &str, to: &str) -> Result<u64> {
    let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
    let grown = to.wrapping_sub(from);
    Ok(if width == 32 { grown & u64::from(u32::MAX) } else { grown })
}

/// Time of the first sample after a step back.
fn wrapped_at(row: &Row) -> Result<Option<i64>> {
    for pair in row.samples.windows(2) {
        if pair[1].1.parse::<u64>()? < pair[0].1.parse::<u64>()? {
            return Ok(Some(pair[1].0));
        }
    }
    Ok(None)
}

pub(crate) async fn counters_wrap_without_a_spike(bench: &mut Bench) -> Result<()> {
    let settled_ms = bench.wrapped_ms + 6_000;
    let nodes = bench.hub_nodes();
    bench.fresh(&nodes, "ams1", settled_ms, Duration::from_secs(45)).await?;
    let window = bench.from_ms..now_ms();
    for (prefix, width) in [("ams1-wrap32-", 32), ("ams1-wrap64-", 64)] {
        let name = &bench.devices.iter().find(|d| d.name.starts_with(prefix)).context("the device is simulated")?.name;
        bench.complete(name, window.clone(), Duration::from_secs(10)).await?;
        for (hub, url) in &bench.hubs {
            let checked = one_device_wraps(url, name, width, &window).await.with_context(|| format!("hub {hub}, {name}"))?;
            ensure!(checked > 0, "hub {hub}: no counter of {name} wraps");
            bench.say(&format!("hub {hub}: {checked} counters of {width} bits of {name} wrapped, rates go on"));
        }
    }
    Ok(())
}

/// Compares the rate over each wrap with the raw samples; how many series wrapped.
async fn one_device_wraps(url: &str, device: &str, width: u32, window: &std::ops::Range<i64>) -> Result<usize> {
    let span = window.end - window.start;
    let selector = format!("{{__name__=~\"if_(in|out)_octets\",device=\"{device}\"}}");
    let mut checked = 0;
    for row in rows(url, &format!("{selector}[{span}ms]"), Some(window.end)).await? {
        let Some(at_ms) = wrapped_at(&row)? else { continue };
        let (metric, interface) = (row.label("__name__"), row.label("if_name"));
        let time = at_ms + 3_000;
        let near: Vec<_> = row.samples.iter().filter(|(ms, _)| *ms > time - 10_000 && *ms <= time).collect();
        let mut grown = 0;
        for pair in near.windows(2) {
            grown += growth(width, &pair[0].1, &pair[1].1)?;
        }
        let seconds = (near[near.len() - 1].0 - near[0].0) as f64 / 1000.0;
        let expected = grown as f64 / seconds;
        let rate = rows(url, &format!("rate({metric}{{device=\"{device}\",if_name=\"{interface}\"}}[10s])"), Some(time)).await?;
        let rate = rate.first().context("no rate over the wrap")?.number()?;
        ensure!(
            rate > 0.0 && (rate / expected - 1.0).abs() < 0.3,
            "{metric} of {interface}: rate {rate} over the wrap, expected {expected}"
        );
        checked += 1;
    }
    Ok(checked)
}
