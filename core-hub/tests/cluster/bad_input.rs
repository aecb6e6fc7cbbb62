//! Agents that break the protocol: the session is closed with the code of the rule, the log says who and what, nobody else
//! notices.

use anemone_link::{CloseCode, LinkError};
use anemone_wire::batch::{BatchHeader, EncodedSections};
use anemone_wire::control::{AgentMessage, Hello, Refusal, frame_kind};
use bytes::Bytes;

use crate::agent::{FakeAgent, Out, agent_id};
use crate::hubs::{Hubs, eventually};

/// Where a bad frame is put.
enum On {
    Control,
    Lane,
}

fn frame(version: u8, kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut out = length.to_be_bytes().to_vec();
    out.extend([version, kind]);
    out.extend(body);
    out
}

fn frame_of(kind: u8, body: &[u8]) -> Vec<u8> {
    frame(1, kind, u32::try_from(body.len()).unwrap() + 2, body)
}

fn closed(ended: &LinkError) -> (CloseCode, &str) {
    match ended {
        LinkError::Closed { code, reason, .. } => (*code, reason),
        other => panic!("{other}"),
    }
}

/// Waits for one line of a hub's log with both texts.
async fn logged(hubs: &Hubs, hub: u64, who: &str, what: &str) {
    eventually(&format!("a log line with {who:?} and {what:?}"), || {
        hubs.log(hub).lines().any(|line| line.contains(who) && line.contains(what)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_closes_that_session_with_its_code_and_no_other() {
    let hubs = Hubs::start("").await;
    let leader = hubs.leader().await;
    let good = FakeAgent::connected(&hubs, agent_id("ams1", "good")).await;
    good.ship_to_leader(leader, 1).await;
    let mut bad = FakeAgent::new(&hubs, agent_id("ams1", "bad"));
    let batch = bad.batch(1);
    let foreign = bad.sealed(1, 1, &agent_id("nyc1", "n1"));
    let header = BatchHeader { epoch: 7, ..BatchHeader::peek(&batch).unwrap() };
    let other_epoch = EncodedSections::default().seal(&header).unwrap();
    let hello = AgentMessage::Hello(bad.hello()).encode().unwrap();
    let teleport = b"\xa1hTeleport\xa1dtime\x01";
    let cases: [(On, Vec<u8>, CloseCode, &str); 11] = [
        (On::Control, frame_of(9, b""), CloseCode::ProtocolMessage, "a frame of kind 9 on the control stream"),
        (On::Control, frame(7, 1, 2, b""), CloseCode::ProtocolVersion, "frame of version 7, this node speaks 1"),
        (On::Control, frame_of(frame_kind::CONTROL, teleport), CloseCode::ProtocolMessage, "Teleport"),
        (On::Control, frame_of(frame_kind::CONTROL, &hello), CloseCode::ProtocolMessage, "a second hello"),
        (On::Lane, frame_of(frame_kind::CONTROL, b""), CloseCode::ProtocolMessage, "a frame of kind 1 on a lane"),
        (On::Lane, frame(1, 2, u32::MAX, b""), CloseCode::ProtocolOversized, "is over the limit of"),
        (On::Lane, frame(1, 2, 500, b"cut"), CloseCode::ProtocolTruncated, "stream ended inside a frame: expected 504 bytes, got 9"),
        (On::Lane, frame_of(frame_kind::BATCH, &batch[..40]), CloseCode::ProtocolMessage, "batch is truncated"),
        (
            On::Lane,
            frame_of(frame_kind::BATCH, b"no batch at all"),
            CloseCode::ProtocolMessage,
            "not a batch: the first bytes are [6e, 6f, 20, 62]",
        ),
        (On::Lane, frame_of(frame_kind::BATCH, &foreign), CloseCode::ProtocolMessage, "is of agent nyc1/n1"),
        (On::Lane, frame_of(frame_kind::BATCH, &other_epoch), CloseCode::ProtocolMessage, "spool epoch 0000000000000007"),
    ];
    for (on, bytes, code, reason) in cases {
        let link = bad.connect(leader).await;
        let stream = if matches!(on, On::Control) { &link.control } else { &link.lane };
        stream.send(Out::Raw(bytes)).await.unwrap();
        if code == CloseCode::ProtocolTruncated {
            stream.send(Out::Finish).await.unwrap();
        }
        let heard = link.wait(reason, |heard| heard.ended.is_some()).await;
        let (was, words) = closed(heard.ended.as_deref().unwrap());
        assert_eq!(was, code, "{reason}: {words}");
        assert!(words.contains(reason), "{words:?} should contain {reason:?}");
        logged(&hubs, leader, "anemone://test/pop/ams1/agent/bad", reason).await;
    }
    hellos(&hubs, leader, &bad).await;

    // A batch that is whole but damaged is refused alone: its agent must be able to go on after it.
    let mut damaged = bad.batch(1).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let link = bad.connect(leader).await;
    link.ship(damaged.into()).await;
    let heard = link.wait("a refusal", |heard| !heard.refused.is_empty()).await;
    assert!(matches!(&heard.refused[0], (1, Refusal::Malformed { why }) if why.contains("checksum")), "{heard:?}");
    bad.ship_to_leader(leader, 2).await;

    assert!(good.links.values().all(|link| link.heard.borrow().ended.is_none()), "other sessions are unaffected");
    good.ship_to_leader(leader, 3).await;
}

/// First frames that are no usable hello.
async fn hellos(hubs: &Hubs, leader: u64, agent: &FakeAgent) {
    let hello = |change: fn(&mut Hello)| {
        let mut hello = agent.hello();
        change(&mut hello);
        AgentMessage::Hello(hello).encode().unwrap()
    };
    let foreign = hello(|hello| hello.agent = agent_id("ams1", "good"));
    let heartbeat = AgentMessage::Heartbeat { at_ms: 0, load: Default::default() }.encode().unwrap();
    let cases: [(u8, Bytes, &str); 6] = [
        (frame_kind::CONTROL, foreign, "the hello is of agent ams1/good, the certificate of anemone://test/pop/ams1/agent/bad"),
        (frame_kind::CONTROL, hello(|hello| hello.protocol = 0), "protocol version 0 does not exist"),
        (frame_kind::CONTROL, hello(|hello| hello.http = "x".repeat(300)), "http of the hello has 300 bytes, the limit is 256"),
        (frame_kind::CONTROL, heartbeat, "the first message is not a hello"),
        (frame_kind::CONTROL, Bytes::from_static(b"\xff"), "agent message is malformed"),
        (frame_kind::BATCH, Bytes::new(), "the first frame is of kind 2, expected 1"),
    ];
    for (kind, body, reason) in cases {
        let error = agent.try_connect(leader, kind, body).await.expect_err(reason);
        let (code, words) = closed(&error);
        assert_eq!(code, CloseCode::ProtocolMessage, "{reason}");
        assert!(words.contains(reason), "{words:?} should contain {reason:?}");
        logged(hubs, leader, "anemone://test/pop/ams1/agent/bad", reason).await;
    }
}
