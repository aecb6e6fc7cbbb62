//! Sessions over real sockets: what good peers exchange, and how those that break the protocol are closed.

use std::time::Duration;

use crate::common::{AGENT, HUB, Log, When, agent, anywhere, authority, good, hub, hub_with, identity, issue, raw_client, raw_session};
use anemone_link::{CloseCode, Established, Fault, FrameError, HubEndpoint, Lane, LinkError, LinkOptions, PeerIdentity};
use bytes::Bytes;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const BATCH: u8 = 3;

/// Takes the next session and answers its hello.
async fn welcome(hub: &HubEndpoint) -> Established {
    let mut established = hub.accept().await.expect("a session");
    established.control.writer.send(WELCOME, Bytes::from_static(b"welcome")).await.expect("sent");
    established
}

#[tokio::test]
async fn both_sides_know_who_the_other_is() {
    let ours = authority("demo");
    let (hub, address) = hub(good(&ours, HUB));
    let agent = agent(good(&ours, AGENT));
    let (at_hub, at_agent) = tokio::join!(welcome(&hub), agent.connect(address, Some(1), HELLO, Bytes::from_static(b"hello")));
    let mut at_agent = at_agent.unwrap();
    let mut at_hub = at_hub;
    assert_eq!(at_hub.session.identity(), &identity(AGENT));
    assert_eq!(at_agent.session.identity(), &identity(HUB));
    assert_eq!((at_hub.hello.kind, &at_hub.hello.body[..]), (HELLO, &b"hello"[..]));
    assert_eq!((at_agent.hello.kind, &at_agent.hello.body[..]), (WELCOME, &b"welcome"[..]));
    let PeerIdentity { serial, .. } = at_hub.session.peer_identity();
    assert_eq!(serial.len(), 32);
    assert_eq!(at_hub.session.remote_address(), agent.local_address().unwrap());

    // The control stream goes on, both ways.
    at_agent.control.writer.send(7, Bytes::from_static(b"up")).await.unwrap();
    assert_eq!(at_hub.control.reader.read().await.unwrap().unwrap().body, &b"up"[..]);
    at_hub.control.writer.send(8, Bytes::from_static(b"down")).await.unwrap();
    assert_eq!(at_agent.control.reader.read().await.unwrap().unwrap().body, &b"down"[..]);

    // A shutdown reaches the peer as such.
    hub.close(CloseCode::Shutdown, "going down for the night").await;
    let error = at_agent.session.closed().await;
    assert!(error.fault() == Fault::Retry && error.to_string().contains("shutdown (1): going down for the night"), "{error}");
    assert!(at_agent.session.reject(at_agent.control.reader.read().await.unwrap_err()).to_string().contains("shutdown (1)"));
    assert!(hub.accept().await.is_none());
}

#[tokio::test]
async fn two_sessions_exchange_frames_of_a_mebibyte_on_both_lanes() {
    const FRAMES: u8 = 8;
    let ours = authority("demo");
    let (hub, address) = hub(good(&ours, HUB));
    let receive = async {
        let mut receivers = Vec::new();
        for _ in 0..2 {
            let established = welcome(&hub).await;
            receivers.push(tokio::spawn(async move {
                let mut lanes = Vec::new();
                for _ in 0..2 {
                    let (lane, mut reader) = established.session.accept_lane().await.unwrap();
                    let mut frames = 0;
                    while let Some(frame) = reader.read().await.unwrap() {
                        assert_eq!((frame.kind, frame.body.len()), (BATCH, 1 << 20));
                        assert!(frame.body.iter().all(|byte| *byte == frames));
                        frames += 1;
                    }
                    assert_eq!(frames, FRAMES);
                    lanes.push(lane);
                }
                // The agent waits for this before it goes.
                established.session.close(CloseCode::Normal, "all received");
                lanes
            }));
        }
        for receiver in receivers {
            assert_eq!(receiver.await.unwrap(), [Lane::Live, Lane::Backlog]);
        }
    };
    let send = async |uri: &str| {
        let established = agent(good(&ours, uri)).connect(address, Some(1), HELLO, Bytes::new()).await.unwrap();
        for lane in [Lane::Live, Lane::Backlog] {
            let mut writer = established.session.open_lane(lane).await.unwrap();
            for number in 0..FRAMES {
                writer.send(BATCH, Bytes::from(vec![number; 1 << 20])).await.unwrap();
            }
            writer.finish();
        }
        assert!(matches!(established.session.closed().await, LinkError::Closed { code: CloseCode::Normal, .. }));
    };
    tokio::join!(receive, send(AGENT), send("anemone://demo/pop/nyc1/agent/b1"));
}

#[tokio::test]
async fn peers_that_break_the_framing_are_closed_and_others_are_not() {
    let (log, _guard) = Log::capture();
    let ours = authority("demo");
    let (hub, address) = hub(good(&ours, HUB));
    let bystander = agent(good(&ours, "anemone://demo/pop/nyc1/agent/b1"));
    let (mut there, here) = tokio::join!(welcome(&hub), bystander.connect(address, Some(1), HELLO, Bytes::new()));
    let mut here = here.unwrap();

    for (bytes, expected, text) in [
        (
            &[0x00, 0x20, 0, 0, 1, BATCH][..],
            CloseCode::ProtocolOversized,
            "frame with a body of 2097150 bytes is over the limit of 1052672",
        ),
        (&[0, 0, 0, 50, 1, BATCH, 1, 2], CloseCode::ProtocolTruncated, "stream ended inside a frame: expected 54 bytes, got 8"),
        (&[0, 0, 0, 2, 77, BATCH], CloseCode::ProtocolVersion, "frame of version 77, this node speaks 1"),
        (b"GET / HTTP/1.1\r\n\r\n", CloseCode::ProtocolOversized, "frame with a body of 1195725854 bytes"),
    ] {
        let culprit = agent(good(&ours, AGENT));
        let (at_hub, at_agent) = tokio::join!(welcome(&hub), culprit.connect(address, Some(1), HELLO, Bytes::new()));
        let at_agent = at_agent.unwrap();
        let mut lane = at_agent.session.open_lane(Lane::Live).await.unwrap();
        lane.stream().write_all(bytes).await.unwrap();
        lane.finish();

        let (_, mut reader) = at_hub.session.accept_lane().await.unwrap();
        let error = at_hub.session.reject(reader.read().await.unwrap_err());
        assert!(error.fault() == Fault::Peer && error.to_string().contains(text) && error.to_string().contains(AGENT), "{error}");
        let LinkError::Closed { code, reason, .. } = at_agent.session.closed().await else { panic!("not closed by the hub") };
        assert_eq!(code, expected);
        assert!(reason.contains(text), "{reason}");
        log.wait_for(&["WARN", "peer broke the protocol", AGENT, text]).await;
    }

    // A kind that only the application can judge.
    let culprit = agent(good(&ours, AGENT));
    let (mut at_hub, at_agent) = tokio::join!(welcome(&hub), culprit.connect(address, Some(1), HELLO, Bytes::new()));
    let mut at_agent = at_agent.unwrap();
    at_agent.control.writer.send(250, Bytes::new()).await.unwrap();
    let kind = at_hub.control.reader.read().await.unwrap().unwrap().kind;
    let _ = at_hub.session.reject(FrameError::UnknownKind { kind });
    assert!(matches!(at_agent.session.closed().await, LinkError::Closed { code: CloseCode::ProtocolMessage, .. }));

    here.control.writer.send(9, Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(there.control.reader.read().await.unwrap().unwrap().body, &b"still here"[..]);
}

#[tokio::test]
async fn strange_streams_and_hellos_are_closed() {
    let (log, _guard) = Log::capture();
    let ours = authority("demo");
    let options = LinkOptions { handshake: Duration::from_millis(300), ..LinkOptions::default() };
    let (hub, address) = hub_with(good(&ours, HUB), options);
    let certificate = issue(&ours, AGENT, When::Now);
    let raw = async || {
        let (endpoint, connection) = raw_session(raw_client(&ours, Some(&certificate), b"anemone/1"), address).await;
        (endpoint, connection.expect("let in by TLS"))
    };
    let code = async |connection: &quinn::Connection| match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => CloseCode::from_number(close.error_code.into_inner()),
        other => panic!("{other}"),
    };

    // A hello that is none.
    let (_endpoint, connection) = raw().await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(b"\xff\xff\xff\xff").await.unwrap();
    assert_eq!(code(&connection).await, CloseCode::ProtocolOversized);
    log.wait_for(&["link not made", AGENT, "over the limit"]).await;

    // A control stream that ends at once.
    let (_endpoint, connection) = raw().await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.finish().unwrap();
    assert_eq!(code(&connection).await, CloseCode::ProtocolTruncated);
    log.wait_for(&["link not made", AGENT, "without a first frame"]).await;

    // No hello at all.
    let (_endpoint, connection) = raw().await;
    assert_eq!(code(&connection).await, CloseCode::Normal);
    log.wait_for(&["link not made", AGENT, "handshake and first frame took longer than 300ms"]).await;

    // A lane nobody knows.
    let (_endpoint, connection) = raw().await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[0, 0, 0, 2, 1, HELLO]).await.unwrap();
    let established = hub.accept().await.unwrap();
    let mut lane = connection.open_uni().await.unwrap();
    lane.write_all(&[42]).await.unwrap();
    let error = established.session.accept_lane().await.unwrap_err();
    assert!(matches!(error, LinkError::UnknownLane { lane: 42, .. }), "{error}");
    assert_eq!(code(&connection).await, CloseCode::ProtocolStream);
    assert_eq!((hub.counts().accepted, hub.counts().failed), (1, 3));
}

#[tokio::test]
async fn accepting_a_lane_may_be_cancelled() {
    let ours = authority("demo");
    let (hub, address) = hub(good(&ours, HUB));
    let (_endpoint, connection) = raw_session(raw_client(&ours, Some(&issue(&ours, AGENT, When::Now)), b"anemone/1"), address).await;
    let connection = connection.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[0, 0, 0, 2, 1, HELLO]).await.unwrap();
    let established = hub.accept().await.unwrap();
    // An empty stream frame cannot be sent, so the stream shows with its lane byte; until then every wait is cancelled.
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(5), established.session.accept_lane()).await.is_err());
    }
    let mut lane = connection.open_uni().await.unwrap();
    lane.write_all(&[1, 0, 0, 0, 3, 1, BATCH, b'x']).await.unwrap();
    let (lane, mut reader) = established.session.accept_lane().await.unwrap();
    assert_eq!((lane, reader.read().await.unwrap().unwrap().body), (Lane::Live, Bytes::from_static(b"x")));
}

#[tokio::test]
async fn connected_means_that_the_hub_has_answered() {
    let ours = authority("demo");
    let (hub, address) = hub(good(&ours, HUB));
    let agent = agent(good(&ours, AGENT));
    let mut connecting = std::pin::pin!(agent.connect(address, None, HELLO, Bytes::new()));
    let mut at_hub = tokio::select! {
        _ = &mut connecting => panic!("connected before the hub said anything"),
        established = hub.accept() => established.unwrap(),
    };
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut connecting).await.is_err());
    at_hub.control.writer.send(WELCOME, Bytes::new()).await.unwrap();
    assert_eq!(connecting.await.unwrap().hello.kind, WELCOME);
}

#[tokio::test]
async fn a_dead_peer_is_noticed_after_the_idle_time() {
    let ours = authority("demo");
    let options = LinkOptions { keep_alive: Duration::from_millis(100), idle: Duration::from_millis(400), ..LinkOptions::default() };
    let (hub, address) = hub_with(good(&ours, HUB), options);
    let relay = std::sync::Arc::new(tokio::net::UdpSocket::bind(anywhere()).await.unwrap());
    let relay_address = relay.local_addr().unwrap();
    let forwarding = tokio::spawn(async move {
        let (mut bytes, mut agent) = ([0; 2048], None);
        loop {
            let (length, from) = relay.recv_from(&mut bytes).await.unwrap();
            let to = if from == address { agent.expect("the agent speaks first") } else { address };
            if from != address {
                agent = Some(from);
            }
            relay.send_to(&bytes[..length], to).await.unwrap();
        }
    });
    let agent = agent(good(&ours, AGENT));
    let (at_hub, at_agent) = tokio::join!(welcome(&hub), agent.connect(relay_address, Some(1), HELLO, Bytes::new()));
    at_agent.as_ref().unwrap();
    // Keep-alives carry a quiet session over several idle times.
    assert!(tokio::time::timeout(Duration::from_millis(1000), at_hub.session.closed()).await.is_err());
    forwarding.abort();
    let error = at_hub.session.closed().await;
    assert!(matches!(error, LinkError::Lost { source: quinn::ConnectionError::TimedOut, .. }) && error.fault() == Fault::Retry, "{error}");
}

#[tokio::test]
async fn handshakes_under_way_are_bounded() {
    let (log, _guard) = Log::capture();
    let ours = authority("demo");
    let (hub, address) = hub_with(good(&ours, HUB), LinkOptions { handshakes: 1, ..LinkOptions::default() });
    // One that never says hello holds the only place.
    let (_endpoint, connection) = raw_session(raw_client(&ours, Some(&issue(&ours, AGENT, When::Now)), b"anemone/1"), address).await;
    let idle = connection.unwrap();
    let agent = agent(good(&ours, AGENT));
    let error = agent.connect(address, Some(1), HELLO, Bytes::new()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Retry, "{error}");
    log.wait_for(&["WARN", "turned away: too many handshakes under way"]).await;
    assert_eq!(hub.counts().overloaded, 1);

    idle.close(0_u32.into(), b"");
    log.wait_for(&["link not made"]).await;
    let (_, connected) = tokio::join!(welcome(&hub), agent.connect(address, Some(1), HELLO, Bytes::new()));
    connected.unwrap();
}
