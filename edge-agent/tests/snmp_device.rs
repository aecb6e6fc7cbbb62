//! Device actors over real sockets: against Debian's snmpd and snmpwalk, and against a fake agent for restarts, stops and updates.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod snmp_fake;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use anemone_model::{AssignedDevice, Community, Device, PollInterval, Value};
use edge_agent::collector::snmp::engine::{Engine, EngineOptions};
use edge_agent::collector::snmp::rtt::TimeoutBounds;
use edge_agent::device::actor::{DeviceActor, DeviceParts, HealthQuery, Stop, UpdateDevice};
use edge_agent::device::logic::LogicOptions;
use edge_agent::device::runner::{Clock, resolve};
use edge_agent::device::supervisor::ExitReason;
use edge_agent::device::{DeviceMemory, FailureReason, SinkRefusal};
use edge_agent::profiles::{Profile, Profiles};
use snmp_fake::{ByName, FakeAgent, RecordingSink, by_name};

const PATIENCE: Duration = Duration::from_secs(30);

/// Debian's SNMP agent, polled as the device nobody here wrote.
struct Snmpd {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Snmpd {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("snmpd.conf");
        std::fs::write(&config, "rocommunity public 127.0.0.1\nsysLocation rack 7\nsysName polled\n").unwrap();
        let port = StdUdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("/usr/sbin/snmpd")
            .args(["-f", "-Lo", "-C", "-r", "-c"])
            .arg(&config)
            .arg(format!("udp:127.0.0.1:{port}"))
            .env("SNMP_PERSISTENT_DIR", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's package snmpd is needed: /usr/sbin/snmpd");
        let snmpd = Self { child, port, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while snmpd.walk("1.3.6.1.2.1.1.3").is_empty() {
            assert!(Instant::now() < deadline, "snmpd does not answer");
        }
        snmpd
    }

    /// What snmpwalk says: OID and value.
    fn walk(&self, oid: &str) -> BTreeMap<String, String> {
        let output = Command::new("snmpwalk")
            .args([
                "-v2c",
                "-c",
                "public",
                "-On",
                "-OQ",
                "-Oe",
                "-Ot",
                "-m",
                "",
                "-t",
                "1",
                "-r",
                "5",
                &format!("127.0.0.1:{}", self.port),
                oid,
            ])
            .output()
            .expect("Debian's package snmp is needed: snmpwalk");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pairs = text.lines().filter_map(|line| line.split_once(" = "));
        pairs.map(|(name, value)| (name.trim_start_matches('.').to_owned(), value.trim_matches('"').to_owned())).collect()
    }
}

impl Drop for Snmpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn profile() -> Arc<Profile> {
    Arc::clone(Profiles::built_in().unwrap().by_name("interfaces").unwrap())
}

fn assigned(address: String) -> AssignedDevice {
    let device = Device {
        name: "sw1".parse().unwrap(),
        pop: "ams1".parse().unwrap(),
        address,
        community: Community::new("public"),
        interval: PollInterval::try_from(1000).unwrap(),
        metadata: BTreeMap::new(),
    };
    AssignedDevice { device, epoch: 7 }
}

struct Bench {
    sink: Arc<RecordingSink>,
    addr: Addr<DeviceActor>,
}

fn start(address: String) -> Bench {
    start_with(address, Arc::new(RecordingSink::default()), LogicOptions::default())
}

fn start_with(address: String, sink: Arc<RecordingSink>, options: LogicOptions) -> Bench {
    let engine = Engine::new(&["127.0.0.1:0".parse().unwrap()], EngineOptions::default()).unwrap();
    let parts = DeviceParts { engine, sink: Arc::clone(&sink) as _, options, clock: Clock::start() };
    let actor = DeviceActor::new(assigned(address), profile(), Arc::new(parts), DeviceMemory::default());
    Bench { sink, addr: actor.start() }
}

impl Bench {
    fn rounds(&self) -> usize {
        self.sink.rounds.lock().unwrap().len()
    }

    /// The first round from number `from` on that `wanted` accepts.
    async fn round(&self, from: usize, wanted: impl Fn(&ByName) -> bool) -> ByName {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rounds = self.sink.rounds.lock().unwrap().clone();
            if let Some(round) = rounds.iter().skip(from).map(|(_, samples)| by_name(&self.sink, samples)).find(&wanted) {
                return round;
            }
            assert!(Instant::now() < deadline, "no such round; the last was {:?}", rounds.last());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[test]
fn every_interface_counter_of_snmpd_is_what_snmpwalk_says() {
    let snmpd = Snmpd::start();
    let before = (snmpd.walk("1.3.6.1.2.1.31.1.1.1"), snmpd.walk("1.3.6.1.2.1.2.2.1"));
    let (round, info) = actix::System::new().block_on(async {
        let bench = start(format!("127.0.0.1:{}", snmpd.port));
        let round = bench.round(0, |round| round.contains_key("device_up")).await;
        let report = bench.addr.send(HealthQuery).await.unwrap();
        assert_eq!(report.epoch, 7);
        bench.addr.send(Stop).await.unwrap();
        (round, report.report.facts)
    });
    let after = (snmpd.walk("1.3.6.1.2.1.31.1.1.1"), snmpd.walk("1.3.6.1.2.1.2.2.1"));
    assert_eq!(round["device_up"].value, Value::F64(1.0));
    assert!(info.contains(&("sys_location".into(), "rack 7".into())) && info.contains(&("sys_name".into(), "polled".into())), "{info:?}");
    let names: Vec<(&String, &String)> = before.0.iter().filter(|(name, _)| name.starts_with("1.3.6.1.2.1.31.1.1.1.1.")).collect();
    assert!(!names.is_empty(), "this machine has interfaces");
    let mut compared = 0;
    let profile = profile();
    let table = &profile.tables[0];
    for (oid, name) in names {
        let index = oid.rsplit('.').next().unwrap();
        for metric in &table.metrics {
            let Some((low, high, scale)) = metric.sources.iter().find_map(|(column, source)| {
                let cell = format!("{}.{index}", table.columns[*column].oid);
                let find =
                    |walks: &(BTreeMap<_, String>, BTreeMap<_, String>)| walks.0.get(&cell).or(walks.1.get(&cell))?.parse::<u64>().ok();
                let (low, high) = (find(&before)?, find(&after)?);
                (!(source.zero_is_absent && low == 0)).then(|| (low, high, source.scale.unwrap_or(1.0)))
            }) else {
                continue;
            };
            let key = format!("{}{{{name}}}", metric.metric);
            match round.get(&key).unwrap_or_else(|| panic!("{key} is missing")).value {
                Value::U64(value) => assert!((low..=high).contains(&value), "{key}: {value} is not from {low} to {high}"),
                Value::F64(value) => assert!((value / scale - low as f64).abs() < 0.5, "{key}: {value} against {low}"),
            }
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared} values compared");
    let polled = round.keys().filter(|name| name.starts_with("if_")).count();
    assert_eq!(polled, compared, "nothing is polled that snmpwalk does not show");
}

/// A fake agent behind a UDP socket, until dropped.
struct Served {
    agent: Arc<Mutex<FakeAgent>>,
    address: SocketAddr,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Served {
    fn new(agent: FakeAgent) -> Self {
        let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let (agent, stop) = (Arc::new(Mutex::new(agent)), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&agent), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut datagram = [0; 65_536];
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                if let Some(answer) = shared.lock().unwrap().answer(&datagram[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { agent, address, stop }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_panic_costs_one_device_a_restart_and_others_nothing() {
    let (one, two) = (Served::new(FakeAgent::with_interfaces(2)), Served::new(FakeAgent::with_interfaces(2)));
    actix::System::new().block_on(async {
        let broken = start(one.address.to_string());
        let sound = start(two.address.to_string());
        *broken.sink.panics.lock().unwrap() = 1;
        broken.round(0, |round| round.contains_key("if_in_octets{eth1}")).await;
        let report = broken.addr.send(HealthQuery).await.unwrap();
        assert_eq!(report.last_exit, Some(ExitReason::Panicked("the sink was told to".into())));
        assert_eq!(report.report.health.restarts, 1);
        sound.round(1, |round| round.contains_key("if_in_octets{eth1}")).await;
        let report = sound.addr.send(HealthQuery).await.unwrap();
        assert_eq!((report.report.health.restarts, report.last_exit), (0, None));
    });
}

#[test]
fn a_stopped_device_is_asked_no_more() {
    let served = Served::new(FakeAgent::with_interfaces(1));
    actix::System::new().block_on(async {
        let bench = start(served.address.to_string());
        bench.round(0, |_| true).await;
        bench.addr.send(Stop).await.unwrap();
        let (rounds, answers) = (bench.rounds(), served.agent.lock().unwrap().answers.len());
        while bench.addr.connected() {
            tokio::task::yield_now().await;
        }
        // More than an interval later: nothing more.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!((bench.rounds(), served.agent.lock().unwrap().answers.len()), (rounds, answers));
    });
}

#[test]
fn an_edited_device_is_polled_as_it_is_now() {
    let (one, two) = (Served::new(FakeAgent::with_interfaces(1)), Served::new(FakeAgent::with_interfaces(3)));
    actix::System::new().block_on(async {
        let bench = start(one.address.to_string());
        bench.round(0, |round| round.contains_key("if_in_octets{eth1}")).await;
        let edited = AssignedDevice { epoch: 8, ..assigned(two.address.to_string()) };
        bench.addr.send(UpdateDevice { assigned: edited, profile: profile() }).await.unwrap();
        bench.round(bench.rounds(), |round| round.contains_key("if_in_octets{eth3}")).await;
        let report = bench.addr.send(HealthQuery).await.unwrap();
        assert_eq!((report.epoch, report.report.health.restarts), (8, 0));
    });
}

#[test]
fn silence_refusal_and_bad_addresses_have_a_reason() {
    let served = Served::new(FakeAgent::with_interfaces(1));
    served.agent.lock().unwrap().community = "other".into();
    actix::System::new().block_on(async {
        let hasty = TimeoutBounds { initial: Duration::from_millis(100), ..TimeoutBounds::default() };
        let hasty = LogicOptions { timeouts: hasty, attempts: 2, ..LogicOptions::default() };
        let silent = start_with(served.address.to_string(), Arc::default(), hasty);
        let nowhere = start("no such host:161".to_owned());
        for (bench, expected) in [(&silent, "the community is wrong"), (&nowhere, "cannot resolve \"no such host:161\"")] {
            bench.round(0, |round| round["device_up"].value == Value::F64(0.0)).await;
            let (_, reason) = bench.addr.send(HealthQuery).await.unwrap().report.health.last_failure.unwrap();
            assert!(reason.to_string().contains(expected), "{reason}");
            assert!(!matches!(reason, FailureReason::Panicked(_)));
        }
        // A batcher that is full costs samples, which are counted.
        served.agent.lock().unwrap().community = "public".into();
        let full = Arc::new(RecordingSink::default());
        *full.refusal.lock().unwrap() = Some(SinkRefusal::Full);
        let bench = start_with(served.address.to_string(), full, hasty);
        let deadline = Instant::now() + PATIENCE;
        while bench.addr.send(HealthQuery).await.unwrap().report.health.samples_dropped == 0 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *bench.sink.refusal.lock().unwrap() = None;
        bench.round(0, |round| round.contains_key("if_in_octets{eth1}")).await;
    });
}

#[test]
fn addresses_have_a_default_port() {
    actix::System::new().block_on(async {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:161"),
            ("127.0.0.1:16100", "127.0.0.1:16100"),
            ("[::1]:16100", "[::1]:16100"),
            ("[::1]", "[::1]:161"),
            ("::1", "[::1]:161"),
        ] {
            assert_eq!(resolve(text).await.unwrap().to_string(), expected);
        }
    });
}
