//! The engine against a UDP peer that answers rightly, wrongly, twice, late, from elsewhere, or not at all.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod snmp_fake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use csnmp::message::{BindingValue, ErrorStatus, Snmp2cMessage, Snmp2cPdu};
use csnmp::{ObjectIdentifier, ObjectValue};
use edge_agent::collector::snmp::ber::{self, ValueView};
use edge_agent::collector::snmp::engine::{Engine, EngineCounts, EngineOptions, ExchangeError, Response};
use edge_agent::collector::snmp::request::{Ask, EncodedRequest};
use snmp_fake::response;
use tokio::net::UdpSocket;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(60);

fn request() -> EncodedRequest {
    let uptime: ObjectIdentifier = "1.3.6.1.2.1.1.3.0".parse().unwrap();
    EncodedRequest::new(b"public", Ask::Get, [uptime]).unwrap()
}

fn id_of(datagram: &[u8]) -> i32 {
    Snmp2cMessage::try_from_bytes(datagram).unwrap().pdu.request_id()
}

fn answer(request_id: i32, ticks: u32) -> Vec<u8> {
    let value = BindingValue::Value(ObjectValue::TimeTicks(ticks));
    response(request_id, ErrorStatus::NoError, 0, vec![(snmp_fake::oid("1.3.6.1.2.1.1.3.0"), value)])
}

fn ticks(response: &Response) -> u32 {
    match ber::read(response.datagram()).unwrap().varbinds().next().unwrap().unwrap().value().unwrap() {
        ValueView::TimeTicks(ticks) => ticks,
        other => panic!("{other:?}"),
    }
}

async fn peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn engine(options: EngineOptions) -> Engine {
    Engine::new(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()], options).unwrap()
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut datagram = vec![0; 2000];
    let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
    datagram.truncate(length);
    (datagram, from)
}

/// Waits until the counters are as `wanted` says.
async fn until(engine: &Engine, wanted: impl Fn(&EngineCounts) -> bool) {
    let reached = tokio::time::timeout(LONG, async {
        while !wanted(&engine.counts()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(reached.await.is_ok(), "{:?}", engine.counts());
}

#[tokio::test]
async fn a_reply_reaches_its_request() {
    let engine = engine(EngineOptions::default());
    assert!(engine.receive_buffers().iter().all(|bytes| *bytes > 0));
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let device = UdpSocket::bind(local).await.unwrap();
        let address = device.local_addr().unwrap();
        let serve = async {
            let (datagram, from) = receive(&device).await;
            device.send_to(&answer(id_of(&datagram), 42), from).await.unwrap();
        };
        let request = request();
        let (reply, ()) = tokio::join!(engine.exchange(address, &request, LONG), serve);
        let reply = reply.unwrap();
        assert_eq!(ticks(&reply), 42);
        assert!(reply.received_ms > 1_600_000_000_000 && reply.round_trip < LONG);
    }
    let counts = engine.counts();
    assert_eq!((counts.sent, counts.received, counts.matched), (2, 2, 2));
    assert_eq!(engine.in_flight(), 0);
}

/// A name, what a bad peer sends before the right answer, and the counter that must show it.
type Trick = (&'static str, fn(id: i32) -> Vec<u8>, fn(&EngineCounts) -> u64);

#[tokio::test]
async fn what_is_no_reply_is_counted_and_never_delivered() {
    let tricks: [Trick; 6] = [
        ("another id", |id| answer(if id == i32::MAX { id - 1 } else { id + 1 }, 666), |c| c.unknown_request),
        ("noise", |_| b"GET / HTTP/1.1\r\n".to_vec(), |c| c.malformed),
        ("a cut answer", |id| answer(id, 666)[..30].to_vec(), |c| c.malformed),
        ("trailing bytes", |id| [&answer(id, 666)[..], &[0]].concat(), |c| c.malformed),
        (
            "a request instead",
            |id| {
                let mut d = answer(id, 666);
                d[13] = 0xa0;
                d
            },
            |c| c.unexpected_pdu,
        ),
        (
            "another version",
            |id| {
                let mut d = answer(id, 666);
                d[4] = 0;
                d
            },
            |c| c.unexpected_pdu,
        ),
    ];
    for (what, trick, counter) in tricks {
        let engine = engine(EngineOptions::default());
        let (device, address) = peer().await;
        let serve = async {
            let (datagram, from) = receive(&device).await;
            device.send_to(&trick(id_of(&datagram)), from).await.unwrap();
            device.send_to(&answer(id_of(&datagram), 42), from).await.unwrap();
        };
        let request = request();
        let (reply, ()) = tokio::join!(engine.exchange(address, &request, LONG), serve);
        assert_eq!(ticks(&reply.unwrap()), 42, "{what}");
        assert_eq!((counter(&engine.counts()), engine.counts().matched), (1, 1), "{what}: {:?}", engine.counts());
    }
}

#[tokio::test]
async fn a_reply_from_elsewhere_is_not_delivered() {
    let engine = engine(EngineOptions::default());
    let ((device, address), (stranger, _)) = (peer().await, peer().await);
    let serve = async {
        let (datagram, from) = receive(&device).await;
        stranger.send_to(&answer(id_of(&datagram), 666), from).await.unwrap();
        until(&engine, |counts| counts.wrong_source == 1).await;
        device.send_to(&answer(id_of(&datagram), 42), from).await.unwrap();
    };
    let request = request();
    let (reply, ()) = tokio::join!(engine.exchange(address, &request, LONG), serve);
    assert_eq!(ticks(&reply.unwrap()), 42);
}

#[tokio::test]
async fn late_and_duplicate_replies_do_not_answer_a_retry() {
    let engine = engine(EngineOptions::default());
    let (device, address) = peer().await;
    let request = request();
    let error = engine.exchange(address, &request, SHORT).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Timeout { malformed: None, .. }), "{error}");
    let serve = async {
        let (first, from) = receive(&device).await;
        let (second, _) = receive(&device).await;
        assert_ne!(id_of(&first), id_of(&second), "a retry has an id of its own");
        device.send_to(&answer(id_of(&first), 1), from).await.unwrap();
        until(&engine, |counts| counts.unknown_request == 1).await;
        device.send_to(&answer(id_of(&second), 2), from).await.unwrap();
        device.send_to(&answer(id_of(&second), 3), from).await.unwrap();
    };
    let (reply, ()) = tokio::join!(engine.exchange(address, &request, LONG), serve);
    assert_eq!(ticks(&reply.unwrap()), 2);
    until(&engine, |counts| counts.unknown_request == 2).await;
    assert_eq!((engine.counts().timed_out, engine.counts().matched, engine.in_flight()), (1, 1, 0));
}

#[tokio::test]
async fn a_time_out_names_the_malformed_reply() {
    let engine = engine(EngineOptions::default());
    let (device, address) = peer().await;
    let serve = async {
        let (_, from) = receive(&device).await;
        device.send_to(&[0x30, 0x80, 0, 0], from).await.unwrap();
    };
    let request = request();
    let (outcome, ()) = tokio::join!(engine.exchange(address, &request, Duration::from_millis(400)), serve);
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("message at byte 0: indefinite length"), "{text}");
}

#[tokio::test]
async fn requests_in_flight_and_waiting_are_bounded() {
    let engine = engine(EngineOptions { in_flight_max: 2, waiting_max: 1, ..EngineOptions::default() });
    let (_device, address) = peer().await;
    let request = request();
    let exchange = || engine.exchange(address, &request, SHORT);
    let outcomes = tokio::join!(exchange(), exchange(), exchange(), exchange());
    let outcomes = [outcomes.0, outcomes.1, outcomes.2, outcomes.3].map(|outcome| outcome.unwrap_err());
    assert_eq!(outcomes.iter().filter(|error| matches!(error, ExchangeError::Timeout { .. })).count(), 3);
    assert!(matches!(outcomes[3], ExchangeError::Busy { waiting: 1 }));
    assert_eq!((engine.counts().busy, engine.counts().sent), (1, 3));
}

#[tokio::test]
async fn a_dropped_exchange_leaves_nothing_behind() {
    let engine = engine(EngineOptions { in_flight_max: 1, ..EngineOptions::default() });
    let (device, address) = peer().await;
    let request = request();
    tokio::select! {
        _ = engine.exchange(address, &request, LONG) => panic!("nobody answers"),
        _ = receive(&device) => {}
    }
    assert_eq!(engine.in_flight(), 0);
    let error = engine.exchange(address, &request, SHORT).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Timeout { .. }), "the slot is free again: {error}");
}

#[tokio::test]
async fn an_address_family_without_a_socket_is_refused() {
    let engine = Engine::new(&["127.0.0.1:0".parse().unwrap()], EngineOptions::default()).unwrap();
    let error = engine.exchange("[::1]:161".parse().unwrap(), &request(), LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "no socket of the address family of [::1]:161");
    let locals = ["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    assert!(Engine::new(&locals, EngineOptions::default()).is_err());
}

#[tokio::test]
async fn a_thousand_exchanges_share_the_socket() {
    let engine = engine(EngineOptions { in_flight_max: 64, ..EngineOptions::default() });
    let (device, address) = peer().await;
    let answered = Arc::new(AtomicUsize::new(0));
    let server = tokio::spawn(async move {
        loop {
            let (datagram, from) = receive(&device).await;
            let Snmp2cPdu::GetRequest(pdu) = Snmp2cMessage::try_from_bytes(&datagram).unwrap().pdu else { panic!("a Get") };
            device.send_to(&answer(pdu.request_id, pdu.request_id.cast_unsigned()), from).await.unwrap();
        }
    });
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let (engine, answered) = (engine.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                let reply = engine.exchange(address, &request(), LONG).await.unwrap();
                let message = ber::read(reply.datagram()).unwrap();
                assert_eq!(ticks(&reply), message.request_id.cast_unsigned());
                answered.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    server.abort();
    assert_eq!((answered.load(Ordering::Relaxed), engine.counts().matched), (1000, 1000));
}
