//! How hubs reach each other: gRPC over whatever the caller's [`Connector`] opens (mutual TLS in production).
//!
//! One connection to a peer carries heartbeats, entries and votes, a second one snapshots, so that bulk never delays a
//! heartbeat. Connections are opened when needed, reused, probed by HTTP/2 pings and reopened with backoff.

mod client;
mod codec;
mod pool;
mod service;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;
use tonic::transport::server::Connected;

pub(crate) use pool::Network;
pub(crate) use service::{RaftRpc, Traffic, serve};

/// The generated messages and stubs of `proto/raft.proto`.
#[expect(unreachable_pub, unused_qualifications, reason = "generated from proto/raft.proto, which is commented")]
pub(crate) mod proto {
    tonic::include_proto!("anemone.raft.v1");
}

/// Version written into every message.
pub(crate) const MESSAGE_VERSION: u32 = 1;
/// Largest message accepted, in bytes: entries are packed to 4 MiB, a single one may be larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Most bytes of entries in one append, unless a single entry is larger.
pub(crate) const APPEND_BYTES_MAX: usize = 4 << 20;
pub(crate) const MANIFEST: &str = "snapshot manifest";

/// A byte stream between two hubs.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any [`Io`].
pub type BoxedIo = Box<dyn Io>;

/// Opens an authenticated stream to the hub with the given id at `host:port`. Sets TCP_NODELAY where it is TCP.
pub type Connector = Arc<dyn Fn(u64, String) -> BoxFuture<'static, io::Result<BoxedIo>> + Send + Sync>;

/// An accepted stream, in the form tonic wants.
pub struct IncomingIo(BoxedIo);

impl IncomingIo {
    /// `io` is authenticated already; TCP_NODELAY is set where it is TCP.
    pub fn new(io: impl Io + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl fmt::Debug for IncomingIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IncomingIo")
    }
}

impl Connected for IncomingIo {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for IncomingIo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for IncomingIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// Refuses a message of a version this build does not speak.
pub(crate) fn check_version(what: &str, found: u32) -> Result<(), Status> {
    if found == MESSAGE_VERSION {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("{what} of version {found}; this build speaks version {MESSAGE_VERSION}")))
}

/// What a future resolves to, or `None` when `cancel` resolves first.
pub(crate) async fn unless<T>(cancel: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = cancel => None,
        done = work => Some(done),
    }
}
