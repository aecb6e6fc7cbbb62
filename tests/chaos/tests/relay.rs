//! The relay between plain UDP sockets.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anemone_chaos::relay::{Direction, Fault, Relay};
use tokio::net::UdpSocket;

const PATIENCE: Duration = Duration::from_secs(5);

/// A target that returns every datagram, and a relay to it.
async fn echo() -> (Relay, tokio::task::JoinHandle<()>) {
    let target = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = target.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, sender)) = target.recv_from(&mut buffer).await {
            target.send_to(&buffer[..length], sender).await.expect("sent");
        }
    });
    (Relay::start(local(), address).await.expect("starts"), task)
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

async fn client(relay: &Relay) -> UdpSocket {
    let socket = UdpSocket::bind(local()).await.expect("a socket");
    socket.connect(relay.address()).await.expect("connected");
    socket
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("received");
    buffer.truncate(length);
    buffer
}

async fn round_trip(socket: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    socket.send(datagram).await.expect("sent");
    receive(socket).await
}

/// Waits until the relay has seen so many datagrams of clients.
async fn until_received(relay: &Relay, count: u64) {
    let started = Instant::now();
    while relay.tallies()[0].received < count {
        assert!(started.elapsed() < PATIENCE, "{:?}", relay.tallies());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn clients_are_kept_apart_and_large_datagrams_pass() {
    let (relay, _target) = echo().await;
    let clients = [client(&relay).await, client(&relay).await, client(&relay).await];
    for (number, client) in (0_u8..).zip(&clients) {
        client.send(&[number; 10]).await.expect("sent");
    }
    for (number, client) in (0_u8..).zip(&clients) {
        assert_eq!(receive(client).await, [number; 10]);
    }
    let large: Vec<u8> = (0..60_000).map(|n: u32| n as u8).collect();
    assert_eq!(round_trip(&clients[0], &large).await, large);
    let [to_target, to_client] = relay.tallies();
    assert_eq!((to_target.received, to_target.forwarded, to_client.forwarded), (4, 4, 4));
}

#[tokio::test]
async fn a_cut_stops_everything_also_what_is_held_and_healing_restores_it() {
    let (relay, _target) = echo().await;
    let client = client(&relay).await;
    relay.set(Direction::ToTarget, Fault { delay_ms: 300, ..Fault::default() });
    client.send(b"held").await.expect("sent");
    until_received(&relay, 1).await;
    relay.set(Direction::Both, Fault { cut: true, ..Fault::default() });
    client.send(b"cut").await.expect("sent");
    until_received(&relay, 2).await;
    let started = Instant::now();
    while relay.tallies()[0].cut < 2 {
        assert!(started.elapsed() < PATIENCE, "{:?}", relay.tallies());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    relay.set(Direction::Both, Fault::default());
    assert_eq!(round_trip(&client, b"healed").await, b"healed", "nothing from before the cut comes first");
    assert_eq!(relay.faults(), [Fault::default(); 2]);
}

#[tokio::test]
async fn delay_applies_to_its_direction() {
    let (relay, _target) = echo().await;
    let client = client(&relay).await;
    relay.set(Direction::ToClient, Fault { delay_ms: 120, jitter_ms: 20, ..Fault::default() });
    let started = Instant::now();
    round_trip(&client, b"slow").await;
    assert!(started.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn loss_and_duplication_are_counted_to_the_last_datagram() {
    let (relay, _target) = echo().await;
    let client = client(&relay).await;
    relay.set(Direction::ToTarget, Fault { loss: 0.5, ..Fault::default() });
    relay.set(Direction::ToClient, Fault { duplicate: 1.0, ..Fault::default() });
    for number in 0..200_u8 {
        client.send(&[number]).await.expect("sent");
        until_received(&relay, u64::from(number) + 1).await;
    }
    let started = Instant::now();
    while relay.tallies()[0].lost + relay.tallies()[0].forwarded < 200 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let passed = relay.tallies()[0].forwarded;
    assert!((60..140).contains(&passed), "{passed}");
    let mut seen = BTreeSet::new();
    for _ in 0..2 * passed {
        seen.insert(receive(&client).await);
    }
    assert_eq!(seen.len() as u64, passed);
    assert_eq!(relay.tallies()[1].duplicated, passed);
}

#[tokio::test]
async fn a_target_that_is_away_for_a_while_is_found_again() {
    let reserved = UdpSocket::bind(local()).await.expect("a socket");
    let address = reserved.local_addr().expect("an address");
    drop(reserved);
    let relay = Relay::start(local(), address).await.expect("starts");
    let client = client(&relay).await;
    client.send(b"to nobody").await.expect("sent");
    until_received(&relay, 1).await;
    let target = UdpSocket::bind(address).await.expect("the same port");
    client.send(b"to somebody").await.expect("sent");
    let mut buffer = [0; 100];
    loop {
        let (length, _) = tokio::time::timeout(PATIENCE, target.recv_from(&mut buffer)).await.expect("in time").expect("received");
        if &buffer[..length] == b"to somebody" {
            return;
        }
    }
}
