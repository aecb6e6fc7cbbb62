//! kill -9 of the leader, and of everybody.

use std::time::{Duration, Instant};

use crate::agent::{FakeAgent, Link, agent_id, expected, held};
use crate::hubs::{HUBS, Hubs, eventually};

/// Ingest must go on at the new leader in this time.
const FAILOVER: Duration = Duration::from_secs(3);

async fn acknowledged(link: &Link, below: u64) {
    link.wait("an acknowledgement", |heard| heard.applied_below >= below).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_leaders_and_then_all_hubs_are_killed() {
    let mut hubs = Hubs::alone("").await;
    let mut agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let leader = hubs.leader().await;
    agent.ship_to_leader(leader, 20).await;

    // In the middle of shipping: more is under way than was acknowledged.
    for sequence in 21..=60 {
        agent.links[&leader].ship(agent.batch(sequence)).await;
    }
    acknowledged(&agent.links[&leader], 22).await;
    hubs.kill(leader);
    let killed = Instant::now();
    let acknowledged_by_the_old = agent.links[&leader].heard.borrow().applied_below;
    agent.links.remove(&leader);
    let next = eventually("a new leader", || agent.named_leader().filter(|hub| *hub != leader)).await;
    let link = &agent.links[&next];
    for sequence in acknowledged_by_the_old..=80 {
        link.ship(agent.batch(sequence)).await;
    }
    // What is sent again may be turned away until the new leader has applied what it inherited; an agent then sends it again.
    let mut refused = 0;
    loop {
        let heard = link
            .wait("an acknowledgement by the new leader", |heard| {
                heard.applied_below > acknowledged_by_the_old || heard.refused.len() > refused
            })
            .await;
        if heard.applied_below > acknowledged_by_the_old {
            break;
        }
        refused = heard.refused.len();
        link.ship(agent.batch(acknowledged_by_the_old)).await;
    }
    let took = killed.elapsed();
    assert!(took < FAILOVER, "ingest went on after {took:?}");
    println!("ingest went on {took:?} after the kill");
    ship_until(&agent, next, 80).await;
    for hub in hubs.running() {
        eventually("all of it on the hubs that are left", || (held(&hubs, hub, 80) == expected(80, 1)).then_some(())).await;
    }

    for hub in hubs.running() {
        hubs.kill(hub);
    }
    agent.links.clear();
    HUBS.into_iter().for_each(|hub| hubs.restart(hub));
    let leader = hubs.leader().await;
    for hub in HUBS {
        eventually("all of it after all were killed", || (held(&hubs, hub, 80) == expected(80, 1)).then_some(())).await;
    }
    let link = agent.connect(leader).await;
    link.wait("the welcome to say what is applied", |heard| heard.applied_below == 81).await;
    ship_until(&agent, leader, 90).await;
    for hub in HUBS {
        eventually("what was shipped after the restart", || (held(&hubs, hub, 90) == expected(90, 1)).then_some(())).await;
        let samples = hubs.get(hub, "/api/v1/agents")[0]["samples"].as_u64();
        assert_eq!(samples, Some(90 * 4), "each batch was applied once");
    }
}

/// Sends from what is acknowledged on, again and again, as an agent does.
async fn ship_until(agent: &FakeAgent, hub: u64, last: u64) {
    let link = &agent.links[&hub];
    loop {
        let (from, refused) = {
            let heard = link.heard.borrow();
            (heard.applied_below, heard.refused.len())
        };
        if from > last {
            return;
        }
        for sequence in from.max(1)..=last {
            link.ship(agent.batch(sequence)).await;
        }
        link.wait("progress or a refusal", |heard| heard.applied_below > last || heard.refused.len() > refused).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_told_to_stop_says_goodbye_and_the_others_go_on() {
    let mut hubs = Hubs::start("").await;
    let agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let leader = hubs.leader().await;
    agent.ship_to_leader(leader, 3).await;
    hubs.stop(leader).await;
    let heard = agent.links[&leader].wait("the end of the session", |heard| heard.ended.is_some()).await;
    let ended = heard.ended.unwrap().to_string();
    assert!(ended.contains("shutting down"), "{ended}");
    let next = eventually("a new leader", || agent.named_leader()).await;
    ship_until(&agent, next, 6).await;
    for hub in hubs.running() {
        eventually("all of it", || (held(&hubs, hub, 6) == expected(6, 1)).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_acknowledged() {
    let mut hubs = Hubs::start("").await;
    let mut agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let leader = hubs.leader().await;
    agent.ship_to_leader(leader, 3).await;
    let followers = hubs.followers().await;
    for follower in &followers {
        hubs.kill(*follower);
        agent.links.remove(follower);
    }
    let link = &agent.links[&leader];
    for sequence in 4..=6 {
        link.ship(agent.batch(sequence)).await;
    }
    let heard = link.wait("three refusals", |heard| heard.refused.len() == 3).await;
    assert_eq!(heard.applied_below, 4, "{heard:?}");
    assert_eq!(held(&hubs, leader, 6), expected(3, 1), "what is not committed is not answered");
    let answer = hubs.try_get(leader, "/api/v1/query", &[("query", "if_in_octets")]).unwrap();
    assert_eq!(answer.body["warnings"][0], "this hub node hears no leader; what was written since may be missing");
    let body = r#"[{"name": "sw1", "pop": "ams1", "address": "h:161", "community": "x"}]"#;
    let answer = hubs.post(leader, "/api/v1/devices", None, body);
    assert_eq!((answer.status, &answer.body["errorType"]), (503, &serde_json::json!("unavailable")), "{answer:?}");

    for follower in &followers {
        hubs.restart(*follower);
        agent.connect(*follower).await;
    }
    let next = eventually("a leader", || agent.named_leader()).await;
    ship_until(&agent, next, 8).await;
    for hub in HUBS {
        eventually("all of it", || (held(&hubs, hub, 8) == expected(8, 1)).then_some(())).await;
        assert_eq!(hubs.get(hub, "/api/v1/agents")[0]["samples"], 8 * 4, "each batch was applied once");
    }
}
