//! The calling side of the RPCs, as openraft wants it.
//!
//! Every failure but a time-out is reported as "unreachable": openraft repeats any other failed call at once, without pause.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use openraft::error::{Fatal, NetworkError, PayloadTooLarge, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, RPCTypes};
use rand::Rng;
use tokio::sync::mpsc;
use tonic::Status;

use super::pool::PeerLink;
use super::{codec, unless};
use crate::snapshot::{Manifest, SnapshotFiles, encode_manifest, pump};
use crate::types::{Peer, Snapshot, TypeConfig, Vote};

/// A receiver of a snapshot that takes nothing for this long is given up.
const STALL: Duration = Duration::from_secs(20);
/// Parts of a snapshot read ahead of the network.
const PARTS_AHEAD: usize = 4;
const SNAPSHOT_RETRY_MAX: Duration = Duration::from_secs(10);

type CallError = RPCError<u64, Peer, RaftError<u64>>;

/// Calls one peer.
pub(crate) struct PeerClient {
    link: Arc<PeerLink>,
    install_timeout: Duration,
    /// Snapshots failed in a row.
    snapshots_failed: u32,
}

impl PeerClient {
    pub(super) fn new(link: Arc<PeerLink>, install_timeout: Duration) -> Self {
        Self { link, install_timeout, snapshots_failed: 0 }
    }

    fn unreachable(&self, what: &str, reason: &dyn fmt::Display) -> Unreachable {
        self.link.failed(reason);
        Unreachable::new(&AnyError::error(format!("{what} to hub {} at {}: {reason}", self.link.id, self.link.address)))
    }

    fn refused(&self, what: &str, status: &Status) -> Unreachable {
        self.unreachable(what, &format_args!("{:?}: {}", status.code(), status.message()))
    }

    fn timed_out(&self, action: RPCTypes, vote: &Vote, timeout: Duration) -> CallError {
        self.link.failed(&format_args!("no answer within {timeout:?}"));
        Timeout { action, id: vote.leader_id.node_id, target: self.link.id, timeout }.into()
    }

    async fn send_snapshot(&mut self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<u64>, Unreachable> {
        const WHAT: &str = "snapshot";
        let SnapshotFiles::Exported(export) = *snapshot.snapshot else {
            return Err(self.unreachable(WHAT, &"only exported files can be sent"));
        };
        let files = export.files.iter().map(|file| (file.name.clone(), file.bytes)).collect();
        let manifest = Manifest { to: self.link.id, vote, meta: snapshot.meta, files };
        let first = encode_manifest(&manifest).map_err(|e| self.unreachable(WHAT, &e))?;
        let (tx, mut rx) = mpsc::channel(PARTS_AHEAD);
        let mut client = self.link.bulk.clone();
        let mut call = pin!(client.snapshot(stream::poll_fn(move |context| rx.poll_recv(context))));
        let mut pumping = pin!(pump(first, &export.files, tx, STALL));
        let answer = tokio::select! {
            biased;
            // The receiver may answer early: it refuses, or knows a newer leader.
            answer = &mut call => answer,
            pumped = &mut pumping => match pumped {
                Ok(_) => match tokio::time::timeout(self.install_timeout, call).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(self.unreachable(WHAT, &format_args!("not installed within {:?}", self.install_timeout))),
                },
                // When the receiver ended it, its answer says why.
                Err(error) => match tokio::time::timeout(Duration::from_millis(100), call).await {
                    Ok(Err(status)) => return Err(self.refused(WHAT, &status)),
                    _ => return Err(self.unreachable(WHAT, &error)),
                },
            },
        };
        let answer = answer.and_then(|answer| codec::decode_answer(answer.get_ref())).map_err(|status| self.refused(WHAT, &status))?;
        self.link.answered();
        Ok(answer)
    }
}

impl RaftNetwork<TypeConfig> for PeerClient {
    /// openraft's time-out for this call is the heartbeat interval, however many bytes it carries. A call with several
    /// entries that takes most of it is repeated with half of them.
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        const WHAT: &str = "append";
        let (entries, vote) = (rpc.entries.len() as u64, rpc.vote);
        let message = codec::encode_append(self.link.id, &rpc).map_err(|status| self.refused(WHAT, &status))?;
        drop(rpc);
        let mut client = self.link.entries.clone();
        match tokio::time::timeout(option.soft_ttl(), client.append(message)).await {
            Err(_) if entries > 1 => Err(PayloadTooLarge::new_entries_hint(entries / 2).into()),
            Err(_) => Err(self.timed_out(RPCTypes::AppendEntries, &vote, option.soft_ttl())),
            Ok(Err(status)) => Err(self.refused(WHAT, &status).into()),
            Ok(Ok(answer)) => {
                self.link.answered();
                codec::decode_answer(answer.get_ref()).map_err(|status| self.refused(WHAT, &status).into())
            }
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, CallError> {
        const WHAT: &str = "vote";
        let message = codec::encode_vote(self.link.id, &rpc).map_err(|status| self.refused(WHAT, &status))?;
        let mut client = self.link.entries.clone();
        match tokio::time::timeout(option.hard_ttl(), client.vote(message)).await {
            Err(_) => Err(self.timed_out(RPCTypes::Vote, &rpc.vote, option.hard_ttl())),
            Ok(Err(status)) => Err(self.refused(WHAT, &status).into()),
            Ok(Ok(answer)) => {
                self.link.answered();
                codec::decode_answer(answer.get_ref()).map_err(|status| self.refused(WHAT, &status).into())
            }
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let mut closed = None;
        let (hub, meta) = (self.link.id, snapshot.meta.clone());
        tracing::info!(hub, snapshot = meta.snapshot_id, "sending a snapshot");
        let pause = Duration::from_millis(500).saturating_mul(1 << self.snapshots_failed.min(5)).min(SNAPSHOT_RETRY_MAX);
        let work = async {
            let sent = self.send_snapshot(vote, snapshot).await;
            if let Err(error) = &sent {
                tracing::warn!(hub, snapshot = meta.snapshot_id, %error, retry_in = ?pause, "could not send a snapshot");
                tokio::time::sleep(pause).await;
            }
            sent
        };
        match unless(async { closed = Some(cancel.await) }, work).await {
            Some(Ok(answer)) => {
                self.snapshots_failed = 0;
                tracing::info!(hub, snapshot = meta.snapshot_id, "snapshot installed");
                Ok(answer)
            }
            Some(Err(error)) => {
                self.snapshots_failed += 1;
                Err(error.into())
            }
            None => match closed {
                Some(closed) => Err(closed.into()),
                None => Err(NetworkError::new(&AnyError::error("snapshot was cancelled")).into()),
            },
        }
    }

    /// Short at first and never long: a follower that came back must be heard within an election time-out.
    fn backoff(&self) -> Backoff {
        let steps = [20_u64, 40, 80, 160].into_iter().chain(std::iter::repeat(250));
        Backoff::new(steps.map(|ms| Duration::from_millis(ms + rand::rng().random_range(0..=ms / 4))))
    }
}
