//! A cluster in one process over TCP loopback. Each hub has its own runtime, so that it can be killed: its tasks stop where
//! they are and only what is on disk remains.

pub(crate) mod ledger;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anemone_raft::{BoxedIo, Connector, IncomingIo, Leadership, Peer, ProposeError, RaftConfig, RaftError, RaftNode};
use bytes::Bytes;
use futures_util::stream;
use ledger::Ledger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

pub(crate) struct Hub {
    pub(crate) node: RaftNode,
    pub(crate) ledger: Arc<Ledger>,
    runtime: Option<Runtime>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits only for calls on blocking threads, which cannot be stopped.
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// Who listens where, and who is cut off.
#[derive(Default)]
pub(crate) struct Net {
    addresses: Mutex<HashMap<u64, SocketAddr>>,
    isolated: Mutex<HashSet<u64>>,
}

impl Net {
    fn cut(&self, a: u64, b: u64) -> bool {
        let isolated = self.isolated.lock().unwrap();
        isolated.contains(&a) || isolated.contains(&b)
    }
}

pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) hubs: BTreeMap<u64, Hub>,
    pub(crate) runtime: Runtime,
    dir: tempfile::TempDir,
    tune: fn(&mut RaftConfig),
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Cluster {
    pub(crate) fn start(tune: fn(&mut RaftConfig)) -> Self {
        let mut cluster = Self::empty(tune);
        for id in 1..=3 {
            cluster.open(id);
        }
        cluster.agreed();
        cluster
    }

    /// Three hubs that are all still off.
    pub(crate) fn empty(tune: fn(&mut RaftConfig)) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        Self { net: Arc::default(), hubs: BTreeMap::new(), runtime: runtime(), dir, tune }
    }

    /// Waits until all hubs know the same leader and returns it.
    pub(crate) fn agreed(&self) -> Leadership {
        wait("all hubs to know the same leader", || {
            let known: HashSet<_> = self.hubs.values().map(|hub| (hub.node.status().term, hub.node.status().leader)).collect();
            let (term, leader) = known.iter().copied().next().filter(|_| known.len() == 1)?;
            leader.map(|leader| Leadership { term, leader: Some(leader), me: false })
        })
    }

    pub(crate) fn dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("hub-{id}"))
    }

    pub(crate) fn open(&mut self, id: u64) {
        let hub = self.try_open(id).unwrap();
        self.hubs.insert(id, hub);
    }

    pub(crate) fn try_open(&self, id: u64) -> Result<Hub, RaftError> {
        let runtime = runtime();
        let peer = |id: u64| Peer { raft: format!("hub-{id}:7444"), ..Peer::default() };
        let mut config = RaftConfig::new(id, self.dir(id).join("raft"), (1..=3).map(|id| (id, peer(id))).collect());
        (self.tune)(&mut config);
        let ledger = Arc::new(Ledger::open(&self.dir(id).join("state")));
        let state: Arc<Ledger> = Arc::clone(&ledger);
        let deadline = Instant::now() + Duration::from_secs(10);
        let node = loop {
            // The tasks of a killed hub take a moment to let go of its log.
            match runtime.block_on(RaftNode::start(config.clone(), Arc::clone(&state) as _, connector(id, &self.net))) {
                Err(RaftError::Log(anemone_log::LogError::Locked { .. })) if Instant::now() < deadline => {
                    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
                }
                started => break started?,
            }
        };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        self.net.addresses.lock().unwrap().insert(id, listener.local_addr().unwrap());
        let serving = node.clone();
        runtime.spawn(async move {
            let incoming = stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await.map(|(io, _)| {
                    io.set_nodelay(true).unwrap();
                    IncomingIo::new(io)
                });
                Some((accepted, listener))
            });
            serving.serve(incoming, std::future::pending()).await
        });
        Ok(Hub { node, ledger, runtime: Some(runtime) })
    }

    /// Stops everything of a hub at once, without any goodbye.
    pub(crate) fn kill(&mut self, id: u64) {
        drop(self.hubs.remove(&id));
    }

    pub(crate) fn isolate(&self, id: u64) {
        self.net.isolated.lock().unwrap().insert(id);
    }

    pub(crate) fn heal(&self) {
        self.net.isolated.lock().unwrap().clear();
    }

    /// The hub that says it leads, among those not cut off.
    pub(crate) fn leader(&self) -> u64 {
        wait("a leader", || {
            let leads = |id: &u64| self.hubs[id].node.leadership().borrow().me && !self.net.cut(*id, *id);
            self.hubs.keys().copied().find(leads)
        })
    }

    /// Proposes at whoever leads until it is acknowledged.
    pub(crate) fn propose(&self, command: &Bytes) -> Bytes {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let node = self.hubs[&self.leader()].node.clone();
            match self.runtime.block_on(node.propose(command.clone())) {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < deadline, "not acknowledged in time: {error}"),
            }
        }
    }

    /// Waits until all hubs applied the same, and returns it.
    pub(crate) fn settled(&self) -> Vec<Bytes> {
        let last = wait("all logs to be equal and applied", || {
            let statuses: Vec<_> = self.hubs.values().map(|hub| hub.node.status()).collect();
            let ends: HashSet<_> = statuses.iter().flat_map(|status| [status.last_log, status.applied]).collect();
            (ends.len() == 1).then(|| statuses[0].last_log)
        });
        let states: Vec<Vec<Bytes>> = self.hubs.values().map(|hub| hub.ledger.commands()).collect();
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "states differ at {last:?}");
        states.into_iter().next().unwrap()
    }
}

/// Polls until there is something.
pub(crate) fn wait<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Proposes `commands` at `node`, `at_once` of them in flight; returns those acknowledged.
pub(crate) async fn propose_all(node: RaftNode, commands: Vec<Bytes>, at_once: usize) -> Vec<Bytes> {
    use futures_util::StreamExt;
    let proposals = stream::iter(commands).map(|command| {
        let node = node.clone();
        async move {
            loop {
                match node.propose(command.clone()).await {
                    Ok(_) => return Some(command),
                    Err(ProposeError::Busy) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(_) => return None,
                }
            }
        }
    });
    proposals.buffer_unordered(at_once).filter_map(std::future::ready).collect().await
}

fn connector(from: u64, net: &Arc<Net>) -> Connector {
    let net = Arc::clone(net);
    Arc::new(move |to, _address| {
        let net = Arc::clone(&net);
        Box::pin(async move {
            let address = net.addresses.lock().unwrap().get(&to).copied();
            let address = address.filter(|_| !net.cut(from, to)).ok_or_else(|| io::Error::other("no route"))?;
            let io = TcpStream::connect(address).await?;
            io.set_nodelay(true)?;
            Ok(Box::new(Link { io, from, to, net }) as BoxedIo)
        })
    })
}

/// A stream that breaks when one of its ends is isolated.
struct Link {
    io: TcpStream,
    from: u64,
    to: u64,
    net: Arc<Net>,
}

impl Link {
    fn check(&self) -> io::Result<()> {
        if self.net.cut(self.from, self.to) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
