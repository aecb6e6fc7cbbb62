//! The simulator as a process: its ready line, its control interface, and its end.

use std::{path::Path, time::Duration};

use anemone_chaos::{
    process::{Process, ProcessSpec, Stopped},
    sim::{InventoryItem, LedgerSeries, Ready, Tallies},
};
use csnmp::Snmp2cClient;

const FLEET: &str =
    "port = 0\n[[group]]\npop = \"ams1\"\nkind = \"server\"\ncount = 3\n[[group]]\npop = \"nyc1\"\nkind = \"access-switch\"\ncount = 1\n";

async fn ready(log: &Path) -> Ready {
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.starts_with('{')) {
            return serde_json::from_str(line).expect("a ready line");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One request to the control interface; status and body.
async fn http(url: String, body: Option<&'static str>) -> (u16, String) {
    let ask = move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = match body {
            Some(body) => agent.post(&url).content_type("application/json").send(body),
            None => agent.get(&url).call(),
        }
        .expect("a response");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a body"))
    };
    tokio::task::spawn_blocking(ask).await.expect("no panic")
}

#[tokio::test]
async fn a_fleet_runs_is_controlled_and_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let fleet = folder.path().join("fleet.toml");
    std::fs::write(&fleet, FLEET).expect("written");
    let log = folder.path().join("logs/simulator.log");
    let args = ["run", "--fleet", fleet.to_str().expect("text"), "--ledger", "--exit-with-parent"];
    let mut process = Process::start(ProcessSpec::new("simulator", env!("CARGO_BIN_EXE_simulator"), args, &log)).await.expect("starts");
    let ready = ready(&log).await;
    assert_eq!(ready.devices, 4);
    let base = format!("http://{}", ready.control);

    let inventory: Vec<InventoryItem> = serde_json::from_str(&http(format!("{base}/inventory"), None).await.1).expect("an inventory");
    let switch = inventory.iter().find(|item| item.name == "nyc1-sw-01").expect("the switch");
    assert_eq!((switch.interfaces, switch.kind.as_str()), (26, "access-switch"));
    assert_eq!(switch.address.port(), ready.port);

    let client =
        Snmp2cClient::new(switch.address.into(), b"public".to_vec(), None, Some(Duration::from_secs(5)), 0).await.expect("a client");
    client.walk_bulk("1.3.6.1.2.1.31.1.1.1.6".parse().expect("an oid"), 20).await.expect("a walk");
    let (_, lines) = http(format!("{base}/ledger?devices=pop:nyc1"), None).await;
    let ledger: Vec<LedgerSeries> = lines.lines().map(|line| serde_json::from_str(line).expect("a series")).collect();
    assert_eq!(ledger.len(), 26);
    assert!(ledger.iter().all(|series| series.metric == "if_in_octets" && series.pop == "nyc1" && series.entries.len() == 1));
    let (_, later) = http(format!("{base}/ledger?from={}", ledger[25].entries[0].answered_ms + 1), None).await;
    assert_eq!(later, "");

    for (path, body, expected) in [
        ("faults", r#"{"devices": "pop:ams1", "faults": {"silent": true}}"#, (200, "{\"devices\":3}")),
        ("reboot", r#"{"devices": "nyc1-sw-01", "reboot": {"start": "high"}}"#, (200, "{\"devices\":1}")),
        ("renumber", r#"{"devices": "nyc1-sw-01", "renumber": {"rotate": 3}}"#, (200, "{\"devices\":1}")),
        ("faults", r#"{"devices": "fra1*", "faults": {}}"#, (404, "no device matches \"fra1*\"\n")),
    ] {
        let (status, text) = http(format!("{base}/{path}"), Some(body)).await;
        assert_eq!((status, text.as_str()), expected);
    }
    let (status, text) = http(format!("{base}/faults"), Some(r#"{"devices": "*", "faults": {"slient": true}}"#)).await;
    assert!(status == 422 && text.contains("slient"), "{status} {text}");
    let tallies: Tallies = serde_json::from_str(&http(format!("{base}/status"), None).await.1).expect("tallies");
    assert!(tallies.varbinds >= 26, "{tallies:?}");

    let stopped = process.stop(Duration::from_secs(5)).await.expect("stopped");
    assert!(matches!(stopped, Stopped::Exited(status) if status.success()), "{stopped:?}");
}

#[test]
fn a_bad_fleet_file_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let fleet = folder.path().join("fleet.toml");
    std::fs::write(&fleet, "port = 0\nfirts = \"127.0.0.1\"\n").expect("written");
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_simulator")).args(["inventory", "--fleet"]).arg(&fleet).output().expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("fleet.toml") && errors.contains("line 2") && errors.contains("firts"), "{errors}");
}
