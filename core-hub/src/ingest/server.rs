//! The QUIC listener for agents, and what its sessions share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anemone_link::{CloseCode, HubEndpoint, LinkError};
use anemone_model::HubId;
use anemone_raft::RaftNode;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::grouper::Grouper;
use super::presence::Presence;
use super::session::{self, SessionError};
use crate::state::HubState;

/// Sessions of one node, at most; an agent has one with each node.
const SESSIONS_MAX: usize = 4096;

/// What all sessions share.
pub struct Ingest {
    /// This node.
    pub hub: HubId,
    /// The Raft group.
    pub raft: RaftNode,
    /// The replicated state.
    pub state: Arc<HubState>,
    /// Who is here.
    pub presence: Arc<Presence>,
    /// Where batches go.
    pub grouper: Grouper,
    /// Where the nodes' QUIC listeners are.
    pub quic_addresses: BTreeMap<HubId, SocketAddr>,
    /// How often heartbeats are sent.
    pub heartbeat: Duration,
}

/// Accepts sessions until cancelled, then says goodbye to each.
pub async fn run(ingest: Arc<Ingest>, endpoint: HubEndpoint, stop: CancellationToken) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = sessions.join_next() => {}
            accepted = endpoint.accept() => match accepted {
                None => break,
                Some(established) if sessions.len() >= SESSIONS_MAX => {
                    let turned_away = ingest.presence.turn_away();
                    tracing::warn!(peer = %established.session.identity(), sessions = sessions.len(), turned_away, "session refused: too many");
                    established.session.close(CloseCode::Overloaded, "this hub node has as many sessions as it takes");
                }
                Some(established) => {
                    sessions.spawn(serve(Arc::clone(&ingest), established, stop.clone()));
                }
            },
        }
    }
    while sessions.join_next().await.is_some() {}
    endpoint.close(CloseCode::Shutdown, "the hub node is shutting down").await;
}

async fn serve(ingest: Arc<Ingest>, established: anemone_link::Established, stop: CancellationToken) {
    let peer = established.session.identity().clone();
    match session::serve(ingest, established, stop).await {
        Ok(()) => tracing::info!(%peer, "session ended"),
        Err(error) if expected(&error) => tracing::info!(%peer, %error, "session ended"),
        Err(error) => tracing::warn!(%peer, %error, "session ended"),
    }
}

/// Whether nobody needs to look: the agent said goodbye, or this side closed the session and said why when it did.
fn expected(error: &SessionError) -> bool {
    let SessionError::Link(error) = error else { return false };
    matches!(
        error,
        LinkError::ClosedHere { .. } | LinkError::Closed { code: CloseCode::Normal | CloseCode::Shutdown | CloseCode::Replaced, .. }
    )
}
