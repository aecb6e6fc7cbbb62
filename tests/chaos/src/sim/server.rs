//! The socket: receives in batches, answers each datagram from the address it was sent to, holds delayed replies.
//!
//! One thread, one socket, one scratch buffer. A reply that finds the send buffer full waits for room, so
//! nothing answered is dropped here; delayed replies beyond the bound are dropped and counted.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use serde::{Deserialize, Serialize};
use tokio::{io::Interest, net::UdpSocket, sync::watch, time::Instant};

use super::{
    answer::Scratch,
    device::{Reply, Unanswered},
    fleet::Fleet,
};

/// Most delayed replies held; further ones are dropped and counted.
const DELAYED_MOST: usize = 65_536;
const SOCKET_BUFFER: usize = 8 << 20;

/// Milliseconds since 1970, UTC.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What the simulator has done since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Tallies { $($(#[$doc])* pub $name: u64,)+ }

        #[derive(Debug, Default)]
        pub(crate) struct LiveTallies { $($name: AtomicU64,)+ }

        impl LiveTallies {
            pub(crate) fn read(&self) -> Tallies {
                Tallies { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

tallies! {
    /// Datagrams received.
    requests,
    /// Datagrams sent.
    responses,
    /// Variable bindings in them.
    varbinds,
    /// Datagrams to an address without a device.
    unknown_address,
    /// Datagrams that were no v1 or v2c request.
    malformed_requests,
    /// Requests with the wrong community.
    wrong_community,
    /// Requests to a silent device.
    silent,
    /// Requests lost on purpose.
    lost,
    /// Replies dropped because too many were being delayed.
    delayed_dropped,
    /// Replies the operating system refused.
    send_errors,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

struct Delayed {
    due: Instant,
    order: u64,
    message: Box<[u8]>,
    source: Ipv4Addr,
    destination: SocketAddr,
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// Opens the socket all devices share.
pub(crate) fn open(port: u16) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket.into())
}

/// Answers until told to stop.
pub(crate) struct Server {
    fleet: Arc<Fleet>,
    tallies: Arc<LiveTallies>,
    socket: UdpSocket,
    state: UdpSocketState,
    delayed: BinaryHeap<Reverse<Delayed>>,
    order: u64,
    scratch: Scratch,
}

impl Server {
    /// Needs a running reactor.
    pub(crate) fn new(fleet: Arc<Fleet>, tallies: Arc<LiveTallies>, socket: std::net::UdpSocket) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { fleet, tallies, socket, state, delayed: BinaryHeap::new(), order: 0, scratch: Scratch::default() })
    }

    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut buffers: Vec<Vec<u8>> = (0..BATCH_SIZE).map(|_| vec![0; 65_536]).collect();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        while !*stop.borrow() {
            let due = self.delayed.peek().map(|Reverse(delayed)| delayed.due);
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => self.send_due().await,
                ready = self.socket.readable() => {
                    if ready.is_ok() {
                        self.receive(&mut buffers, &mut metas).await;
                    }
                    // Other tasks of this thread and the stop signal get their turn under full load too.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn receive(&mut self, buffers: &mut [Vec<u8>], metas: &mut [RecvMeta]) {
        let received = {
            let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            self.socket.try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), &mut slices, metas))
        };
        let Ok(received) = received else { return };
        for (buffer, meta) in buffers.iter().zip(&metas[..received]) {
            let Some(IpAddr::V4(asked)) = meta.dst_ip else { continue };
            // Several datagrams of one sender may come merged (UDP_GRO).
            for start in (0..meta.len.max(1)).step_by(meta.stride.max(1)) {
                let datagram = &buffer[start.min(meta.len)..(start + meta.stride).min(meta.len)];
                self.answer(datagram, meta.addr, asked).await;
            }
        }
    }

    async fn answer(&mut self, datagram: &[u8], sender: SocketAddr, asked: Ipv4Addr) {
        let tallies = &self.tallies;
        count(&tallies.requests, 1);
        let Some(device) = self.fleet.by_address(asked) else { return count(&tallies.unknown_address, 1) };
        match device.handle(datagram, now_ms(), &mut self.scratch) {
            Ok(reply) => {
                count(&tallies.varbinds, self.scratch.bindings as u64);
                self.dispatch(reply, sender).await;
            }
            Err(Unanswered::NotARequest) => count(&tallies.malformed_requests, 1),
            Err(Unanswered::WrongCommunity) => count(&tallies.wrong_community, 1),
            Err(Unanswered::Silent) => count(&tallies.silent, 1),
            Err(Unanswered::Lost) => count(&tallies.lost, 1),
        }
    }

    async fn dispatch(&mut self, reply: Reply, destination: SocketAddr) {
        for _ in 0..reply.copies {
            if reply.delay_ms == 0 {
                self.send(self.scratch.response.message(), reply.source, destination).await;
            } else if self.delayed.len() < DELAYED_MOST {
                self.order += 1;
                self.delayed.push(Reverse(Delayed {
                    due: Instant::now() + Duration::from_millis(u64::from(reply.delay_ms)),
                    order: self.order,
                    message: self.scratch.response.message().into(),
                    source: reply.source,
                    destination,
                }));
            } else {
                count(&self.tallies.delayed_dropped, 1);
            }
        }
    }

    async fn send_due(&mut self) {
        let now = Instant::now();
        while self.delayed.peek().is_some_and(|Reverse(delayed)| delayed.due <= now) {
            if let Some(Reverse(delayed)) = self.delayed.pop() {
                self.send(&delayed.message, delayed.source, delayed.destination).await;
            }
        }
    }

    async fn send(&self, message: &[u8], source: Ipv4Addr, destination: SocketAddr) {
        let transmit = Transmit { destination, ecn: None, contents: message, segment_size: None, src_ip: Some(source.into()) };
        loop {
            match self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit)) {
                Ok(()) => return count(&self.tallies.responses, 1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.writable().await.is_err() {
                        return count(&self.tallies.send_errors, 1);
                    }
                }
                Err(_) => return count(&self.tallies.send_errors, 1),
            }
        }
    }
}
