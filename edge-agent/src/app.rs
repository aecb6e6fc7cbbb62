//! Builds the agent from its config, runs it, and takes it down in the order in which data flows.
//!
//! ```text
//! actix system (this thread) and one arbiter per poll thread: shards
//! tokio multi-thread runtime: coordinator, uplink, http
//! threads: batcher, spool writer, upkeep of the local store       (bridged by bounded channels)
//! ```

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Arbiter, System};
use anemone_link::{AgentEndpoint, Credentials, CredentialsError, LinkError, LinkOptions, Tls};
use anemone_model::{AgentId, Identity};
use anemone_wire::control::AgentLoad;
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{self, AgentState, ApiError};
use crate::batch::{Batcher, SinkHandle};
use crate::clock;
use crate::config::Config;
use crate::fleet::{Coordinator, FleetHandle, ORDERS_QUEUED, Order, ShardParts, run_shard};
use crate::local::{LocalError, LocalStore};
use crate::profiles::{ProfileError, Profiles};
use crate::spool::{Spool, SpoolError, WriterEnd};
use crate::uplink::assignment::{self, Assignment};
use crate::uplink::{SharedStatus, Uplink, UplinkParts};
use crate::vital::{VitalFailure, Vitals};

/// How long taking the agent down may last, all of it.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);
/// Threads of the tokio runtime.
const RUNTIME_THREADS: usize = 2;
/// Bytes of the spool that are replayed before polling begins; more is replayed beside it.
const REPLAY_FIRST: u64 = 256 << 20;

/// Why the agent could not start, or ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The certificate files are not usable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificate is of somebody else.
    #[error("the certificate {path} is of {found}, the config says agent {wanted}")]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who this agent is by its config.
        wanted: AgentId,
    },
    /// The data directory cannot be made.
    #[error("cannot create the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no thread, runtime or signal handler.
    #[error("cannot start {what}: {source}")]
    System {
        /// What was to be started.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The local store cannot be had.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The spool cannot be had.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The QUIC endpoint cannot be had.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The HTTP API cannot be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The profiles are wrong.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Something that must not fail did.
    #[error(transparent)]
    Vital(#[from] VitalFailure),
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> AppError {
    move |source| AppError::System { what, source }
}

/// Runs the agent until it is told to stop or something vital fails. Blocks the thread.
///
/// # Errors
/// It cannot start, or something vital failed.
pub fn run(config: Config) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().thread_name("agent").build();
    let runtime = runtime.map_err(system("the runtime"))?;
    let actors = System::new();
    let outcome = App::build(config, &runtime).and_then(|app| {
        let running = runtime.spawn(app.run());
        actors.block_on(running).unwrap_or_else(|error| Err(VitalFailure { name: "agent", reason: error.to_string() }.into()))
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// The agent, ready to run.
struct App {
    agent: AgentId,
    local: Arc<LocalStore>,
    spool: Arc<Spool>,
    sink: SinkHandle,
    fleet: FleetHandle,
    coordinator: Coordinator,
    uplink: Uplink,
    status: SharedStatus,
    listener: TcpListener,
    certificate_until: String,
    load: watch::Sender<AgentLoad>,
    heartbeat: Duration,
    threads: Threads,
    arbiters: Vec<Arbiter>,
    vitals: Vitals,
    failures: mpsc::Receiver<VitalFailure>,
    stops: Stops,
}

/// What each stage waits for, so that they stop one after the other.
#[derive(Default)]
struct Stops {
    fleet: CancellationToken,
    uplink: CancellationToken,
    http: CancellationToken,
}

struct Threads {
    batcher: JoinHandle<()>,
    writer: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

impl App {
    fn build(config: Config, runtime: &Runtime) -> Result<Self, AppError> {
        let credentials = credentials(&config)?;
        let certificate_until = credentials.not_after().to_owned();
        let profiles = Arc::new(Profiles::built_in()?);
        let listener = runtime.block_on(api::listen(config.http))?;
        let http = listener.local_addr().unwrap_or(config.http);
        std::fs::create_dir_all(&config.data_dir).map_err(|source| AppError::DataDir { path: config.data_dir.clone(), source })?;
        let (vitals, failures) = Vitals::new();
        let (local, spool) = open_stores(&config, runtime, &vitals)?;
        let (batcher, sink) = Batcher::new(config.batch.clone(), Arc::clone(&local), Arc::clone(&spool));
        let threads = Threads::start(&vitals, batcher, &spool, &local, runtime.handle())?;
        let stops = Stops::default();

        let assignment_file = config.data_dir.join("assignment.cbor");
        let assignment = watch::Sender::new(Arc::new(last_assignment(&assignment_file)));
        let parts = ShardParts { in_flight_max: config.poll.max_in_flight, sink: Arc::new(sink.clone()), profiles };
        let (arbiters, shards) = start_shards(config.poll.threads, &parts, &vitals);
        let (coordinator, fleet, applied) = Coordinator::new(shards, Arc::clone(&local), assignment.subscribe());

        let load = watch::Sender::new(AgentLoad::default());
        let (uplink, status) = {
            let _runtime = runtime.enter();
            let options = LinkOptions { handshake: config.link.connect_timeout, ..LinkOptions::default() };
            let tls = Tls::new(credentials)?;
            let endpoint = endpoint(&tls, options)?;
            let parts = UplinkParts {
                agent: config.agent.clone(),
                http: format!("http://{http}"),
                hubs: config.hubs,
                timing: config.link.clone(),
                endpoint,
                spool: Arc::clone(&spool),
                load: load.subscribe(),
                assignment,
                assignment_file,
                applied,
            };
            Uplink::start(parts, stops.uplink.clone())
        };
        Ok(Self {
            agent: config.agent,
            local,
            spool,
            sink,
            fleet,
            coordinator,
            uplink,
            status,
            listener,
            certificate_until,
            load,
            heartbeat: config.link.heartbeat,
            threads,
            arbiters,
            vitals,
            failures,
            stops,
        })
    }

    async fn run(self) -> Result<(), AppError> {
        let Self { local, spool, sink, fleet, stops, vitals, threads, mut failures, .. } = self;
        let state = Arc::new(AgentState {
            agent: self.agent.clone(),
            started_ms: clock::now_ms(),
            certificate_until: self.certificate_until,
            local: Arc::clone(&local),
            spool: Arc::clone(&spool),
            batcher: sink.clone(),
            uplink: self.status,
            fleet: fleet.clone(),
        });
        let http = self.listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let serving = api::serve(self.listener, api::router(state), stops.http.clone());
        let reporting = vitals.clone();
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                reporting.report("http api", error.to_string());
            }
        });
        let coordinator = vitals.task("fleet", self.coordinator.run(stops.fleet.clone()));
        let uplink = vitals.task("uplink", self.uplink.run());
        tokio::spawn(tell_load(self.load, Arc::clone(&spool), fleet.clone(), self.heartbeat, stops.uplink.clone()));
        tracing::info!(agent = %self.agent, http, epoch = spool.epoch(), version = env!("CARGO_PKG_VERSION"), "agent runs");

        tokio::select! {
            signal = stop_signal() => tracing::info!(signal = signal.map_err(system("the signal handler"))?, "stopping"),
            Some(failure) = failures.recv() => return Err(failure.into()),
        }
        let deadline = Instant::now() + SHUTDOWN_DEADLINE;
        let shutdown = shut_down(&stops, &local, &spool, &sink, threads, coordinator, uplink, deadline);
        if tokio::time::timeout_at(deadline.into(), shutdown).await.is_err() {
            let status = spool.status();
            let (parts, next) = (status.waiting_parts, status.next);
            tracing::error!(deadline = ?SHUTDOWN_DEADLINE, parts, next, "not everything stopped in time; what was not flushed is lost");
        }
        for arbiter in self.arbiters {
            arbiter.stop();
        }
        tracing::info!("agent stopped");
        Ok(())
    }
}

/// Follows the data: polling, batches, spool, local store, sessions.
#[expect(clippy::too_many_arguments, reason = "one call; every stage by its name")]
async fn shut_down(
    stops: &Stops,
    local: &Arc<LocalStore>,
    spool: &Arc<Spool>,
    sink: &SinkHandle,
    threads: Threads,
    coordinator: tokio::task::JoinHandle<()>,
    uplink: tokio::task::JoinHandle<()>,
    deadline: Instant,
) {
    stops.fleet.cancel();
    ended("polling", coordinator.await);
    sink.close();
    ended("the batcher", joined(threads.batcher).await);
    let draining = Arc::clone(spool);
    let left = tokio::task::spawn_blocking(move || draining.drain(deadline)).await.unwrap_or_default();
    if left > 0 {
        tracing::error!(batches = left, "batches could not be written and are lost");
    }
    local.close();
    threads.upkeep.thread().unpark();
    stops.uplink.cancel();
    ended("the uplink", uplink.await);
    ended("the local store", joined(threads.upkeep).await);
    spool.close();
    ended("the spool", joined(threads.writer).await);
    spool.release().await;
    stops.http.cancel();
}

fn ended(stage: &str, outcome: Result<(), impl std::fmt::Display>) {
    match outcome {
        Ok(()) => tracing::debug!(stage, "stopped"),
        Err(error) => tracing::error!(stage, %error, "stopped with an error"),
    }
}

async fn joined(thread: JoinHandle<()>) -> Result<(), String> {
    let joined = tokio::task::spawn_blocking(move || thread.join().map_err(|panic| crate::vital::panic_message(&*panic))).await;
    joined.map_err(|error| error.to_string()).and_then(|outcome| outcome)
}

async fn stop_signal() -> std::io::Result<&'static str> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT"),
    }
}

/// Keeps what goes out with heartbeats fresh.
async fn tell_load(load: watch::Sender<AgentLoad>, spool: Arc<Spool>, fleet: FleetHandle, every: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(every);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => drop(load.send_replace(api::load(&spool, &fleet))),
        }
    }
}

fn credentials(config: &Config) -> Result<Credentials, AppError> {
    let credentials = Credentials::load(&config.tls.cert, &config.tls.key, &config.tls.ca)?;
    match credentials.identity() {
        Identity::Agent { agent, .. } if *agent == config.agent => Ok(credentials),
        found => Err(AppError::Identity { path: config.tls.cert.clone(), found: found.clone(), wanted: config.agent.clone() }),
    }
}

/// A UDP socket for both address families; for IPv4 where the machine has no IPv6.
fn endpoint(tls: &Arc<Tls>, options: LinkOptions) -> Result<AgentEndpoint, LinkError> {
    let any_v6 = std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let any_v4 = std::net::SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
    AgentEndpoint::bind(any_v6, Arc::clone(tls), options).or_else(|_| AgentEndpoint::bind(any_v4, Arc::clone(tls), options))
}

/// Opens the local store and the spool, and lets the former catch up.
fn open_stores(config: &Config, runtime: &Runtime, vitals: &Vitals) -> Result<(Arc<LocalStore>, Arc<Spool>), AppError> {
    let local = Arc::new(LocalStore::open(&config.data_dir.join("local"), config.local.clone())?);
    let dir = config.data_dir.join("spool");
    let opening = Spool::open(&dir, config.agent.clone(), config.spool.clone(), local.store().covered());
    let (spool, report) = runtime.block_on(opening)?;
    let spool = Arc::new(spool);
    let log = &report.log;
    tracing::info!(
        epoch = spool.epoch(),
        new = report.new_epoch,
        first = log.first_index,
        next = spool.next_sequence(),
        torn_bytes = log.torn_bytes,
        "spool open"
    );
    for lost in &log.lost {
        tracing::error!(from = lost.from, to = lost.to, path = %lost.path.display(), offset = lost.offset, "batches of the spool are lost; a gap record goes in their place");
    }
    if let Some(damage) = &report.gaps_damage {
        tracing::error!(damage, "the spool's record of gaps is damaged; what it lacks is accounted for anew");
    }
    if spool.status().bytes <= REPLAY_FIRST {
        local.replay(&spool);
    } else {
        let (local, spool) = (Arc::clone(&local), Arc::clone(&spool));
        vitals.thread("replay", move || local.replay(&spool)).map_err(system("the replay of the spool"))?;
    }
    Ok((local, spool))
}

/// What the agent worked by last; nothing where that is not known.
fn last_assignment(path: &std::path::Path) -> Assignment {
    match assignment::load(path) {
        Ok(Some(assignment)) => {
            tracing::info!(
                epoch = assignment.epoch,
                devices = assignment.devices.len(),
                "polling by the last assignment until a hub sends another"
            );
            assignment
        }
        Ok(None) => Assignment::default(),
        Err(error) => {
            tracing::error!(%error, "polling begins when a hub sends an assignment");
            Assignment::default()
        }
    }
}

impl Threads {
    fn start(vitals: &Vitals, batcher: Batcher, spool: &Arc<Spool>, local: &Arc<LocalStore>, runtime: &Handle) -> Result<Self, AppError> {
        let (writing, handle) = (Arc::clone(spool), runtime.clone());
        let reporting = vitals.clone();
        let write = move || match writing.run_writer(&handle) {
            WriterEnd::Drained => {}
            WriterEnd::Abandoned => tracing::error!("the spool's disk refuses writes to the end; batches in memory are lost"),
            WriterEnd::LogGone => reporting.report("spool", "its log has failed".to_owned()),
        };
        let (keeping, kept) = (Arc::clone(local), Arc::clone(spool));
        Ok(Self {
            batcher: vitals.thread("batcher", move || batcher.run()).map_err(system("the batcher"))?,
            writer: vitals.thread("spool", write).map_err(system("the writer of the spool"))?,
            upkeep: vitals.thread("local store", move || keeping.run_upkeep(&kept)).map_err(system("the upkeep of the local store"))?,
        })
    }
}

/// One arbiter and shard for each poll thread.
fn start_shards(threads: usize, parts: &ShardParts, vitals: &Vitals) -> (Vec<Arbiter>, Vec<mpsc::Sender<Order>>) {
    let mut shards = Vec::with_capacity(threads);
    let mut arbiters = Vec::with_capacity(threads);
    for _ in 0..threads {
        let (orders, taken) = mpsc::channel(ORDERS_QUEUED);
        let (parts, vitals, arbiter) = (parts.clone(), vitals.clone(), Arbiter::new());
        arbiter.spawn(async move {
            // Devices without whoever starts and stops them would go on by an old assignment unseen.
            match AssertUnwindSafe(run_shard(parts, taken)).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => vitals.report("poll thread", error.to_string()),
                Err(panic) => vitals.report("poll thread", crate::vital::panic_message(&*panic)),
            }
        });
        shards.push(orders);
        arbiters.push(arbiter);
    }
    (arbiters, shards)
}
