//! Sealing, purging the log, starting from what was sealed, and a node that was away for longer than the log goes back.

use crate::agent::{FakeAgent, agent_id, expected, held};
use crate::hubs::{HUBS, Hubs, eventually};

/// Samples per series and batch: about 20 KiB a batch.
const SAMPLES: u64 = 1_000;
const BATCHES: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_from_what_was_sealed_and_one_that_was_away_gets_a_snapshot() {
    let mut hubs = Hubs::start("[store]\nseal_log_bytes = 262144\n").await;
    let leader = hubs.leader().await;
    let away = hubs.followers().await[0];
    let agent = FakeAgent::connected(&hubs, agent_id("ams1", "a1")).await;
    let link = &agent.links[&leader];
    link.ship(agent.sealed(1, SAMPLES, &agent.id)).await;
    link.wait("the first acknowledgement", |heard| heard.applied_below == 2).await;
    let behind = hubs.get(away, "/api/v1/cluster")["last_log"].as_u64().unwrap();
    hubs.kill(away);
    for sequence in 2..=BATCHES {
        link.ship(agent.sealed(sequence, SAMPLES, &agent.id)).await;
        link.wait("an acknowledgement", |heard| heard.applied_below == sequence + 1).await;
    }
    let purged = eventually("the log to be purged past what the absent node has", || {
        hubs.get(leader, "/api/v1/cluster")["purged"].as_u64().filter(|purged| *purged > behind + 10)
    })
    .await;
    let whole = expected(BATCHES, SAMPLES);

    hubs.restart(away);
    eventually("the node that was away to answer as the others", || (held(&hubs, away, BATCHES) == whole).then_some(())).await;
    assert!(hubs.log(away).contains("installed a snapshot"), "{}", hubs.log(away));
    let sealed = hubs.get(away, "/api/v1/cluster")["sealed"].as_u64().unwrap();
    assert!(sealed > behind, "sealed up to {sealed}, was at {behind}, the leader purged {purged}");

    // Now each starts again from what it sealed: the snapshot's receiver, and those that sealed themselves.
    for hub in HUBS {
        hubs.kill(hub);
    }
    HUBS.into_iter().for_each(|hub| hubs.restart(hub));
    hubs.leader().await;
    for hub in HUBS {
        eventually("everything after a restart", || (held(&hubs, hub, BATCHES) == whole).then_some(())).await;
        let agents = hubs.get(hub, "/api/v1/agents");
        assert_eq!(agents[0]["samples"], BATCHES * SAMPLES * 4);
        assert_eq!(agents[0]["epochs"][0]["applied_below"], BATCHES + 1);
    }
}
