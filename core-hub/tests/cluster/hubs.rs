//! Three real hub processes on loopback, killed on drop.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anemone_certs::{Authority, IssueOptions, Validity};
use anemone_link::{Credentials, Tls};
use anemone_model::{AgentId, HubId, Identity};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) const HUBS: [HubId; 3] = [1, 2, 3];
/// How long anything may take that is not itself under test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Clusters at a time: their timing is part of what is tested.
const AT_A_TIME: u32 = 2;
static ROOM: Semaphore = Semaphore::const_new(AT_A_TIME as usize);
/// Below the range from which systems take the ports of outgoing connections, so that nobody takes one of a hub that is down.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

fn free_address() -> SocketAddr {
    let offset = u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = 20_000 + (offset + NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

struct Hub {
    id: HubId,
    quic: SocketAddr,
    http: SocketAddr,
    process: Option<Child>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A cluster of three.
pub(crate) struct Hubs {
    hubs: Vec<Hub>,
    authority: Authority,
    dir: tempfile::TempDir,
    _room: SemaphorePermit<'static>,
}

/// The HTTP status and JSON of an answer, and where it redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: Value,
}

impl Hubs {
    /// Starts three hubs; `settings` is TOML appended to each configuration.
    pub(crate) async fn start(settings: &str) -> Self {
        Self::within(ROOM.acquire().await.unwrap(), settings).await
    }

    /// As [`Hubs::start`], with no other cluster beside it.
    pub(crate) async fn alone(settings: &str) -> Self {
        Self::within(ROOM.acquire_many(AT_A_TIME).await.unwrap(), settings).await
    }

    async fn within(room: SemaphorePermit<'static>, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&"test".parse().unwrap(), Validity::days(100)).unwrap();
        let hub = |id| Hub { id, quic: free_address(), http: free_address(), process: None };
        let mut hubs = Self { hubs: HUBS.map(hub).into(), authority, dir, _room: room };
        let raft = HUBS.map(|_| free_address());
        for id in HUBS {
            hubs.authority.issue_into(hubs.dir.path(), &identity(id), &IssueOptions::default()).unwrap();
            let text = hubs.configuration(id, &raft) + settings;
            fs::write(hubs.config(id), text).unwrap();
            hubs.restart(id);
        }
        hubs.leader().await;
        hubs
    }

    fn configuration(&self, id: HubId, raft: &[SocketAddr]) -> String {
        let dir = self.dir.path().display();
        let own = format!(
            "[node]\ncluster = \"test\"\nid = {id}\ndata_dir = \"{dir}/hub-{id}\"\n\
             [tls]\nca = \"{dir}/ca.crt\"\ncert = \"{dir}/hub-{id}.crt\"\nkey = \"{dir}/hub-{id}.key\"\n"
        );
        let peer = |(hub, raft): (&Hub, &SocketAddr)| {
            format!("[[peer]]\nid = {}\nraft = \"{raft}\"\nquic = \"{}\"\nhttp = \"{}\"\n", hub.id, hub.quic, hub.http)
        };
        own + &self.hubs.iter().zip(raft).map(peer).collect::<String>()
    }

    pub(crate) fn config(&self, id: HubId) -> PathBuf {
        self.dir.path().join(format!("hub-{id}.toml"))
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn hub(&mut self, id: HubId) -> &mut Hub {
        self.hubs.iter_mut().find(|hub| hub.id == id).unwrap()
    }

    fn log_path(&self, id: HubId) -> PathBuf {
        self.dir.path().join(format!("hub-{id}.log"))
    }

    /// What a hub logged, over all its runs.
    pub(crate) fn log(&self, id: HubId) -> String {
        fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    /// Starts a hub that is not running.
    pub(crate) fn restart(&mut self, id: HubId) {
        let log = File::options().create(true).append(true).open(self.log_path(id)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_core-hub"));
        command.arg("run").arg("--config").arg(self.config(id)).stderr(log);
        self.hub(id).process = Some(command.spawn().unwrap());
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&mut self, id: HubId) {
        let mut process = self.hub(id).process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) async fn stop(&mut self, id: HubId) {
        let mut process = self.hub(id).process.take().unwrap();
        let sent = Command::new("kill").arg(process.id().to_string()).status().unwrap();
        assert!(sent.success());
        let status = eventually("a hub to stop", || process.try_wait().unwrap()).await;
        assert!(status.success(), "{status}\n{}", self.log(id));
    }

    pub(crate) fn url(&self, id: HubId) -> String {
        format!("http://{}", self.hubs.iter().find(|hub| hub.id == id).unwrap().http)
    }

    pub(crate) fn quic(&self) -> Vec<(HubId, SocketAddr)> {
        self.hubs.iter().map(|hub| (hub.id, hub.quic)).collect()
    }

    pub(crate) fn running(&self) -> Vec<HubId> {
        self.hubs.iter().filter(|hub| hub.process.is_some()).map(|hub| hub.id).collect()
    }

    /// Credentials of an agent of this cluster.
    pub(crate) fn agent_tls(&self, agent: &AgentId) -> std::sync::Arc<Tls> {
        let identity = Identity::Agent { cluster: "test".parse().unwrap(), agent: agent.clone() };
        let issued = self.authority.issue(&identity, &IssueOptions::default()).unwrap();
        Tls::new(Credentials::from_pem(&issued.cert_pem, &issued.key_pem, self.authority.cert_pem()).unwrap()).unwrap()
    }

    /// `GET path` of one hub; `None` when it cannot be asked.
    pub(crate) fn try_get(&self, id: HubId, path: &str, query: &[(&str, &str)]) -> Option<Answer> {
        let url = format!("{}{path}", self.url(id));
        answer(http().get(&url).query_pairs(query.iter().copied()).call())
    }

    /// The `data` of a successful `GET`.
    pub(crate) fn get(&self, id: HubId, path: &str) -> Value {
        let answer = self.try_get(id, path, &[]).unwrap_or_else(|| panic!("hub {id} does not answer\n{}", self.log(id)));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["data"].clone()
    }

    pub(crate) fn post(&self, id: HubId, path: &str, token: Option<&str>, body: &str) -> Answer {
        let request = http().post(format!("{}{path}", self.url(id))).header("content-type", "application/json");
        let request = token.iter().fold(request, |r, token| r.header("authorization", format!("Bearer {token}")));
        answer(request.send(body)).unwrap()
    }

    pub(crate) fn delete(&self, id: HubId, path: &str, token: &str) -> Answer {
        let request = http().delete(format!("{}{path}", self.url(id))).header("authorization", format!("Bearer {token}"));
        answer(request.call()).unwrap()
    }

    /// The leader, once every running hub names the same one among them.
    pub(crate) async fn leader(&self) -> HubId {
        eventually("one leader", || {
            let running = self.running();
            let named = |id: &HubId| self.try_get(*id, "/api/v1/cluster", &[])?.body["data"]["leader"].as_u64();
            let named: Vec<Option<HubId>> = running.iter().map(named).collect();
            named[0].filter(|leader| running.contains(leader) && named.iter().all(|other| *other == Some(*leader)))
        })
        .await
    }

    pub(crate) async fn followers(&self) -> Vec<HubId> {
        let leader = self.leader().await;
        self.running().into_iter().filter(|id| *id != leader).collect()
    }

    /// Runs `core-hub` with these arguments.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_core-hub")).args(arguments).env_remove("ANEMONE_HUB").env_remove("ANEMONE_TOKEN").output().unwrap()
    }
}

impl Drop for Hubs {
    /// A test that failed shows what the hubs said last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in HUBS {
                let log = self.log(id);
                let last: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("--- hub {id}, newest first:\n{}", last.join("\n"));
            }
        }
    }
}

fn identity(id: HubId) -> Identity {
    Identity::Hub { cluster: "test".parse().unwrap(), id }
}

fn http() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(Some(PATIENCE));
    config.build().into()
}

fn answer(sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<Answer> {
    let mut response = sent.ok()?;
    let location = response.headers().get("location").map(|l| l.to_str().unwrap().to_owned());
    Some(Answer { status: response.status().as_u16(), location, body: response.body_mut().read_json().unwrap_or_default() })
}

/// Looks until there is something to see; panics when there is nothing for [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
