//! QUIC endpoints: hubs accept sessions of agents, agents open sessions to hubs.
//!
//! Promises: a session is given to the caller only once the peer's identity is checked and its first frame is read, on both
//! sides, within one deadline. (QUIC tells a client that it is connected before the server has judged its certificate.)
//! The number of handshakes under way is bounded, and further attempts are turned away and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anemone_model::{HubId, Role};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connecting, ConnectionError, Endpoint, IdleTimeout, Incoming, ServerConfig, TransportConfig, VarInt};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use crate::accept::{self, identity, log, no_certificate, refused};
use crate::close::CloseCode;
use crate::counters::{AcceptCounters, AcceptCounts};
use crate::error::{LinkError, Peer, tls_alert};
use crate::session::{Established, Session, number};
use crate::tls::{Expected, Protocol, Tls};
use crate::verify::Verdict;

/// The TLS alert for a peer that showed no certificate (RFC 8446 section 6.2).
const CERTIFICATE_REQUIRED: u8 = 116;
/// Required by QUIC's client and looked at by nobody: identities are checked, not names, and it is not sent.
const SERVER_NAME: &str = "anemone-hub";
/// Streams of batches one agent may have open: two lanes, and their successors while the old ones drain.
const LANE_STREAMS: u32 = 4;
/// One frame of 1 MiB in flight and the next one under way.
const STREAM_WINDOW: u32 = 2 << 20;
/// All streams of a session together.
const SESSION_WINDOW: u32 = 6 << 20;

/// Times and bounds of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// How often a quiet session is poked, so that NAT keeps the path and a dead peer is noticed.
    pub keep_alive: Duration,
    /// A session that heard nothing for so long is lost.
    pub idle: Duration,
    /// From the first packet to the peer's first frame.
    pub handshake: Duration,
    /// Handshakes under way at once; more are turned away. The same number of sessions may wait to be taken.
    pub handshakes: usize,
}

impl Default for LinkOptions {
    /// Keep-alive 5 s, idle 15 s, handshake 10 s, 256 handshakes.
    fn default() -> Self {
        Self { keep_alive: Duration::from_secs(5), idle: Duration::from_secs(15), handshake: Duration::from_secs(10), handshakes: 256 }
    }
}

impl LinkOptions {
    fn transport(&self, control_streams: u32, lane_streams: u32) -> Arc<TransportConfig> {
        let idle = IdleTimeout::from(VarInt::from_u32(u32::try_from(self.idle.as_millis()).unwrap_or(u32::MAX)));
        let mut transport = TransportConfig::default();
        transport
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(idle))
            .max_concurrent_bidi_streams(control_streams.into())
            .max_concurrent_uni_streams(lane_streams.into())
            .stream_receive_window(STREAM_WINDOW.into())
            .receive_window(SESSION_WINDOW.into())
            .send_window(SESSION_WINDOW.into())
            .datagram_receive_buffer_size(None);
        Arc::new(transport)
    }
}

/// Accepts sessions of agents. Dropping it closes all of them.
#[derive(Debug)]
pub struct HubEndpoint {
    endpoint: Endpoint,
    sessions: Mutex<mpsc::Receiver<Established>>,
    counters: Arc<AcceptCounters>,
    accepting: JoinHandle<()>,
}

/// What the accept loop and its handshakes share.
struct Acceptor {
    tls: Arc<Tls>,
    base: ServerConfig,
    options: LinkOptions,
    counters: Arc<AcceptCounters>,
    sessions: mpsc::Sender<Established>,
}

impl HubEndpoint {
    /// Listens on a UDP address; only agents of our cluster are let in. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Bind`].
    pub fn bind(address: SocketAddr, tls: Arc<Tls>, options: LinkOptions) -> Result<Self, LinkError> {
        let (server, _) = tls.server(Protocol::Anemone, Expected::AnyOf(&[Role::Agent]));
        let mut base = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).expect("ring has the initial cipher suite")));
        base.transport_config(options.transport(1, LANE_STREAMS)).migration(true);
        let endpoint = Endpoint::server(base.clone(), address).map_err(|source| LinkError::Bind { address, source })?;

        let counters = Arc::new(AcceptCounters::default());
        let (sender, sessions) = mpsc::channel(options.handshakes.max(1));
        let acceptor = Arc::new(Acceptor { tls, base, options, counters: Arc::clone(&counters), sessions: sender });
        let accepting = tokio::spawn(accept_loop(endpoint.clone(), acceptor));
        Ok(Self { endpoint, sessions: Mutex::new(sessions), counters, accepting })
    }

    /// The next session of an agent, its hello read; answer it on the control stream. `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Established> {
        self.sessions.lock().await.recv().await
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// [`LinkError::Bind`] when the system cannot tell.
    pub fn local_address(&self) -> Result<SocketAddr, LinkError> {
        local_address(&self.endpoint)
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> AcceptCounts {
        self.counters.counts()
    }

    /// Closes all sessions with this code, accepts no more, and waits until the peers have been told.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        self.endpoint.close(number(code), reason.as_bytes());
        self.endpoint.wait_idle().await;
    }
}

impl Drop for HubEndpoint {
    fn drop(&mut self) {
        self.accepting.abort();
        self.endpoint.close(number(CloseCode::Normal), b"");
    }
}

async fn accept_loop(endpoint: Endpoint, acceptor: Arc<Acceptor>) {
    let permits = Arc::new(Semaphore::new(acceptor.options.handshakes.max(1)));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            acceptor.counters.count_overloaded();
            warn!(peer = %incoming.remote_address(), limit = acceptor.options.handshakes, "turned away: too many handshakes under way");
            incoming.refuse();
            continue;
        };
        let acceptor = Arc::clone(&acceptor);
        tokio::spawn(async move {
            match acceptor.establish(incoming).await {
                Ok(established) => {
                    acceptor.counters.count_accepted();
                    // It fails only when the endpoint is gone, and the session with it.
                    let _ = acceptor.sessions.send(established).await;
                }
                Err(error) => accept::report("sessions", &acceptor.counters, &error),
            }
            drop(permit);
        });
    }
}

impl Acceptor {
    async fn establish(&self, incoming: Incoming) -> Result<Established, LinkError> {
        let address = incoming.remote_address();
        let (server, verdict) = self.tls.server(Protocol::Anemone, Expected::AnyOf(&[Role::Agent]));
        let mut config = self.base.clone();
        config.crypto = Arc::new(QuicServerConfig::try_from(server).expect("ring has the initial cipher suite"));
        let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| failed(address, &verdict, error))?;
        within(self.options.handshake, address, &verdict, async { session(connecting, address, &verdict).await?.accept_control().await })
            .await
    }
}

/// Opens sessions to hubs, all from one UDP socket.
#[derive(Debug)]
pub struct AgentEndpoint {
    endpoint: Endpoint,
    tls: Arc<Tls>,
    options: LinkOptions,
    transport: Arc<TransportConfig>,
}

impl AgentEndpoint {
    /// Uses a local UDP address; port 0 for any. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Bind`].
    pub fn bind(address: SocketAddr, tls: Arc<Tls>, options: LinkOptions) -> Result<Self, LinkError> {
        let endpoint = Endpoint::client(address).map_err(|source| LinkError::Bind { address, source })?;
        // Hubs open no streams.
        Ok(Self { endpoint, tls, options, transport: options.transport(0, 0) })
    }

    /// Connects to a hub, sends `hello` as the first control frame, and resolves when the hub's first frame has been read: only
    /// then has the hub accepted our certificate. With `hub`, any other hub that answers at that address is refused.
    ///
    /// # Errors
    /// [`LinkError::Refused`] when we refuse the hub (logged), [`LinkError::RefusedByPeer`] when it refuses us,
    /// [`LinkError::TimedOut`] when it does not answer in time, and the other ways in which a session fails.
    pub async fn connect(&self, address: SocketAddr, hub: Option<HubId>, kind: u8, hello: Bytes) -> Result<Established, LinkError> {
        let outcome = self.attempt(address, hub, kind, hello).await;
        if let Err(error @ LinkError::Refused { .. }) = &outcome {
            log("sessions", error);
        }
        outcome
    }

    async fn attempt(&self, address: SocketAddr, hub: Option<HubId>, kind: u8, hello: Bytes) -> Result<Established, LinkError> {
        let (client, verdict) = self.tls.client(Protocol::Anemone, hub.map_or(Expected::AnyOf(&[Role::Hub]), Expected::Hub));
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).expect("ring has the initial cipher suite")));
        config.transport_config(Arc::clone(&self.transport));
        let connecting = self.endpoint.connect_with(config, address, SERVER_NAME);
        let connecting = connecting.map_err(|error| LinkError::Connect { address, reason: error.to_string() })?;
        within(self.options.handshake, address, &verdict, async {
            session(connecting, address, &verdict).await?.open_control(kind, hello).await
        })
        .await
    }

    /// The address it uses.
    ///
    /// # Errors
    /// [`LinkError::Bind`] when the system cannot tell.
    pub fn local_address(&self) -> Result<SocketAddr, LinkError> {
        local_address(&self.endpoint)
    }

    /// Closes all sessions with this code and waits until the peers have been told.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        self.endpoint.close(number(code), reason.as_bytes());
        self.endpoint.wait_idle().await;
    }
}

async fn session(connecting: Connecting, address: SocketAddr, verdict: &Verdict) -> Result<Session, LinkError> {
    let connection = connecting.await.map_err(|error| failed(address, verdict, error))?;
    match identity(address, verdict) {
        Ok(peer) => Ok(Session::new(connection, peer)),
        Err(error) => {
            connection.close(number(CloseCode::IdentityRefused), error.to_string().as_bytes());
            Err(error)
        }
    }
}

/// Dropping the attempt when its time is over closes the connection.
async fn within<T>(
    after: Duration,
    address: SocketAddr,
    verdict: &Verdict,
    attempt: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(after, attempt).await.unwrap_or_else(|_| {
        let identity = verdict.get().and_then(|verdict| verdict.as_ref().ok()).map(|peer| Box::new(peer.identity.clone()));
        Err(LinkError::TimedOut { peer: Peer { address, identity }, what: "handshake and first frame", after })
    })
}

/// Why a handshake failed: our refusal, if that was it.
fn failed(address: SocketAddr, verdict: &Verdict, error: ConnectionError) -> LinkError {
    if let Some(refused) = refused(address, verdict) {
        return refused;
    }
    match &error {
        ConnectionError::TransportError(reason) => match tls_alert(u64::from(reason.code)) {
            Some(CERTIFICATE_REQUIRED) => no_certificate(address),
            _ => LinkError::Handshake { peer: Peer { address, identity: None }, reason: reason.to_string() },
        },
        _ => LinkError::from_connection(Peer { address, identity: None }, error),
    }
}

fn local_address(endpoint: &Endpoint) -> Result<SocketAddr, LinkError> {
    endpoint.local_addr().map_err(|source| LinkError::Bind { address: SocketAddr::from(([0, 0, 0, 0], 0)), source })
}
