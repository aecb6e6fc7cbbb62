//! Running a hub node: config, build, serve, drain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anemone_link::{Credentials, HubEndpoint, LinkOptions, Tls};
use anemone_model::{HubId, Identity};
use anemone_query::source::{AnnotatedSource, Source};
use anemone_raft::{Peer, RaftConfig, RaftNode};
use anemone_store::StoreOptions;
use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Api};
use crate::assign::{duty, liveness::Patience};
use crate::config::{Config, PeerAddress};
use crate::grpc;
use crate::ingest::grouper::Grouper;
use crate::ingest::presence::Presence;
use crate::ingest::server::{self, Ingest};
use crate::query::{CurrentStore, Freshness};
use crate::state::HubState;
use crate::upkeep;

/// How long a node may take to stop after it was told to.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is not usable, a file or address cannot be opened, or Raft stopped.
pub fn run(config: &Path) -> Result<()> {
    let config = Config::load(config)?;
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("hub").build().context("start the runtime")?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ANEMONE_LOG").unwrap_or_else(|_| "info,openraft=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
}

async fn serve(config: Config) -> Result<()> {
    let own = config.own().clone();
    let tls = load_identity(&config)?;
    let state_dir = config.node.data_dir.join("state");
    let options = StoreOptions { max_series: u32::MAX - 1, ..StoreOptions::default() };
    let state = Arc::new(tokio::task::spawn_blocking(move || HubState::open(&state_dir, options)).await.context("open the state")??);
    let raft_listener = TcpListener::bind(own.raft).await.with_context(|| format!("listen for Raft on {}", own.raft))?;
    let http_listener = TcpListener::bind(own.http).await.with_context(|| format!("listen for HTTP on {}", own.http))?;
    let endpoint = HubEndpoint::bind(own.quic, Arc::clone(&tls), LinkOptions::default())?;

    let raft = start_raft(&config, Arc::clone(&state), Arc::clone(&tls)).await?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(grpc::serve(raft.clone(), raft_listener, tls, stop.clone()));
    let presence = Arc::new(Presence::default());
    let patience =
        Patience { dark_after: Duration::from_millis(config.ingest.dark_after_ms), grace: Duration::from_millis(config.ingest.grace_ms) };
    tasks.spawn(duty::run(raft.clone(), Arc::clone(&state), Arc::clone(&presence), patience, stop.clone()));
    tasks.spawn(upkeep::run(Arc::clone(&state), Duration::from_secs(config.store.retention_hours.saturating_mul(3600)), stop.clone()));
    let ingest = Arc::new(Ingest {
        hub: own.id,
        raft: raft.clone(),
        state: Arc::clone(&state),
        presence: Arc::clone(&presence),
        grouper: Grouper::start(raft.clone(), Arc::clone(&state), config.ingest.queue_bytes),
        quic_addresses: addresses(&config, |p| p.quic),
        heartbeat: config.ingest.heartbeat(),
    });
    tasks.spawn(server::run(ingest, endpoint, stop.clone()));
    let router = build_router(&config, &raft, &state, presence)?;
    let stopped = stop.clone();
    let http = axum::serve(http_listener, router.into_make_service_with_connect_info::<SocketAddr>());
    tasks.spawn(async move {
        if let Err(error) = http.with_graceful_shutdown(stopped.cancelled_owned()).await {
            tracing::error!(%error, "the HTTP listener failed");
        }
    });
    tracing::info!(hub = own.id, http = %own.http, quic = %own.quic, raft = %own.raft, "hub node is running");

    let outcome = tokio::select! {
        signal = termination() => signal,
        stopped = raft.stopped() => stopped.context("Raft failed"),
    };
    drain(&stop, &tasks, &raft).await;
    outcome
}

fn load_identity(config: &Config) -> Result<Arc<Tls>> {
    let credentials = Credentials::load(&config.tls.cert, &config.tls.key, &config.tls.ca)?;
    let expected = Identity::Hub { cluster: config.node.cluster.clone(), id: config.node.id };
    if *credentials.identity() != expected {
        bail!("{} is of {}, but the configuration is of {expected}", config.tls.cert.display(), credentials.identity());
    }
    Ok(Tls::new(credentials)?)
}

fn addresses(config: &Config, of: impl Fn(&PeerAddress) -> SocketAddr) -> BTreeMap<HubId, SocketAddr> {
    config.peers.iter().map(|peer| (peer.id, of(peer))).collect()
}

async fn start_raft(config: &Config, state: Arc<HubState>, tls: Arc<Tls>) -> Result<RaftNode> {
    let peer = |p: &PeerAddress| Peer { raft: p.raft.to_string(), quic: p.quic.to_string(), http: format!("http://{}", p.http) };
    let peers = config.peers.iter().map(|p| (p.id, peer(p))).collect();
    let mut raft_config = RaftConfig::new(config.node.id, config.node.data_dir.join("raft"), peers);
    raft_config.seal_log_bytes = config.store.seal_log_bytes;
    Ok(RaftNode::start(raft_config, state, grpc::connector(tls, config.node.cluster.clone())).await?)
}

fn build_router(config: &Config, raft: &RaftNode, state: &Arc<HubState>, presence: Arc<Presence>) -> Result<axum::Router> {
    let read_token = |path: &std::path::PathBuf| {
        let token = std::fs::read_to_string(path).with_context(|| format!("cannot read [admin] token_file {}", path.display()))?;
        match token.trim() {
            "" => bail!("[admin] token_file {} is empty", path.display()),
            token => Ok(token.to_owned()),
        }
    };
    let api = Api {
        hub: config.node.id,
        raft: raft.clone(),
        state: Arc::clone(state),
        presence,
        http_addresses: addresses(config, |p| p.http),
        admin_token: config.admin.token_file.as_ref().map(read_token).transpose()?,
    };
    let held: Arc<dyn Source> = Arc::new(CurrentStore::new(Arc::clone(state)));
    let freshness = Freshness::new(Arc::clone(state), raft.clone());
    Ok(api::router(Arc::new(api), Arc::new(AnnotatedSource::new(held, Arc::new(freshness)))))
}

async fn termination() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for SIGINT")?,
    }
    Ok(())
}

/// Stops taking in, then Raft; what is not done by the deadline is left to recovery, which must work anyway.
async fn drain(stop: &CancellationToken, tasks: &TaskTracker, raft: &RaftNode) {
    tracing::info!("stopping");
    stop.cancel();
    tasks.close();
    let in_order = async {
        tasks.wait().await;
        if let Err(error) = raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
    };
    match tokio::time::timeout(DRAIN, in_order).await {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!(tasks = tasks.len(), "not everything stopped within {DRAIN:?}; leaving it"),
    }
}
