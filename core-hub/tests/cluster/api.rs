//! The HTTP API's refusals, and the command line over it.

use std::fs;

use serde_json::json;

use crate::agent::{FakeAgent, agent_id, time_of};
use crate::hubs::{HUBS, Hubs, eventually};

const TOKEN: &str = "open-sesame";
const DEVICES: &str = "/api/v1/devices";

/// Hubs that want a token for changes.
async fn guarded() -> (Hubs, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    (Hubs::start(&format!("[admin]\ntoken_file = \"{}\"\n", file.display())).await, dir)
}

fn printed(output: std::process::Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(output: std::process::Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name_and_changes_go_to_the_leader() {
    let (hubs, _token_file) = guarded().await;
    let (leader, follower) = (hubs.leader().await, hubs.followers().await[0]);
    let device = |address: &str| json!([{"name": "sw1", "pop": "ams1", "address": address, "community": "public"}]).to_string();
    let cases = [
        (r#"[{"name": "sw1", "pop": "ams1", "adress": "h:161", "community": "x"}]"#.to_owned(), "unknown field `adress`"),
        (r#"[{"name": "sw1", "pop": "ams1", "address": "h:161"}]"#.to_owned(), "missing field `community`"),
        (r#"[{"name": "sw1", "pop": "ams1", "address": 5, "community": "x"}]"#.to_owned(), "[0].address"),
        (r#"[{"name": "sw 1", "pop": "ams1", "address": "h:161", "community": "x"}]"#.to_owned(), "[0].name"),
        ("[{".to_owned(), "EOF"),
        (device("192.0.2.1"), r#"device 0 (sw1): address "192.0.2.1" is not host:port"#),
        (device("192.0.2.1:0"), "has no port from 1 to 65535"),
    ];
    for (body, reason) in cases {
        let answer = hubs.post(leader, DEVICES, Some(TOKEN), &body);
        assert_eq!((answer.status, &answer.body["errorType"]), (answer.status.clamp(400, 422), &json!("bad_data")), "{answer:?}");
        let error = answer.body["error"].as_str().unwrap();
        assert!(error.contains(reason), "{error:?} should contain {reason:?}");
    }
    for token in [None, Some("wrong"), Some("open-sesamf")] {
        let answer = hubs.post(leader, DEVICES, token, &device("h:161"));
        assert_eq!((answer.status, &answer.body["errorType"]), (401, &json!("forbidden")), "{answer:?}");
    }
    assert_eq!(hubs.get(leader, DEVICES), json!([]), "nothing of it was taken");

    let gone = hubs.delete(leader, "/api/v1/devices/sw9", TOKEN);
    assert_eq!((gone.status, &gone.body["error"]), (404, &json!("there is no device sw9")));
    let answer = hubs.post(follower, DEVICES, Some(TOKEN), &device("h:161"));
    assert_eq!(answer.status, 307, "{answer:?}");
    assert_eq!(answer.location, Some(format!("{}{DEVICES}", hubs.url(leader))));
    let answer = hubs.post(leader, DEVICES, Some(TOKEN), &device("h:161"));
    assert_eq!((answer.status, &answer.body["data"]), (200, &json!({"received": 1, "changed": 1})));
    for hub in HUBS {
        let devices = eventually("the device on every hub", || Some(hubs.get(hub, DEVICES)).filter(|d| d[0]["name"] == "sw1")).await;
        assert!(!devices.to_string().contains("public"), "communities are never shown: {devices}");
    }
    assert_eq!(hubs.delete(leader, "/api/v1/devices/sw1", TOKEN).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_imports_lists_and_asks_through_any_node() {
    let (hubs, _token_file) = guarded().await;
    let (leader, follower) = (hubs.leader().await, hubs.followers().await[0]);
    let agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    agent.ship_to_leader(leader, 1).await;
    let at = hubs.url(follower);
    let run = |arguments: &[&str]| hubs.cli(&[arguments, &["--hub", &at]].concat());

    // More than one part of an assignment, and one part by weight.
    let row = |n: usize| json!({"name": format!("sw{n:04}"), "pop": "ams1", "address": format!("10.0.0.1:{}", n + 1), "community": "x", "metadata": {"rack": "r".repeat(500)}});
    let file = hubs.dir().join("devices.json");
    fs::write(&file, serde_json::Value::from((0..1_500).map(row).collect::<Vec<_>>()).to_string()).unwrap();
    let import = ["device", "import", file.to_str().unwrap()];
    let error = refused(run(&import));
    assert!(error.contains("Authorization: Bearer"), "{error}");
    let imported = printed(run(&[&import[..], &["--token", TOKEN]].concat()));
    assert_eq!(imported, "1500 devices received, 1500 added or changed\n", "a follower redirects and the command follows");
    let heard = agent.links[&leader].wait("the whole assignment", |heard| heard.devices.values().any(|d| d.len() == 1_500)).await;
    assert!(heard.ended.is_none());

    let listed = eventually("the devices at the follower", || {
        let listed = printed(run(&["device", "list"]));
        (listed.lines().count() == 1_501).then_some(listed)
    })
    .await;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(words(lines[0]), ["NAME", "POP", "ADDRESS", "INTERVAL-MS", "AGENT"]);
    assert_eq!(words(lines[8]), ["sw0007", "ams1", "10.0.0.1:8", "10000", "a1"]);

    let status = printed(run(&["cluster", "status"]));
    let rows: Vec<Vec<&str>> = status.lines().map(words).collect();
    assert_eq!(rows[0][..4], ["NODE", "STATE", "TERM", "LEADER"]);
    let leaders = rows[1..].iter().filter(|row| row[1] == "leader").count();
    assert_eq!((rows.len(), leaders), (4, 1), "{status}");
    assert!(rows[1..].iter().all(|row| row[3] == leader.to_string()), "{status}");

    let query = format!("count(if_in_octets @ {})", time_of(1));
    let asked = printed(run(&["query", &query]));
    assert_eq!(asked.lines().map(words).collect::<Vec<_>>(), [vec!["SERIES", "VALUE"], vec!["{}", "4"]], "{asked}");
    assert!(refused(run(&["query", "count("])).contains("parse error"));
    let nobody = refused(hubs.cli(&["query", "1", "--hub", "http://127.0.0.1:1"]));
    assert!(nobody.starts_with("core-hub: cannot ask http://127.0.0.1:1/"), "{nobody}");

    let (good, typo) = (hubs.config(1), hubs.dir().join("typo.toml"));
    assert_eq!(printed(hubs.cli(&["check-config", good.to_str().unwrap()])), format!("{}: ok\n", good.display()));
    fs::write(&typo, fs::read_to_string(&good).unwrap().replace("data_dir", "data_dri")).unwrap();
    let error = refused(hubs.cli(&["check-config", typo.to_str().unwrap()]));
    assert!(error.contains(&format!("{}:4:1: ", typo.display())) && error.contains("did you mean `data_dir`?"), "{error}");
}
