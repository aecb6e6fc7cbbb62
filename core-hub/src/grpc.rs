//! The Raft listener and connector: gRPC inside mutual TLS, hubs only.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anemone_link::{Tls, tls_accept, tls_connect};
use anemone_model::{Identity, Name, Role};
use anemone_raft::{BoxedIo, Connector, IncomingIo, RaftNode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves the other nodes until cancelled.
pub async fn serve(raft: RaftNode, listener: TcpListener, tls: Arc<Tls>, stop: CancellationToken) {
    let incoming = futures_util::stream::unfold(tls_accept(listener, tls, &[Role::Hub]), async |mut incoming| {
        let stream = incoming.accept().await?;
        Some((io::Result::Ok(IncomingIo::new(stream)), incoming))
    });
    if let Err(error) = raft.serve(incoming, stop.cancelled_owned()).await {
        tracing::error!(%error, "the Raft listener failed");
    }
}

/// Opens streams to the other nodes; each must show the certificate of the hub it is taken for.
#[must_use]
pub fn connector(tls: Arc<Tls>, cluster: Name) -> Connector {
    Arc::new(move |id, address| {
        let (tls, cluster) = (Arc::clone(&tls), cluster.clone());
        Box::pin(async move {
            let address: SocketAddr =
                address.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: {e}")))?;
            let stream = tls_connect(address, &tls, &Identity::Hub { cluster, id }).await.map_err(io::Error::other)?;
            Ok(Box::new(stream) as BoxedIo)
        })
    })
}
