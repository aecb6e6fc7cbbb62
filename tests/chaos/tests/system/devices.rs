//! Devices that restart, renumber their interfaces, or answer nonsense.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, now_ms, rows, until};

/// An interface's load may exceed its speed for some seconds: the simulator lets counters run at up to 1.75 times their pace.
const OVER_LINE_RATE: f64 = 1.25;

/// Names of the series of a device's interfaces at a node.
async fn names(node: &str, device: &str) -> Result<BTreeSet<(String, String)>> {
    let found = rows(node, &format!("{{device=\"{device}\",if_name!=\"\"}}"), None).await?;
    Ok(found.iter().map(|row| (row.label("__name__").to_owned(), row.label("if_name").to_owned())).collect())
}

fn status_of<'a>(devices: &'a [Value], name: &str) -> Result<&'a Value> {
    devices.iter().find(|device| device["device"] == name).with_context(|| format!("no agent polls {name}"))
}

pub(crate) async fn restarts_and_renumbering_leave_series_whole(bench: &mut Bench) -> Result<()> {
    let (restarted, renumbered) = ("ams1-sw-01", "ams1-cr-01");
    let nodes = bench.hub_nodes();
    let mut before = BTreeMap::new();
    for device in [restarted, renumbered] {
        before.insert(device, names(&nodes[0], device).await?);
    }
    let reboots = status_of(&bench.device_status("ams1").await?, restarted)?["reboots"].as_u64().unwrap_or(0);
    let start_ms = now_ms();
    bench.simulator("reboot", json!({ "devices": restarted, "reboot": { "start": "zero" } })).await?;
    bench.simulator("renumber", json!({ "devices": restarted, "renumber": { "rotate": 1, "shift": 100 } })).await?;
    bench.simulator("renumber", json!({ "devices": renumbered, "renumber": { "rotate": 2, "shift": 0 } })).await?;
    until("the agent has seen the restart", Duration::from_secs(10), async || {
        let devices = bench.device_status("ams1").await?;
        let status = status_of(&devices, restarted)?;
        ensure!(status["reboots"].as_u64() > Some(reboots), "no restart is known: {status}");
        Ok(())
    })
    .await?;
    let end_ms = start_ms + 12_000;
    bench.fresh(&nodes, "ams1", end_ms, Duration::from_secs(30)).await?;
    let mut most: f64 = 0.0;
    for node in &nodes {
        for device in [restarted, renumbered] {
            let after = names(node, device).await?;
            ensure!(after == before[device], "{node}: the series of {device} were {:?} and are {after:?}", before[device]);
            most = most.max(no_spike(node, device, start_ms - 2_000, end_ms).await?);
        }
    }
    let window = start_ms - 5_000..end_ms;
    bench.complete(&format!("{restarted},{renumbered}"), window, Duration::from_secs(15)).await?;
    bench.say(&format!(
        "{restarted} restarted and renumbered, {renumbered} renumbered: the same series, at most {most:.2} of the line rate"
    ));
    Ok(())
}

/// No rate of the device's octets is negative or above the line rate at any second; the largest share of it.
async fn no_spike(node: &str, device: &str, from_ms: i64, to_ms: i64) -> Result<f64> {
    let speed = rows(node, &format!("if_speed_bits_per_second{{device=\"{device}\"}}"), None).await?;
    let mut octets = BTreeMap::new();
    for row in speed {
        octets.insert(row.label("if_name").to_owned(), row.number()? / 8.0);
    }
    let mut most: f64 = 0.0;
    for metric in ["if_in_octets", "if_out_octets"] {
        for time in (from_ms..=to_ms).step_by(1_000) {
            let rates = rows(node, &format!("rate({metric}{{device=\"{device}\"}}[5s])"), Some(time)).await?;
            for row in &rates {
                let (rate, line) = (row.number()?, octets.get(row.label("if_name")).context("an interface without a speed")?);
                ensure!(
                    rate >= 0.0 && rate <= line * OVER_LINE_RATE,
                    "{node}: {metric} of {device} {} grows by {rate} a second at {time}, line rate {line}",
                    row.label("if_name")
                );
                most = most.max(rate / line);
            }
        }
    }
    Ok(most)
}

pub(crate) async fn faulty_devices_harm_only_themselves(bench: &mut Bench) -> Result<()> {
    let kinds = [
        ("truncated", "malformed answer"),
        ("wrong_request_id", "no answer in time"),
        ("wrong_source", "no answer in time"),
        ("nested_ber", "malformed answer"),
        ("garbage", "malformed answer"),
    ];
    let faulty: Vec<String> = bench.devices.iter().filter(|d| d.name.starts_with("nyc1-faulty-")).map(|d| d.name.clone()).collect();
    ensure!(faulty.len() == kinds.len(), "{} devices for {} faults", faulty.len(), kinds.len());
    let start_ms = now_ms();
    for (device, (kind, _)) in faulty.iter().zip(kinds) {
        bench.simulator("faults", json!({ "devices": device, "faults": { "malformed": kind } })).await?;
    }
    until("the faulty devices are reported", Duration::from_secs(25), async || {
        let devices = bench.device_status("nyc1").await?;
        for (device, (kind, reason)) in faulty.iter().zip(kinds) {
            let status = status_of(&devices, device)?;
            let told = status["last_failure"].as_str().unwrap_or_default();
            let new = status["last_failure_ms"].as_i64() > Some(start_ms);
            ensure!(status["up"] == false && new && told.starts_with(reason), "{device} ({kind}): {status}");
        }
        Ok(())
    })
    .await?;
    // The others must have been polled all the while: look when the faults have lasted for ten rounds.
    let (node, seen_ms) = (&bench.agents_of("nyc1")[0], start_ms + 10_000);
    bench.fresh(&bench.agents_of("nyc1"), "nyc1", seen_ms, Duration::from_secs(30)).await?;
    let expression = "min by (device) (count_over_time(if_in_octets{device!~\"nyc1-faulty-.+\"}[10s]))";
    let polled = rows(node, expression, Some(seen_ms)).await?;
    let healthy = bench.devices_of("nyc1").count() - faulty.len();
    ensure!(polled.len() == healthy, "{} of {healthy} healthy devices were polled", polled.len());
    let mut least = f64::MAX;
    for row in &polled {
        ensure!(row.number()? >= 9.0, "{} was polled {} times in 10 s beside faulty devices", row.label("device"), row.number()?);
        least = least.min(row.number()?);
    }
    let devices = bench.device_status("nyc1").await?;
    for (device, (kind, _)) in faulty.iter().zip(kinds) {
        bench.say(&format!("{kind}: {}", status_of(&devices, device)?["last_failure"]));
        bench.simulator("faults", json!({ "devices": device, "faults": {} })).await?;
    }
    let cleared_ms = now_ms();
    until("the devices are well again", Duration::from_secs(40), async || {
        let devices = bench.device_status("nyc1").await?;
        devices.iter().try_for_each(|status| {
            ensure!(status["up"] == true && status["last_round_ms"].as_i64() > Some(cleared_ms), "{status}");
            Ok(())
        })
    })
    .await?;
    let seconds = (now_ms() - cleared_ms) as f64 / 1000.0;
    bench.complete("pop:nyc1", start_ms - 5_000..now_ms(), Duration::from_secs(15)).await?;
    bench.say(&format!(
        "beside five faulty devices all {healthy} others were polled {least} times in 10 s; the five are well {seconds:.1} s later"
    ));
    Ok(())
}
