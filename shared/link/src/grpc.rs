//! TCP streams over mutual TLS, as gRPC between hubs uses them. Knows nothing of gRPC but its ALPN name.
//!
//! Promises: a stream is given to the caller only after its peer's identity has been checked; handshakes have a deadline and
//! their number is bounded (further connections wait in the kernel's backlog); small writes are not delayed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anemone_model::{Identity, Role};
use futures_util::Stream;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::warn;

use crate::accept::{self, identity, log, no_certificate, refused};
use crate::counters::{AcceptCounters, AcceptCounts};
use crate::error::{LinkError, Peer};
use crate::identity::PeerIdentity;
use crate::tls::{Expected, Protocol, Tls};
use crate::verify::Verdict;

/// Connecting and the handshake, each side.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; the same number of streams may wait to be taken.
const HANDSHAKES: usize = 64;
/// After an error of the listening socket (no file descriptors left): before trying again.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// An authenticated stream.
#[derive(Debug)]
pub struct TlsStream {
    stream: tokio_rustls::TlsStream<TcpStream>,
    peer: PeerIdentity,
    address: SocketAddr,
}

impl TlsStream {
    /// Who the peer is.
    #[must_use]
    pub fn peer_identity(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Where the peer is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.address
    }

    /// With TLS 1.3 a server judges the client after the client believes to be connected: a refusal shows at the first read.
    fn explain(&self, error: io::Error) -> io::Error {
        let Some(rustls::Error::AlertReceived(alert)) = tls_error(&error) else { return error };
        let peer = Peer { address: self.address, identity: Some(Box::new(self.peer.identity.clone())) };
        let explained = LinkError::from_alert(peer, u8::from(*alert), "");
        log("grpc", &explained);
        io::Error::new(io::ErrorKind::ConnectionAborted, explained)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        outcome.map_err(|error| self.explain(error))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The authenticated streams of a listener. Dropping it stops listening; streams handed out live on.
#[derive(Debug)]
pub struct TlsIncoming {
    streams: mpsc::Receiver<TlsStream>,
    counters: Arc<AcceptCounters>,
    accepting: JoinHandle<()>,
}

impl TlsIncoming {
    /// The next stream; `None` never comes while the listener lives.
    pub async fn accept(&mut self) -> Option<TlsStream> {
        self.streams.recv().await
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> AcceptCounts {
        self.counters.counts()
    }

    /// The counters, for when the stream itself is given away to a server.
    #[must_use]
    pub fn counters(&self) -> Arc<AcceptCounters> {
        Arc::clone(&self.counters)
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.streams.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

impl Drop for TlsIncoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts on a listener; only peers of our cluster that hold one of `roles` are let in. To be called inside a tokio runtime.
/// Refused peers are logged and counted and never seen by the caller.
#[must_use]
pub fn tls_accept(listener: TcpListener, tls: Arc<Tls>, roles: &'static [Role]) -> TlsIncoming {
    let counters = Arc::new(AcceptCounters::default());
    let (sender, streams) = mpsc::channel(HANDSHAKES);
    let accepting = tokio::spawn(accept_loop(listener, tls, roles, sender, Arc::clone(&counters)));
    TlsIncoming { streams, counters, accepting }
}

async fn accept_loop(
    listener: TcpListener,
    tls: Arc<Tls>,
    roles: &'static [Role],
    streams: mpsc::Sender<TlsStream>,
    counters: Arc<AcceptCounters>,
) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(link = "grpc", %error, "accept on the listening socket failed");
                sleep(LISTEN_PAUSE).await;
                continue;
            }
        };
        let (tls, streams, counters) = (Arc::clone(&tls), streams.clone(), Arc::clone(&counters));
        tokio::spawn(async move {
            match serve(tcp, address, &tls, roles).await {
                Ok(stream) => {
                    counters.count_accepted();
                    // It fails only when nobody accepts any more; the stream is then closed.
                    let _ = streams.send(stream).await;
                }
                Err(error) => accept::report("grpc", &counters, &error),
            }
            drop(permit);
        });
    }
}

async fn serve(tcp: TcpStream, address: SocketAddr, tls: &Tls, roles: &'static [Role]) -> Result<TlsStream, LinkError> {
    let (config, verdict) = tls.server(Protocol::Http2, Expected::AnyOf(roles));
    let handshake = async {
        tcp.set_nodelay(true)?;
        TlsAcceptor::from(config).accept(tcp).await
    };
    let stream = within(address, &verdict, handshake).await?;
    Ok(TlsStream { stream: stream.into(), peer: identity(address, &verdict)?, address })
}

/// Connects to `address` and lets only `expected`, a peer of our cluster, answer. TLS 1.3 lets a client believe to be connected
/// before the server has judged it: such a refusal comes from the first read, as an [`io::Error`] that holds the [`LinkError`].
///
/// # Errors
/// [`LinkError::Connect`], [`LinkError::TimedOut`], [`LinkError::Refused`] when we refuse the peer (logged),
/// [`LinkError::RefusedByPeer`], [`LinkError::Handshake`].
pub async fn tls_connect(address: SocketAddr, tls: &Tls, expected: &Identity) -> Result<TlsStream, LinkError> {
    let (config, verdict) = tls.client(Protocol::Http2, Expected::Exactly(expected.clone()));
    let peer = Peer { address, identity: None };
    let tcp = match timeout(HANDSHAKE_DEADLINE, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(LinkError::Connect { address, reason: error.to_string() }),
        Err(_) => return Err(LinkError::TimedOut { peer, what: "connecting", after: HANDSHAKE_DEADLINE }),
    };
    let handshake = async {
        tcp.set_nodelay(true)?;
        TlsConnector::from(config).connect(ServerName::IpAddress(address.ip().into()), tcp).await
    };
    match within(address, &verdict, handshake).await {
        Ok(stream) => Ok(TlsStream { stream: stream.into(), peer: identity(address, &verdict)?, address }),
        Err(error) => {
            if matches!(error, LinkError::Refused { .. }) {
                log("grpc", &error);
            }
            Err(error)
        }
    }
}

async fn within<T>(address: SocketAddr, verdict: &Verdict, handshake: impl Future<Output = io::Result<T>>) -> Result<T, LinkError> {
    let peer = Peer { address, identity: None };
    match timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(refused(address, verdict).unwrap_or_else(|| match tls_error(&error) {
            Some(rustls::Error::NoCertificatesPresented) => no_certificate(address),
            Some(rustls::Error::AlertReceived(alert)) => LinkError::from_alert(peer, u8::from(*alert), ""),
            _ => LinkError::Handshake { peer, reason: error.to_string() },
        })),
        Err(_) => Err(LinkError::TimedOut { peer, what: "TLS handshake", after: HANDSHAKE_DEADLINE }),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
