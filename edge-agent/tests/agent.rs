//! The whole agent as a process: polls a device, keeps, ships, and comes through cuts, kills and damage with everything, once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent_bench;
#[expect(dead_code, reason = "each test binary uses a part of it")]
mod snmp_fake;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent_bench::hub::{Cluster, FakeHub, agent};
use agent_bench::{AgentProcess, Certificates, Relay, ServedDevice, free_port, wait_for};
use anemone_model::HubId;
use anemone_wire::control::Refusal;

const UPTIME: &str = "device_uptime_seconds{device=\"sw1\"}";
const OCTETS: &str = "if_in_octets{device=\"sw1\",if_name=\"eth2\"}";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// What the hubs have of the series that one of the selectors above names, as the agent itself prints it.
fn at_hub(cluster: &Cluster, metric: &str) -> BTreeMap<i64, String> {
    let samples = cluster.replicated.lock().unwrap().samples();
    let wanted = |labels: &&anemone_model::Labels| {
        labels.metric() == metric && labels.value("device") == Some("sw1") && labels.value("if_name").is_none_or(|name| name == "eth2")
    };
    let series = samples.iter().find(|(labels, _)| wanted(labels)).map(|(_, samples)| samples.clone()).unwrap_or_default();
    series.iter().map(|sample| (sample.ts_ms, sample.value.to_string())).collect()
}

/// Waits until the hubs have everything that the agent has, and checks that both have the same.
async fn everything_arrives(agent: &AgentProcess, cluster: &Cluster) {
    for (selector, metric) in [(UPTIME, "device_uptime_seconds"), (OCTETS, "if_in_octets")] {
        let mine = agent.local_samples(selector);
        assert!(!mine.is_empty(), "{selector}");
        wait_for(&format!("everything of {selector}"), || {
            let theirs = at_hub(cluster, metric);
            mine.iter().all(|(at, value)| theirs.get(at) == Some(value))
        })
        .await;
    }
    let state = cluster.replicated.lock().unwrap();
    assert_eq!(state.undefined, 0);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_hub_dies_and_comes_back_and_the_agent_restarts_cut_off() {
    runtime().block_on(async {
        let (temp, certificates, device) = (tempfile::tempdir().unwrap(), Certificates::new(), ServedDevice::start());
        let cluster = Cluster::new(1, vec![device.assigned("sw1"), device.assigned("sw2")]);
        let hub = FakeHub::start(1, local(0), certificates.hub(1), Arc::clone(&cluster));
        let address = hub.address;
        let mut process = AgentProcess::new(temp.path(), &certificates, &[(1, address)]);
        process.start();
        wait_for("two rounds", || at_hub(&cluster, "device_uptime_seconds").len() >= 2).await;
        wait_for("the assignment applied", || cluster.replicated.lock().unwrap().applied_assignments.contains(&1)).await;
        assert_eq!(cluster.replicated.lock().unwrap().hellos[0].agent, agent());

        hub.stop().await;
        let before = process.local_samples(UPTIME).len();
        wait_for("polling and queries go on", || process.local_samples(UPTIME).len() >= before + 2).await;
        let status = process.json("/api/v1/status/agent");
        assert_eq!((&status["uplink"]["shipping_to"], status["devices"]["healthy"].as_u64()), (&serde_json::Value::Null, Some(2)));

        assert_eq!(process.stop().await.code(), Some(0));
        process.start();
        wait_for("it polls by the last assignment", || process.local_samples(UPTIME).len() >= before + 3).await;
        assert_eq!(process.json("/readyz")["ready"], true);

        let _hub = FakeHub::start(1, address, certificates.hub(1), Arc::clone(&cluster));
        everything_arrives(&process, &cluster).await;
        let devices = process.json("/api/v1/devices");
        assert_eq!(devices["devices"][0]["device"], "sw1");
        assert!(devices["devices"][0]["rows"].as_u64() >= Some(3), "{devices:#}");
        assert!(!devices.to_string().contains("public"), "communities are not shown");

        cluster.assignment.send_replace((2, vec![device.assigned("sw2")]));
        wait_for("a device less", || process.json("/api/v1/devices")["devices"].as_array().is_some_and(|d| d.len() == 1)).await;
    });
}

#[test]
fn killed_it_comes_back_from_its_spool_and_a_damaged_database_is_rebuilt() {
    runtime().block_on(async {
        let (temp, certificates, device) = (tempfile::tempdir().unwrap(), Certificates::new(), ServedDevice::start());
        let cluster = Cluster::new(1, vec![device.assigned("sw1")]);
        let hub = FakeHub::start(1, local(0), certificates.hub(1), Arc::clone(&cluster));
        let address = hub.address;
        let mut process = AgentProcess::new(temp.path(), &certificates, &[(1, address)]);
        process.start();
        wait_for("a round", || !at_hub(&cluster, "device_uptime_seconds").is_empty()).await;
        hub.stop().await;
        wait_for("rounds while cut off", || process.local_samples(UPTIME).len() >= 3).await;
        // What a later status calls durable is at least what these samples are in.
        let shown = process.local_samples(UPTIME);
        let (status, began) = (process.json("/api/v1/status/agent"), Instant::now());
        let next = status["spool"]["next"].as_u64().unwrap();
        wait_for("they are flushed", || process.json("/api/v1/status/agent")["spool"]["durable_below"].as_u64() > Some(next)).await;
        assert!(began.elapsed() < Duration::from_secs(10));
        process.kill();

        std::fs::write(temp.path().join("data/local/db"), b"garbage").unwrap();
        process.start();
        wait_for("the local store is caught up", || {
            let now = process.local_samples(UPTIME);
            shown.iter().all(|(at, value)| now.get(at) == Some(value))
        })
        .await;
        let status = process.json("/api/v1/status/agent");
        assert!(status["local"]["set_aside"][0].as_str().is_some_and(|path| path.ends_with("local.damaged-1")), "{status:#}");
        assert!(temp.path().join("data/local.damaged-1").is_dir());

        let _hub = FakeHub::start(1, address, certificates.hub(1), Arc::clone(&cluster));
        everything_arrives(&process, &cluster).await;
        let epochs: std::collections::BTreeSet<u64> = cluster.replicated.lock().unwrap().batches.keys().map(|(epoch, _)| *epoch).collect();
        assert_eq!(epochs.len(), 1, "the spool is the same");
    });
}

#[test]
fn the_leader_changes_and_refuses() {
    runtime().block_on(async {
        let (temp, certificates, device) = (tempfile::tempdir().unwrap(), Certificates::new(), ServedDevice::start());
        let cluster = Cluster::new(1, vec![device.assigned("sw1")]);
        {
            let mut state = cluster.replicated.lock().unwrap();
            state.refusals.insert(2, vec![Refusal::Busy { retry_ms: 100 }, Refusal::NotLeader]);
            state.refusals.insert(4, vec![Refusal::Malformed { why: "a test".into() }]);
            state.refusals.insert(5, vec![Refusal::UnknownSeries { dictionary: 1, reference: 0 }]);
        }
        let start = |id: HubId| FakeHub::start(id, local(0), certificates.hub(id), Arc::clone(&cluster));
        let (one, two) = (start(1), start(2));
        let mut process = AgentProcess::new(temp.path(), &certificates, &[(1, one.address), (2, two.address)]);
        process.start();
        wait_for("five batches in spite of refusals", || cluster.count() >= 5).await;
        {
            let state = cluster.replicated.lock().unwrap();
            let (_, given_up) = state.batches.iter().find(|((_, sequence), _)| *sequence == 4).unwrap();
            assert_eq!(given_up.gaps().unwrap()[0].from_sequence, 4, "a gap in its place");
            let (_, amended) = state.batches.iter().find(|((_, sequence), _)| *sequence == 5).unwrap();
            assert!(!amended.definitions().unwrap().is_empty() && amended.gaps().unwrap().is_empty());
        }
        let (count, changed) = (cluster.count(), Instant::now());
        cluster.leader.send_replace((2, 2));
        wait_for("the new leader gets batches", || cluster.count() >= count + 2).await;
        assert!(changed.elapsed() < Duration::from_secs(5));
        let status = process.json("/api/v1/status/agent");
        assert_eq!((status["uplink"]["leader"].as_u64(), status["uplink"]["shipping_to"].as_u64()), (Some(2), Some(2)), "{status:#}");
        two.stop().await;
        cluster.leader.send_replace((3, 1));
        wait_for("back to the first", || cluster.count() >= count + 4).await;
        let state = cluster.replicated.lock().unwrap();
        assert_eq!(state.undefined, 0);
        assert!(state.misdirected <= 10, "{}", state.misdirected);
    });
}

#[test]
fn a_link_cut_without_a_word_heals_within_seconds() {
    runtime().block_on(async {
        let (temp, certificates, device) = (tempfile::tempdir().unwrap(), Certificates::new(), ServedDevice::start());
        let cluster = Cluster::new(1, vec![device.assigned("sw1")]);
        let hub = FakeHub::start(1, local(0), certificates.hub(1), Arc::clone(&cluster));
        let relay = Relay::start(hub.address);
        let mut process = AgentProcess::new(temp.path(), &certificates, &[(1, relay.address)]);
        process.start();
        wait_for("a round", || !at_hub(&cluster, "device_uptime_seconds").is_empty()).await;
        relay.cut.store(true, Ordering::Relaxed);
        let connected = || !process.json("/api/v1/status/agent")["uplink"]["hubs"]["1"]["connected_since_ms"].is_null();
        wait_for("the cut is noticed", || !connected()).await;
        let before = process.local_samples(UPTIME).len();
        wait_for("polling goes on", || process.local_samples(UPTIME).len() >= before + 3).await;
        let newest = *process.local_samples(UPTIME).keys().last().unwrap();
        assert!(edge_agent::clock::now_ms() - newest < 2_000, "the newest sample is never older than two intervals");

        let healed = Instant::now();
        relay.cut.store(false, Ordering::Relaxed);
        everything_arrives(&process, &cluster).await;
        assert!(healed.elapsed() < Duration::from_secs(6), "{:?}", healed.elapsed());
    });
}

#[test]
fn wrong_configs_and_certificates_end_with_a_reason() {
    let (temp, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
    let path = temp.path().join("agent.toml");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_edge-agent")).args(arguments).arg(&path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    AgentProcess::new(temp.path(), &certificates, &[(1, local(free_port()))]);
    let (code, out, _) = run(&["check-config"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("ok: agent ams1/a1, hubs 1 at 127.0.0.1:"), "{out}");

    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace("max_delay", "max_dely")).unwrap();
    for arguments in [&["check-config"][..], &["run", "--config"]] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, Some(2));
        let expected = format!("{}:11:1: unknown key \"batch.max_dely\"; did you mean \"max_delay\"?\n", path.display());
        assert_eq!(error, expected);
    }
    std::fs::write(&path, good.replace("agent-ams1-a1", "hub-1")).unwrap();
    let (code, _, error) = run(&["run", "--config"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("is of anemone://demo/hub/1, the config says agent ams1/a1"), "{error}");
    assert!(!temp.path().join("data").exists(), "nothing is created");

    let version = Command::new(env!("CARGO_BIN_EXE_edge-agent")).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("edge-agent 0."));
}
