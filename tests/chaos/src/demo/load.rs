//! The load figure: one agent, many devices, three hubs; CPU and memory of each process over a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::cli::Load;
use super::cluster::{self, Cluster, Shape};
use super::http;
use super::plan::{self, Plan};
use super::usage::{self, Usage};
use crate::sim::{FleetSpec, GroupSpec, Kind};

const ASK: Duration = Duration::from_secs(120);

/// Runs the load and prints a table.
///
/// # Errors
/// It does not come up, or a process ends.
pub async fn run(options: &Load) -> Result<()> {
    let own = std::env::temp_dir().join(format!("anemone-load-{}", std::process::id()));
    let dir = options.data_dir.clone().unwrap_or_else(|| own.clone());
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize().context("find the data directory")?;
    let outcome = in_directory(options, &dir).await;
    if options.data_dir.is_none()
        && let Err(error) = std::fs::remove_dir_all(&own)
    {
        eprintln!("{} could not be removed: {error}", own.display());
    }
    outcome
}

async fn in_directory(options: &Load, dir: &std::path::Path) -> Result<()> {
    let group = GroupSpec {
        pop: "load1".to_owned(),
        kind: Some(Kind::CoreRouter),
        count: options.devices,
        interfaces: Some(options.interfaces),
        ..GroupSpec::default()
    };
    let fleet = FleetSpec::new(0, vec![group]);
    let (hub, edge): (SocketAddr, SocketAddr) = (([127, 0, 0, 1], 18080).into(), ([127, 0, 0, 1], 19180).into());
    let plan = Plan::new(dir, hub, edge, &[("load1", "l1")])?;
    let extra = "\n[spool]\nmax_bytes = \"8GiB\"\n\n[local]\nhead_bytes = \"2GiB\"\n\n[poll]\nmax_in_flight = 2048\n\n[batch]\nqueue_samples = 4000000\n";
    let mut cluster = Cluster::start(plan, &Shape { fleet: &fleet, ledger: false, seal_log_bytes: 256 << 20, agent_extra: extra }).await?;
    let measured = measure(&mut cluster, options).await;
    cluster.stop().await;
    let figures = measured?;
    print(&figures);
    if let Some(path) = &options.report {
        std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn measure(cluster: &mut Cluster, options: &Load) -> Result<Value> {
    let devices = plan::inventory_json(&cluster.inventory().await?, options.interval);
    for part in devices.as_array().context("the inventory is no array")?.chunks(1_000) {
        cluster::import(cluster, &json!(part), Duration::from_secs(60)).await?;
    }
    println!(
        "{} devices of {} interfaces every {:?}; settling for {:?}",
        options.devices, options.interfaces, options.interval, options.warm_up
    );
    wait(cluster, options.warm_up).await?;
    let before = state(cluster).await?;
    let started = Instant::now();
    println!("measuring for {:?}", options.duration);
    wait(cluster, options.duration).await?;
    let after = state(cluster).await?;
    Ok(figures(options, started.elapsed().as_secs_f64(), &before, &after))
}

async fn wait(cluster: &mut Cluster, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        cluster.all_run()?;
        tokio::time::sleep(Duration::from_secs(1).min(end - Instant::now())).await;
    }
    Ok(())
}

struct State {
    usage: BTreeMap<String, Usage>,
    simulator: Value,
    agent: Value,
    samples: Vec<(u64, u64)>,
    series: u64,
}

async fn state(cluster: &Cluster) -> Result<State> {
    let mut measured = BTreeMap::new();
    for (name, pid) in cluster.pids() {
        measured.insert(name, usage::usage(pid)?);
    }
    let simulator = http::get(format!("{}/status", cluster.simulator_url), ASK).await?;
    let (_, _, agent_url) = cluster.agent_urls().into_iter().next().context("there is no agent")?;
    let agent = http::get(format!("{agent_url}/api/v1/status/agent"), ASK).await?;
    let mut samples = Vec::new();
    let mut series = 0;
    for (hub, url) in cluster.hub_urls() {
        let answer = http::get(format!("{url}/api/v1/agents"), ASK).await?;
        samples.push((hub, answer["data"].as_array().into_iter().flatten().filter_map(|a| a["samples"].as_u64()).sum()));
        series = http::get(format!("{url}/api/v1/cluster"), ASK).await?["data"]["series"].as_u64().unwrap_or(0);
    }
    if samples.is_empty() {
        bail!("no hub answers");
    }
    Ok(State { usage: measured, simulator, agent, samples, series })
}

fn figures(options: &Load, seconds: f64, before: &State, after: &State) -> Value {
    let processes: serde_json::Map<String, Value> = after
        .usage
        .iter()
        .map(|(name, usage)| {
            let cpu = usage.cpu_seconds - before.usage.get(name).map_or(0.0, |b| b.cpu_seconds);
            (name.clone(), json!({ "cpu_seconds": cpu, "cores": cpu / seconds, "resident_bytes": usage.resident_bytes, "peak_bytes": usage.peak_bytes }))
        })
        .collect();
    let grown = |pointer: &str| after.simulator[pointer].as_u64().unwrap_or(0) - before.simulator[pointer].as_u64().unwrap_or(0);
    let agent_cpu =
        processes.iter().find(|(name, _)| name.starts_with("agent-")).and_then(|(_, p)| p["cpu_seconds"].as_f64()).unwrap_or(0.0);
    let samples: Vec<u64> = after.samples.iter().zip(&before.samples).map(|((_, a), (_, b))| a - b).collect();
    let varbinds = grown("varbinds");
    json!({
        "devices": options.devices,
        "interfaces": options.interfaces,
        "interval_seconds": options.interval.as_secs_f64(),
        "seconds": seconds,
        "series": after.series,
        "varbinds": varbinds,
        "varbinds_per_second": varbinds as f64 / seconds,
        "varbinds_per_agent_cpu_second": varbinds as f64 / agent_cpu,
        "samples_applied_at_each_hub": samples,
        "agent": after.agent["data"],
        "processes": processes,
    })
}

fn print(figures: &Value) {
    let number = |pointer: &str| figures[pointer].as_f64().unwrap_or(0.0);
    println!(
        "\n{:.0} s, {:.0} series, {:.0} varbinds/s, {:.0} varbinds per agent CPU-second",
        number("seconds"),
        number("series"),
        number("varbinds_per_second"),
        number("varbinds_per_agent_cpu_second")
    );
    println!("samples applied at each hub: {}\n", figures["samples_applied_at_each_hub"]);
    println!("{:<16} {:>12} {:>8} {:>14} {:>14}", "PROCESS", "CPU-SECONDS", "CORES", "RESIDENT-MIB", "PEAK-MIB");
    for (name, process) in figures["processes"].as_object().into_iter().flatten() {
        let of = |pointer: &str| process[pointer].as_f64().unwrap_or(0.0);
        let mib = f64::from(1 << 20);
        println!(
            "{name:<16} {:>12.1} {:>8.3} {:>14.0} {:>14.0}",
            of("cpu_seconds"),
            of("cores"),
            of("resident_bytes") / mib,
            of("peak_bytes") / mib
        );
    }
}
