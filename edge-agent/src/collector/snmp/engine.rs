//! Exchanges datagrams with all devices of a thread over one UDP socket per address family.
//!
//! ```text
//! exchange() -> slot (bounded, waiters bounded) -> fresh random request id -> try_send_to
//!                                                        |
//!      Response <- oneshot <- pending[request id] <- receive task <- try_recv_from until it would block
//! ```
//!
//! A reply is delivered only to the request whose id it carries, only from the address that was asked, and only while that request
//! waits. Everything else is counted by reason and dropped: a late or duplicate reply can never become a sample. There is no
//! allocation per varbind: a reply is one copy into a pooled buffer. Retries are the caller's, each an exchange of its own with an id
//! of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::task::AbortHandle;

use super::ber::{self, BerError, PduType, Version};
use super::request::{EncodedRequest, REQUEST_IDS};
use crate::clock::now_ms;

mod counters;
pub use counters::{EngineCounters, EngineCounts};

/// Largest UDP payload, so that no datagram is ever cut by the buffer.
const DATAGRAM_MAX: usize = 65_535;
/// Buffers of larger capacity are not kept for reuse.
const POOLED_CAPACITY_MAX: usize = 4096;
/// Datagrams read in one turn before other tasks get one.
const RECEIVE_BURST: usize = 128;

/// Sizes of an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Receive buffer asked of the kernel per socket, in bytes; what it gave is in [`Engine::receive_buffers`].
    pub receive_buffer_bytes: usize,
    /// Most requests in flight at once.
    pub in_flight_max: usize,
    /// Most exchanges that wait for a slot; further ones fail with [`ExchangeError::Busy`].
    pub waiting_max: usize,
    /// Most idle buffers kept.
    pub pooled_buffers_max: usize,
}

impl Default for EngineOptions {
    /// 4 MiB, 1024 in flight, 16384 waiting, 1024 buffers.
    fn default() -> Self {
        Self { receive_buffer_bytes: 4 << 20, in_flight_max: 1024, waiting_max: 16_384, pooled_buffers_max: 1024 }
    }
}

/// Why an exchange has no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No valid reply in time.
    #[error("no answer from {target} within {waited:?}{}", .malformed.map(|e| format!(" (a malformed one was dropped: {e})")).unwrap_or_default())]
    Timeout {
        /// Who was asked.
        target: SocketAddr,
        /// How long was waited.
        waited: Duration,
        /// The fault of the last malformed datagram from that address meanwhile, if there was one.
        malformed: Option<BerError>,
    },
    /// The request could not be sent.
    #[error("cannot send to {target}: {source}")]
    Send {
        /// Who was to be asked.
        target: SocketAddr,
        /// The socket's error.
        source: io::Error,
    },
    /// The engine has no socket of the target's address family.
    #[error("no socket of the address family of {target}")]
    AddressFamily {
        /// Who was to be asked.
        target: SocketAddr,
    },
    /// Too many exchanges are waiting already.
    #[error("{waiting} exchanges are waiting for a slot already")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The engine was closed.
    #[error("the engine was closed")]
    Cancelled,
}

/// A reply: a whole, well-framed v2c Response PDU with the id of the request.
pub struct Response {
    buffer: Vec<u8>,
    pool: Weak<Shared>,
    /// When it was received, in milliseconds since 1970 UTC.
    pub received_ms: i64,
    /// From sending to receiving.
    pub round_trip: Duration,
}

impl Response {
    /// The datagram.
    #[must_use]
    pub fn datagram(&self) -> &[u8] {
        &self.buffer
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Response({} bytes after {:?})", self.buffer.len(), self.round_trip)
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        if let Some(shared) = self.pool.upgrade() {
            shared.recycle(std::mem::take(&mut self.buffer));
        }
    }
}

/// The shared sockets. Cheap to clone; the last clone closes them. Meant for one thread, safe from several.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    _receivers: Arc<Receivers>,
}

struct Receivers(Vec<AbortHandle>);

impl Drop for Receivers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

struct Shared {
    v4: Option<Lane>,
    v6: Option<Lane>,
    options: EngineOptions,
    slots: Semaphore,
    waiting: AtomicUsize,
    pending: Mutex<Pending>,
    pool: Mutex<Vec<Vec<u8>>>,
    counters: EngineCounters,
}

#[derive(Clone)]
struct Lane {
    socket: Arc<UdpSocket>,
    receive_buffer_bytes: usize,
}

#[derive(Default)]
struct Pending {
    by_id: HashMap<u32, Waiter>,
    /// The newest request per source, to tell it of malformed replies.
    by_source: HashMap<Source, u32>,
}

struct Waiter {
    source: Source,
    sent: Instant,
    reply: oneshot::Sender<Response>,
    malformed: Option<BerError>,
}

/// An address without IPv6 flow label and scope, which a reply need not repeat.
type Source = (IpAddr, u16);

fn source_of(address: SocketAddr) -> Source {
    (address.ip(), address.port())
}

impl Engine {
    /// Binds one socket per address of `locals` (at most one per address family) and starts to receive.
    ///
    /// # Errors
    /// A socket cannot be made or bound, or two addresses are of one family. Must be called within a tokio runtime.
    pub fn new(locals: &[SocketAddr], options: EngineOptions) -> io::Result<Self> {
        let (mut v4, mut v6) = (None, None);
        for local in locals {
            let place = if local.is_ipv4() { &mut v4 } else { &mut v6 };
            if place.is_some() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a second local address of one family: {local}")));
            }
            *place = Some(Lane::bind(*local, options.receive_buffer_bytes)?);
        }
        let shared = Arc::new(Shared {
            v4,
            v6,
            slots: Semaphore::new(options.in_flight_max),
            options,
            waiting: AtomicUsize::new(0),
            pending: Mutex::default(),
            pool: Mutex::default(),
            counters: EngineCounters::default(),
        });
        let lanes = [&shared.v4, &shared.v6].into_iter().flatten();
        let receivers = lanes.map(|lane| tokio::spawn(receive(Arc::clone(&lane.socket), Arc::downgrade(&shared))).abort_handle()).collect();
        Ok(Self { shared, _receivers: Arc::new(Receivers(receivers)) })
    }

    /// Receive buffers the kernel gave, in bytes, per socket; Linux counts its own overhead in and so gives twice what it granted.
    #[must_use]
    pub fn receive_buffers(&self) -> Vec<usize> {
        [&self.shared.v4, &self.shared.v6].into_iter().flatten().map(|lane| lane.receive_buffer_bytes).collect()
    }

    /// Addresses the sockets are bound to.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        [&self.shared.v4, &self.shared.v6].into_iter().flatten().filter_map(|lane| lane.socket.local_addr().ok()).collect()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> EngineCounts {
        self.shared.counters.read()
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.pending().by_id.len()
    }

    /// Sends `request` with a fresh id and waits for its reply, at most `timeout` from the moment it is sent.
    ///
    /// Dropping the future forgets the request; its reply is then late.
    ///
    /// # Errors
    /// [`ExchangeError`]. All but `Cancelled` and `AddressFamily` may pass when tried again.
    pub async fn exchange(&self, target: SocketAddr, request: &EncodedRequest, timeout: Duration) -> Result<Response, ExchangeError> {
        let shared = &*self.shared;
        let lane = if target.is_ipv4() { &shared.v4 } else { &shared.v6 };
        let lane = lane.as_ref().ok_or(ExchangeError::AddressFamily { target })?;
        let _slot = shared.slot().await?;
        let (ticket, reply) = shared.register(target);
        let answered = tokio::time::timeout(timeout, async {
            shared.send(lane, target, request, ticket.request_id).await.map_err(|source| ExchangeError::Send { target, source })?;
            reply.await.map_err(|_| ExchangeError::Cancelled)
        });
        match answered.await {
            Ok(Err(error)) => {
                if matches!(error, ExchangeError::Send { .. }) {
                    shared.counters.send_failed.add();
                }
                Err(error)
            }
            Ok(reply) => reply,
            Err(_) => {
                shared.counters.timed_out.add();
                Err(ExchangeError::Timeout { target, waited: timeout, malformed: ticket.malformed() })
            }
        }
    }
}

impl Lane {
    fn bind(local: SocketAddr, receive_buffer_bytes: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        // The kernel caps what it gives at net.core.rmem_max without an error; what it gave is reported.
        socket.set_recv_buffer_size(receive_buffer_bytes)?;
        socket.bind(&local.into())?;
        let receive_buffer_bytes = socket.recv_buffer_size()?;
        Ok(Self { socket: Arc::new(UdpSocket::from_std(socket.into())?), receive_buffer_bytes })
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // No code of ours panics while it holds the lock; the maps stay usable even then.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn slot(&self) -> Result<SemaphorePermit<'_>, ExchangeError> {
        if let Ok(permit) = self.slots.try_acquire() {
            return Ok(permit);
        }
        let waiting = WaitingCount::enter(&self.waiting);
        if waiting.before >= self.options.waiting_max {
            self.counters.busy.add();
            return Err(ExchangeError::Busy { waiting: waiting.before });
        }
        self.slots.acquire().await.map_err(|_| ExchangeError::Cancelled)
    }

    fn register(&self, target: SocketAddr) -> (Ticket<'_>, oneshot::Receiver<Response>) {
        let (sender, receiver) = oneshot::channel();
        let source = source_of(target);
        let mut pending = self.pending();
        let request_id = loop {
            let id = rand::random_range(REQUEST_IDS);
            if !pending.by_id.contains_key(&id) {
                break id;
            }
        };
        pending.by_id.insert(request_id, Waiter { source, sent: Instant::now(), reply: sender, malformed: None });
        pending.by_source.insert(source, request_id);
        (Ticket { shared: self, source, request_id }, receiver)
    }

    async fn send(&self, lane: &Lane, target: SocketAddr, request: &EncodedRequest, request_id: u32) -> io::Result<()> {
        let mut datagram = self.buffer();
        request.write(request_id, &mut datagram);
        let sent = loop {
            match lane.socket.try_send_to(&datagram, target) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => lane.socket.writable().await?,
                other => break other,
            }
        };
        self.recycle(datagram);
        self.counters.sent.add();
        sent.map(drop)
    }

    fn buffer(&self) -> Vec<u8> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(|| Vec::with_capacity(1536))
    }

    fn recycle(&self, buffer: Vec<u8>) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() <= POOLED_CAPACITY_MAX && pool.len() < self.options.pooled_buffers_max {
            pool.push(buffer);
        }
    }

    fn deliver(self: &Arc<Self>, datagram: &[u8], from: SocketAddr) {
        self.counters.received.add();
        let source = source_of(from);
        let message = match ber::read(datagram) {
            Ok(message) => message,
            Err(fault) => return self.malformed(source, fault),
        };
        if message.pdu != PduType::Response || message.version != Version::V2c {
            return self.counters.unexpected_pdu.add();
        }
        let mut pending = self.pending();
        let id = message.request_id.cast_unsigned();
        match pending.by_id.get(&id) {
            None => return self.counters.unknown_request.add(),
            Some(waiter) if waiter.source != source => return self.counters.wrong_source.add(),
            Some(_) => {}
        }
        let Some(waiter) = pending.remove(id) else { return };
        drop(pending);
        let mut buffer = self.buffer();
        buffer.clear();
        buffer.extend_from_slice(datagram);
        let response = Response { buffer, pool: Arc::downgrade(self), received_ms: now_ms(), round_trip: waiter.sent.elapsed() };
        match waiter.reply.send(response) {
            Ok(()) => self.counters.matched.add(),
            Err(_gone) => self.counters.unknown_request.add(),
        }
    }

    fn malformed(&self, source: Source, fault: BerError) {
        self.counters.malformed.add();
        let mut pending = self.pending();
        if let Some(id) = pending.by_source.get(&source).copied()
            && let Some(waiter) = pending.by_id.get_mut(&id)
        {
            waiter.malformed = Some(fault);
        }
    }
}

impl Pending {
    fn remove(&mut self, request_id: u32) -> Option<Waiter> {
        let waiter = self.by_id.remove(&request_id)?;
        if self.by_source.get(&waiter.source) == Some(&request_id) {
            self.by_source.remove(&waiter.source);
        }
        Some(waiter)
    }
}

/// Holds a request's place among the pending ones; gives it up when dropped.
struct Ticket<'a> {
    shared: &'a Shared,
    source: Source,
    request_id: u32,
}

impl Ticket<'_> {
    fn malformed(&self) -> Option<BerError> {
        self.shared.pending().by_id.get(&self.request_id).filter(|waiter| waiter.source == self.source)?.malformed
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(self.request_id);
    }
}

struct WaitingCount<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> WaitingCount<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for WaitingCount<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads datagrams until the engine is gone.
async fn receive(socket: Arc<UdpSocket>, shared: Weak<Shared>) {
    let mut datagram = vec![0; DATAGRAM_MAX];
    while socket.readable().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        for _ in 0..RECEIVE_BURST {
            match socket.try_recv_from(&mut datagram) {
                Ok((length, from)) => shared.deliver(&datagram[..length], from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier send; the socket is still good.
                Err(_) => shared.counters.receive_failed.add(),
            }
        }
        drop(shared);
        tokio::task::yield_now().await;
    }
}
