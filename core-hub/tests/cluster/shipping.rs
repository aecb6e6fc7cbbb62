//! Batches in, answers out of every hub, each batch once.

use anemone_wire::control::Refusal;

use crate::agent::{FakeAgent, agent_id, expected, held, time_of};
use crate::hubs::{HUBS, Hubs, eventually};

fn samples_counted(hubs: &Hubs, hub: u64) -> Option<u64> {
    hubs.get(hub, "/api/v1/agents").as_array()?.first()?["samples"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hub_answers_exactly_what_was_shipped_however_often_it_was_sent() {
    let hubs = Hubs::start("").await;
    let leader = hubs.leader().await;
    let mut agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    for link in agent.links.values() {
        let heard = link.wait("the leader's name", |heard| heard.leader.as_ref().is_some_and(|l| l.hub == Some(leader))).await;
        assert!(hubs.quic().iter().any(|(id, quic)| *id == leader && Some(quic.to_string()) == heard.leader.as_ref().unwrap().address));
    }
    agent.ship_to_leader(leader, 5).await;
    for hub in HUBS {
        eventually("every hub to hold what was shipped", || (held(&hubs, hub, 5) == expected(5, 1)).then_some(())).await;
        let time = time_of(5);
        let ask = |query| hubs.try_get(hub, "/api/v1/query", &[("query", query), ("time", &time)]).unwrap().body;
        assert_eq!(ask("count(if_in_octets)")["data"]["result"][0]["value"][1], "4");
        let first = ask("if_in_octets{if_name=\"eth0\"} offset 5s");
        let row = &first["data"]["result"][0];
        assert_eq!(row["value"][1], "9223372036854775809");
        let labels = serde_json::json!({"__name__": "if_in_octets", "pop": "ams1", "device": "sw1", "if_name": "eth0"});
        assert_eq!(row["metric"].as_object().unwrap(), labels.as_object().unwrap());
    }

    // A follower takes nothing.
    let follower = hubs.followers().await[0];
    agent.links[&follower].ship(agent.batch(6)).await;
    let heard = agent.links[&follower].wait("a refusal", |heard| !heard.refused.is_empty()).await;
    assert_eq!(heard.refused, [(6, Refusal::NotLeader)]);

    // Again on the same session, with gaps and backwards, then all of it on a new session.
    let link = &agent.links[&leader];
    let acks = link.heard.borrow().acks;
    for sequence in [3, 3, 9, 1, 6, 8, 6] {
        link.ship(agent.batch(sequence)).await;
    }
    let heard = link.wait("seven verdicts", |heard| heard.acks - acks + heard.refused.len() as u64 == 7).await;
    assert_eq!(heard.applied_below, 7);
    let busy = |sequence| (sequence, Refusal::Busy { retry_ms: 200 });
    assert_eq!(heard.refused, [busy(9), busy(8)]);
    let link = agent.connect(leader).await;
    assert_eq!(link.heard.borrow().applied_below, 7, "a welcome says what is applied");
    for sequence in [1, 2, 3, 4, 5, 6, 7, 7] {
        agent.links[&leader].ship(agent.batch(sequence)).await;
    }
    agent.links[&leader].wait("eight acknowledgements", |heard| heard.acks == 8 && heard.applied_below == 8).await;
    for hub in HUBS {
        eventually("batch 7 on every hub", || (held(&hubs, hub, 7) == expected(7, 1)).then_some(())).await;
        assert_eq!(samples_counted(&hubs, hub), Some(7 * 4), "each batch was applied once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_spool_is_not_begun_in_the_middle() {
    let hubs = Hubs::start("").await;
    let leader = hubs.leader().await;
    let agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let link = &agent.links[&leader];
    link.ship(agent.batch(2)).await;
    let heard = link.wait("a refusal", |heard| !heard.refused.is_empty()).await;
    assert_eq!((heard.acks, &heard.refused[..]), (0, &[(2, Refusal::Busy { retry_ms: 200 })][..]));
    agent.ship_to_leader(leader, 2).await;
    eventually("both batches", || (held(&hubs, leader, 2) == expected(2, 1)).then_some(())).await;
}
