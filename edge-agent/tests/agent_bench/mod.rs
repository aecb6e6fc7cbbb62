//! A bench for the whole agent: certificates, hubs, a device, a link that can be cut, and the agent's own binary.

pub(crate) mod hub;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anemone_certs::{Authority, IssueOptions, Validity};
use anemone_link::{Credentials, Tls};
use anemone_model::{AssignedDevice, Community, Device, HubId, Identity, PollInterval};
use serde_json::Value;

use super::snmp_fake::FakeAgent;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition; fails the test when it does not come.
pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A directory with certificates.
pub(crate) struct Certificates {
    pub(crate) dir: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&"demo".parse().unwrap(), Validity::days(2)).unwrap();
        let identities = ["anemone://demo/pop/ams1/agent/a1", "anemone://demo/hub/1", "anemone://demo/hub/2"];
        let options = IssueOptions { validity: Validity::days(1), ..IssueOptions::default() };
        for identity in identities {
            authority.issue_into(dir.path(), &identity.parse::<Identity>().unwrap(), &options).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn hub(&self, id: HubId) -> Arc<Tls> {
        let path = |name: String| self.dir.path().join(name);
        let credentials =
            Credentials::load(&path(format!("hub-{id}.crt")), &path(format!("hub-{id}.key")), &path("ca.crt".into())).unwrap();
        Tls::new(credentials).unwrap()
    }
}

/// The agent's binary with a config of its own.
pub(crate) struct AgentProcess {
    pub(crate) dir: PathBuf,
    pub(crate) http: String,
    child: Option<Child>,
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl AgentProcess {
    /// Writes the config; the agent is not started yet.
    pub(crate) fn new(dir: &Path, certificates: &Certificates, hubs: &[(HubId, SocketAddr)]) -> Self {
        let http = format!("127.0.0.1:{}", free_port());
        let certs = certificates.dir.path().display();
        let mut config = format!(
            "[agent]\npop = \"ams1\"\nname = \"a1\"\ndata_dir = \"data\"\nhttp = \"{http}\"\n\
             [tls]\nca = \"{certs}/ca.crt\"\ncert = \"{certs}/agent-ams1-a1.crt\"\nkey = \"{certs}/agent-ams1-a1.key\"\n\
             [batch]\nmax_delay = \"200ms\"\n[local]\nseal_every = \"2s\"\n[spool]\nsegment_bytes = \"1MiB\"\nmax_bytes = \"64MiB\"\n"
        );
        for (id, address) in hubs {
            config += &format!("[[hub]]\nid = {id}\naddress = \"{address}\"\n");
        }
        std::fs::write(dir.join("agent.toml"), config).unwrap();
        Self { dir: dir.to_owned(), http, child: None }
    }

    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-agent"));
        command.arg("run").arg("--config").arg(self.dir.join("agent.toml")).env("RUST_LOG", "info,edge_agent=debug");
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        let deadline = Instant::now() + Duration::from_secs(8);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// JSON of a path of its API; `Null` while it does not answer.
    pub(crate) fn json(&self, path: &str) -> Value {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).http_status_as_error(false).build();
        let answer = ureq::Agent::new_with_config(config).get(format!("http://{}{path}", self.http)).call();
        answer.ok().and_then(|mut answer| answer.body_mut().read_json().ok()).unwrap_or_default()
    }

    /// Time and value of each sample that the agent itself answers for an expression with one series.
    pub(crate) fn local_samples(&self, selector: &str) -> BTreeMap<i64, String> {
        let query: String = format!("{selector}[1h]").bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.json(&format!("/api/v1/query?query={query}"));
        let values = answer["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
        let millis = |value: &Value| (value.as_f64().unwrap() * 1000.0).round() as i64;
        values.iter().map(|pair| (millis(&pair[0]), pair[1].as_str().unwrap().to_owned())).collect()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of the agent:\n{}", self.log());
        }
    }
}

/// A device behind a UDP socket, until dropped.
pub(crate) struct ServedDevice {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl ServedDevice {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut agent = FakeAgent::with_interfaces(3);
            let (mut buffer, started) = (vec![0; 65_536], Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                agent.uptime(100_000 + u32::try_from(started.elapsed().as_millis() / 10).unwrap());
                if let Some(answer) = agent.answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, stop }
    }

    pub(crate) fn assigned(&self, name: &str) -> AssignedDevice {
        let device = Device {
            name: name.parse().unwrap(),
            pop: "ams1".parse().unwrap(),
            address: self.address.to_string(),
            community: Community::new("public"),
            interval: PollInterval::try_from(1000).unwrap(),
            metadata: BTreeMap::new(),
        };
        AssignedDevice { device, epoch: 1 }
    }
}

impl Drop for ServedDevice {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A link that swallows everything while it is cut.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) cut: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Relay {
    pub(crate) fn start(to: SocketAddr) -> Self {
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            Arc::new(socket)
        };
        let (near, far) = (bind(), bind());
        let (address, cut, stop) = (near.local_addr().unwrap(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let agent: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        for outward in [true, false] {
            let (from, towards) = if outward { (Arc::clone(&near), Arc::clone(&far)) } else { (Arc::clone(&far), Arc::clone(&near)) };
            let (cut, stop, agent) = (Arc::clone(&cut), Arc::clone(&stop), Arc::clone(&agent));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, source)) = from.recv_from(&mut buffer) else { continue };
                    if outward {
                        *agent.lock().unwrap() = Some(source);
                    }
                    let target = if outward { Some(to) } else { *agent.lock().unwrap() };
                    if let Some(target) = target.filter(|_| !cut.load(Ordering::Relaxed)) {
                        let _ = towards.send_to(&buffer[..length], target);
                    }
                }
            });
        }
        Self { address, cut, stop }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
