//! One node of the group: starts openraft on the stores, proposes, watches leadership, seals.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anemone_log::LogOptions;
use bytes::Bytes;
use futures_util::Stream;
use openraft::LogIdOptionExt;
use openraft::error::{CheckIsLeaderError, ClientWriteError, InitializeError, RaftError as CoreError};
use tokio::sync::{Semaphore, watch};
use tonic::codegen::{Service, http};

use crate::config::RaftConfig;
use crate::error::{ProposeError, RaftError};
use crate::network::{Connector, IncomingIo, Network, RaftRpc, Traffic, serve};
use crate::sealing::{LogUse, Step, next_step};
use crate::snapshot::IncomingDirs;
use crate::state::StateMachine;
use crate::status::{self, Leadership, RaftStatus};
use crate::store::{LogStore, Machine};
use crate::types::{Command, Metrics, Raft};

/// How often the log is looked at for sealing, and the commit index is written.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Unit of the proposal queue, in bytes.
const PERMIT_BYTES: usize = 1024;

/// A running node. Clones are handles to the same; the node stops with [`RaftNode::shutdown`] or with its runtime.
#[derive(Clone)]
pub struct RaftNode {
    shared: Arc<Shared>,
}

struct Shared {
    config: RaftConfig,
    raft: Raft,
    log: LogStore,
    rpc: RaftRpc,
    /// Room in the queue of proposals, in units of [`PERMIT_BYTES`].
    queue: Arc<Semaphore>,
    refused: AtomicU64,
    traffic: Arc<Traffic>,
    leadership: watch::Receiver<Leadership>,
    sealed_below: watch::Receiver<u64>,
}

impl RaftNode {
    /// Starts from what is in `config.dir`; on an empty one, the cluster is formed or joined in the background. Returns once
    /// what was committed before is applied again; a leader need not be known yet.
    ///
    /// # Errors
    /// A configuration, directory or log that cannot be used; see [`RaftError`].
    pub async fn start(config: RaftConfig, state: Arc<dyn StateMachine>, connector: Connector) -> Result<Self, RaftError> {
        let core_config = Arc::new(config.openraft()?);
        let incoming = Arc::new(prepare_dir(&config.dir)?);
        let (sealed_tx, sealed_below) = watch::channel(0);
        let machine = Machine::open(state, Arc::clone(&incoming), sealed_tx)?;
        let options = LogOptions { segment_bytes: config.segment_bytes(), max_record_bytes: 9 << 20, ..LogOptions::default() };
        let log = LogStore::open(&config.dir.join("log"), options, config.id, machine.applied(), sealed_below.clone()).await?;
        let (purged, sealed) = (log.size().first, machine.applied().next_index());
        if purged > sealed {
            return Err(RaftError::StateLost { purged_below: purged, sealed_below: sealed });
        }
        let network = Network::new(connector, config.peers.clone(), config.install_timeout);
        let raft = Raft::new(config.id, core_config, network, log.clone(), machine).await;
        let raft = raft.map_err(|e| RaftError::Fatal(e.to_string()))?;
        tokio::spawn(form_cluster(raft.clone(), config.clone()));
        let traffic = Arc::new(Traffic::default());
        let rpc = RaftRpc::new(config.id, raft.clone(), incoming, Arc::clone(&traffic));
        let queue = Arc::new(Semaphore::new(config.queue_bytes as usize / PERMIT_BYTES));
        let leadership = watch_leadership(&raft, config.quorum_lost_after());
        tokio::spawn(keep_house(raft.clone(), log.clone(), sealed_below.clone(), config.seal_log_bytes));
        let refused = AtomicU64::new(0);
        Ok(Self { shared: Arc::new(Shared { config, raft, log, rpc, queue, refused, traffic, leadership, sealed_below }) })
    }

    /// Answers other hubs on accepted, authenticated streams until `stop` resolves.
    ///
    /// # Errors
    /// A failure of the server as a whole; a broken stream ends only itself.
    pub async fn serve(
        &self,
        incoming: impl Stream<Item = io::Result<IncomingIo>> + Send,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), RaftError> {
        Ok(serve(self.shared.rpc.clone(), incoming, stop).await?)
    }

    /// The bare gRPC service, for a server built elsewhere; [`RaftNode::serve`] sets windows and keep-alives as well.
    pub fn service(
        &self,
    ) -> impl Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + tonic::server::NamedService
    + Clone
    + Send
    + Sync
    + 'static {
        self.shared.rpc.clone().server()
    }

    /// Replicates `command` and returns what the state machine answered, once it is durable on a majority and applied here.
    ///
    /// # Errors
    /// See [`ProposeError`]. After [`ProposeError::Timeout`] and after losing leadership it may or may not have been applied,
    /// so commands carry an identity that makes repeating them harmless. Dropping the future does not withdraw it.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let limit = self.shared.config.proposal_bytes_max;
        if command.len() > limit {
            return Err(ProposeError::TooLarge { bytes: command.len(), limit });
        }
        let permits = u32::try_from(command.len() / PERMIT_BYTES + 1).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.shared.queue).try_acquire_many_owned(permits) else {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err(ProposeError::Busy);
        };
        let raft = self.shared.raft.clone();
        // openraft's own queue has no bound: the permit is held until it has really let go, whoever still waits.
        let writing = tokio::spawn(async move {
            let written = raft.client_write(Command(command)).await;
            drop(permit);
            written
        });
        match tokio::time::timeout(self.shared.config.timeout, writing).await {
            Err(_) => Err(ProposeError::Timeout),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Ok(Ok(Ok(written))) => Ok(written.data.0),
            Ok(Ok(Err(CoreError::APIError(ClientWriteError::ForwardToLeader(to))))) => {
                Err(ProposeError::NotLeader { leader: to.leader_id })
            }
            Ok(Ok(Err(_))) => Err(ProposeError::Stopped),
        }
    }

    /// Waits until this leader has applied everything that was committed anywhere when this was called: reads of the state
    /// machine after that are linearizable. Returns the index of the last entry that counts.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::Timeout`] when no majority confirms the leadership, [`ProposeError::Stopped`].
    pub async fn read_index(&self) -> Result<u64, ProposeError> {
        match tokio::time::timeout(self.shared.config.timeout, self.shared.raft.ensure_linearizable()).await {
            Err(_) | Ok(Err(CoreError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => Err(ProposeError::Timeout),
            Ok(Ok(read)) => Ok(read.index().unwrap_or_default()),
            Ok(Err(CoreError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => Err(ProposeError::NotLeader { leader: to.leader_id }),
            Ok(Err(CoreError::Fatal(_))) => Err(ProposeError::Stopped),
        }
    }

    /// Who leads; changes at most a few times a second.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// This hub.
    pub fn id(&self) -> u64 {
        self.shared.config.id
    }

    /// Everything at one glance. Cheap.
    pub fn status(&self) -> RaftStatus {
        let metrics = metrics(&self.shared.raft);
        let size = self.shared.log.size();
        RaftStatus {
            committed: size.committed.index(),
            sealed: self.shared.sealed_below.borrow().checked_sub(1),
            purged: size.first.checked_sub(1),
            log_bytes: size.stats.live_bytes,
            proposals_refused: self.shared.refused.load(Ordering::Relaxed),
            snapshots_received: self.shared.traffic.snapshots_received.load(Ordering::Relaxed),
            snapshot_bytes_received: self.shared.traffic.snapshot_bytes_received.load(Ordering::Relaxed),
            ..status::from_metrics(&metrics, self.shared.config.quorum_lost_after())
        }
    }

    /// Seals the state machine soon, whatever the size of the log.
    ///
    /// # Errors
    /// Raft has stopped.
    pub async fn seal(&self) -> Result<(), RaftError> {
        self.shared.raft.trigger().snapshot().await.map_err(|e| RaftError::Fatal(e.to_string()))
    }

    /// Resolves when Raft has stopped: `Ok` after [`RaftNode::shutdown`], else why it failed. A hub whose raft failed should
    /// exit; it recovers when it starts again.
    ///
    /// # Errors
    /// What Raft failed on: a disk, a damaged record, a state machine that could not seal or import.
    pub async fn stopped(&self) -> Result<(), RaftError> {
        let mut metrics = self.shared.raft.metrics();
        loop {
            if let Err(fatal) = metrics.borrow_and_update().running_state.clone() {
                return match fatal {
                    openraft::error::Fatal::Stopped => Ok(()),
                    other => Err(RaftError::Fatal(other.to_string())),
                };
            }
            if metrics.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Stops taking part, flushes and releases the log. State that was not sealed is applied again from the log at the next
    /// start.
    ///
    /// # Errors
    /// The commit index could not be written; harmless.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        let joined = self.shared.raft.shutdown().await;
        self.shared.log.close().await?;
        joined.map_err(|e| RaftError::Fatal(e.to_string()))
    }
}

fn prepare_dir(dir: &Path) -> Result<IncomingDirs, RaftError> {
    let failed = |source| RaftError::Dir { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    IncomingDirs::open(dir).map_err(failed)
}

/// A copy, so that the watch is not held while it is used.
fn metrics(raft: &Raft) -> Metrics {
    raft.metrics().borrow().clone()
}

/// Forms the cluster unless it is formed already. Any hub can do it, since all would write the same first entry, but one that
/// does so beside a leader makes it step down. So only the first starts at once; the others give a leader time to reach them.
async fn form_cluster(raft: Raft, config: RaftConfig) {
    let before = config.peers.keys().take_while(|id| **id < config.id).count();
    let patience = config.election.1 * 2 * u32::try_from(before).unwrap_or(u32::MAX);
    let alone_until = tokio::time::Instant::now() + patience;
    loop {
        match raft.is_initialized().await {
            Ok(false) if tokio::time::Instant::now() < alone_until => tokio::time::sleep(config.heartbeat / 2).await,
            Ok(false) => break,
            Ok(true) | Err(_) => return,
        }
    }
    match raft.initialize(config.peers).await {
        Ok(()) => tracing::info!(hub = config.id, "formed the cluster"),
        Err(CoreError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => tracing::error!(hub = config.id, %error, "could not form the cluster"),
    }
}

fn watch_leadership(raft: &Raft, quorum_lost_after: Duration) -> watch::Receiver<Leadership> {
    let mut changes = raft.metrics();
    let (sender, receiver) = watch::channel(status::leadership(&metrics(raft), quorum_lost_after));
    tokio::spawn(async move {
        loop {
            let ended = changes.changed().await.is_err();
            let metrics = changes.borrow_and_update().clone();
            let mut seen = status::leadership(&metrics, quorum_lost_after);
            if ended {
                seen = Leadership { term: seen.term, leader: None, me: false };
            }
            sender.send_if_modified(|known| std::mem::replace(known, seen) != seen);
            if ended {
                return;
            }
        }
    });
    receiver
}

/// Seals and purges by bytes, and writes the commit index, until Raft stops.
async fn keep_house(raft: Raft, log: LogStore, sealed_below: watch::Receiver<u64>, seal_log_bytes: u64) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = log.save_commit_index().await {
            tracing::warn!(%error, "could not write the commit index");
        }
        let metrics = metrics(&raft);
        let size = log.size();
        let log_use = LogUse {
            purged: size.first,
            sealed: *sealed_below.borrow(),
            applied: metrics.last_applied.next_index(),
            end: size.end,
            bytes: size.stats.live_bytes,
        };
        let done = match next_step(log_use, seal_log_bytes) {
            Step::Wait => Ok(()),
            Step::Seal => raft.trigger().snapshot().await,
            Step::Purge(upto) => raft.trigger().purge_log(upto).await,
        };
        if done.is_err() || metrics.running_state.is_err() {
            return;
        }
    }
}
