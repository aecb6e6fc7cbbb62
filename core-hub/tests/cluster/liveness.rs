//! An agent that falls silent, and comes back.

use std::sync::atomic::Ordering;

use serde_json::Value;

use crate::agent::{FakeAgent, agent_id, time_of};
use crate::hubs::{HUBS, Hubs, eventually};

fn warnings(hubs: &Hubs, hub: u64, query: &str) -> Vec<String> {
    let answer = hubs.try_get(hub, "/api/v1/query", &[("query", query)]).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let warnings = answer.body["warnings"].as_array().into_iter().flatten();
    warnings.map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

fn pop(hubs: &Hubs, hub: u64, name: &str) -> Option<Value> {
    hubs.get(hub, "/api/v1/pops").as_array()?.iter().find(|row| row["name"] == name).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_warned_of_by_every_hub_until_it_is_heard_again() {
    let hubs = Hubs::start("[ingest]\nheartbeat_ms = 300\ndark_after_ms = 2000\n").await;
    let leader = hubs.leader().await;
    let silent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let other = FakeAgent::connected(&hubs, agent_id("nyc1", "n1")).await;
    silent.ship_to_leader(leader, 1).await;
    other.ship_to_leader(leader, 1).await;
    for hub in HUBS {
        let reachable = |name| pop(&hubs, hub, name).filter(|row| row["state"] == "reachable");
        eventually("both PoPs to be known", || reachable("ams1").and(reachable("nyc1"))).await;
        assert_eq!(warnings(&hubs, hub, "count(if_in_octets)"), Vec::<String>::new());
    }

    silent.beating.store(false, Ordering::Relaxed);
    for hub in HUBS {
        let row = eventually("the PoP to be dark", || pop(&hubs, hub, "ams1").filter(|row| row["state"] == "dark")).await;
        let since = row["dark_since"].as_str().unwrap().to_owned();
        let expected = format!(
            "PoP ams1 is dark since {since}: agent a1 not heard, newer samples have not arrived; it can be asked itself at http://a1.example"
        );
        for query in ["count(if_in_octets)", "if_in_octets{pop=\"ams1\"}", "if_in_octets{pop=~\"ams.\"}"] {
            assert_eq!(warnings(&hubs, hub, query), [&*expected], "hub {hub}: {query}");
        }
        for query in ["if_in_octets{pop=\"nyc1\"}", "if_in_octets{pop!=\"ams1\"}"] {
            assert_eq!(warnings(&hubs, hub, query), Vec::<String>::new(), "hub {hub}: {query}");
        }
        let before = hubs.try_get(hub, "/api/v1/query", &[("query", "if_in_octets"), ("time", &time_of(1))]).unwrap();
        assert_eq!(before.body["warnings"].as_array().map_or(0, Vec::len), 0, "what was asked for was before the darkness: {before:?}");
    }
    let log = hubs.log(leader);
    assert_eq!(log.matches("agent is dark").count(), 1, "it is said once\n{log}");

    silent.beating.store(true, Ordering::Relaxed);
    for hub in HUBS {
        eventually("the warning to go", || warnings(&hubs, hub, "if_in_octets").is_empty().then_some(())).await;
        assert_eq!(pop(&hubs, hub, "ams1").unwrap()["state"], "reachable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_an_agent_that_stays_away_go_to_its_neighbour_and_come_back_with_it() {
    let hubs = Hubs::start("[ingest]\nheartbeat_ms = 300\ndark_after_ms = 2000\ngrace_ms = 2500\n").await;
    let leader = hubs.leader().await;
    let stays = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let leaves = FakeAgent::connected(&hubs, agent_id("ams1", "a2")).await;
    let device = |n: usize| serde_json::json!({"name": format!("sw{n}"), "pop": "ams1", "address": "h:161", "community": "x"});
    let devices = Value::from((0..20).map(device).collect::<Vec<_>>()).to_string();
    let both = || hubs.get(leader, "/api/v1/agents").as_array().map(Vec::len).filter(|known| *known == 2);
    eventually("both agents to be known", both).await;
    assert_eq!(hubs.post(leader, "/api/v1/devices", None, &devices).status, 200);
    let newest = |heard: &crate::agent::Heard| heard.devices.values().next_back().map_or(0, Vec::len);
    let first = stays.links[&leader].wait("its share", |heard| (1..20).contains(&newest(heard))).await;
    leaves.links[&leader].wait("the other share", |heard| newest(heard) == 20 - newest(&first)).await;

    leaves.beating.store(false, Ordering::Relaxed);
    stays.links[&leader].wait("all devices", |heard| newest(heard) == 20).await;
    leaves.beating.store(true, Ordering::Relaxed);
    stays.links[&leader].wait("its share again", |heard| newest(heard) == newest(&first)).await;
    let state = |row: &Value| row["state"] == "reachable";
    eventually("the PoP to be reachable", || pop(&hubs, leader, "ams1").filter(state)).await;
    assert_eq!(hubs.log(leader).matches("its neighbours take over").count(), 1, "it is said once");
}
