//! The called side of the RPCs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::Stream;
use openraft::error::{Fatal, RaftError};
use openraft::raft::SnapshotResponse;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::proto::raft_server::{Raft as RaftService, RaftServer};
use super::proto::{Answer, AppendRequest, SnapshotPart, VoteRequest};
use super::{IncomingIo, MESSAGE_BYTES_MAX, codec};
use crate::snapshot::{IncomingDirs, SnapshotFiles, receive_files, receive_manifest};
use crate::types::{Raft, Snapshot};

/// A sender of a snapshot that sends nothing for this long is given up.
const STALL: Duration = Duration::from_secs(20);
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 4 << 20;

/// Counters of snapshot transfers into this hub.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) snapshots_received: AtomicU64,
    pub(crate) snapshot_bytes_received: AtomicU64,
}

/// Answers other hubs.
#[derive(Clone)]
pub(crate) struct RaftRpc {
    me: u64,
    raft: Raft,
    incoming: Arc<IncomingDirs>,
    /// One snapshot at a time.
    receiving: Arc<Semaphore>,
    traffic: Arc<Traffic>,
}

impl RaftRpc {
    pub(crate) fn new(me: u64, raft: Raft, incoming: Arc<IncomingDirs>, traffic: Arc<Traffic>) -> Self {
        Self { me, raft, incoming, receiving: Arc::new(Semaphore::new(1)), traffic }
    }

    pub(crate) fn server(self) -> RaftServer<Self> {
        RaftServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn receive_snapshot(&self, mut parts: Streaming<SnapshotPart>) -> Result<SnapshotResponse<u64>, Status> {
        let manifest = receive_manifest(&mut parts, STALL).await?;
        if manifest.to != self.me {
            let reason = format!("snapshot is for hub {}, but this is hub {}: a peer address is wrong", manifest.to, self.me);
            return Err(Status::failed_precondition(reason));
        }
        let my_vote = self.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|e| stopped(&e))?;
        if manifest.vote < my_vote {
            return Ok(SnapshotResponse::new(my_vote));
        }
        let _one = self.receiving.try_acquire().map_err(|_| Status::resource_exhausted("another snapshot is being received"))?;
        let dir = self.incoming.create().map_err(|e| Status::internal(format!("a directory for a received snapshot: {e}")))?;
        let bytes = receive_files(&manifest, &mut parts, dir.path(), STALL).await?;
        self.traffic.snapshots_received.fetch_add(1, Ordering::Relaxed);
        self.traffic.snapshot_bytes_received.fetch_add(bytes, Ordering::Relaxed);
        tracing::info!(snapshot = manifest.meta.snapshot_id, bytes, files = manifest.files.len(), "received a snapshot");
        let snapshot = Snapshot { meta: manifest.meta, snapshot: Box::new(SnapshotFiles::Received(dir)) };
        self.raft.install_full_snapshot(manifest.vote, snapshot).await.map_err(|e| stopped(&e))
    }
}

#[tonic::async_trait]
impl RaftService for RaftRpc {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<Answer>, Status> {
        let rpc = codec::decode_append(self.me, request.into_inner())?;
        let answer = self.raft.append_entries(rpc).await.map_err(|e| failed(&e))?;
        codec::encode_answer(&answer).map(Response::new)
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<Answer>, Status> {
        let rpc = codec::decode_vote(self.me, request.get_ref())?;
        let answer = self.raft.vote(rpc).await.map_err(|e| failed(&e))?;
        codec::encode_answer(&answer).map(Response::new)
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotPart>>) -> Result<Response<Answer>, Status> {
        let answer = self.receive_snapshot(request.into_inner()).await.inspect_err(|status| {
            tracing::warn!(reason = status.message(), "refused a snapshot");
        })?;
        codec::encode_answer(&answer).map(Response::new)
    }
}

fn failed(error: &RaftError<u64>) -> Status {
    Status::unavailable(format!("raft of this hub: {error}"))
}

fn stopped(error: &Fatal<u64>) -> Status {
    Status::unavailable(format!("raft of this hub: {error}"))
}

/// Serves accepted streams until `stop` resolves.
pub(crate) async fn serve<I>(rpc: RaftRpc, incoming: I, stop: impl Future<Output = ()>) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = io::Result<IncomingIo>>,
{
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .serve_with_incoming_shutdown(rpc.server(), incoming, stop)
        .await
}
