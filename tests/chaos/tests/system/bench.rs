//! The cluster under test and what all scenarios ask of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anemone_chaos::demo::cluster::{self, Cluster, Shape};
use anemone_chaos::demo::http;
use anemone_chaos::demo::plan::{Plan, inventory_json};
use anemone_chaos::demo::verify::{Excused, Ledger, summary};
use anemone_chaos::sim::{FleetSpec, GroupSpec, InventoryItem, Kind, Start};
use anemone_model::HubId;
use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use serde_json::Value;
use tempfile::TempDir;

/// How often every device is polled.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// For one question to a node.
pub(crate) const ASK: Duration = Duration::from_secs(10);
/// The value that no double and no signed number can hold.
pub(crate) const LARGE: &str = "9223372036854775809";
/// Seconds after the start at which the counters of two devices wrap.
const WRAP_AFTER_S: u32 = 25;
/// Small, so that hubs seal and purge their logs several times during the test.
const SEAL_LOG_BYTES: u64 = 256 << 10;
const AGENTS: [(&str, &str); 3] = [("ams1", "a1"), ("ams1", "a2"), ("nyc1", "n1")];
/// Below what Linux gives to outgoing connections, so that a port is still free when its owner is started again.
const PORTS: Range<u16> = 20_000..32_000;

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Three ports in a row that nobody listens at, searched upwards from `from`.
fn three_in_a_row(from: u16) -> Result<SocketAddr> {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let free = |first: &u16| (*first..first + 3).map(|port| TcpListener::bind(address(port))).collect::<Result<Vec<_>, _>>().is_ok();
    let first = (from..PORTS.end).step_by(3).find(free).with_context(|| format!("no three ports in a row are free from {from} on"))?;
    Ok(address(first))
}

/// Cargo builds the binaries of other packages only when the whole workspace is built.
fn check_binaries() {
    let own = std::env::current_exe().expect("this program has a path");
    let folder = own.parent().and_then(|deps| deps.parent()).expect("cargo puts tests below the folder of binaries");
    for name in ["simulator", "core-hub", "edge-agent"] {
        assert!(folder.join(name).is_file(), "there is no {name} in {}: run `cargo build --workspace` first", folder.display());
    }
}

fn fleet() -> FleetSpec {
    let group = |pop: &str, kind, count, interfaces| GroupSpec {
        pop: pop.to_owned(),
        kind: Some(kind),
        count,
        interfaces: Some(interfaces),
        ..GroupSpec::default()
    };
    let named = |name: &str, group: GroupSpec| GroupSpec { name: Some(name.to_owned()), ..group };
    let wraps = |name: &str, group| GroupSpec { start: Start::NearWrap, wrap_after_s: Some(WRAP_AFTER_S), ..named(name, group) };
    let groups = vec![
        group("ams1", Kind::AccessSwitch, 3, 4),
        group("ams1", Kind::CoreRouter, 1, 12),
        group("ams1", Kind::LoadBalancer, 1, 3),
        GroupSpec { pinned_counter: LARGE.parse().ok(), ..named("ams1-large-", group("ams1", Kind::Server, 1, 3)) },
        wraps("ams1-wrap32-", group("ams1", Kind::LegacySwitch, 1, 3)),
        wraps("ams1-wrap64-", group("ams1", Kind::Server, 1, 3)),
        group("nyc1", Kind::AccessSwitch, 2, 4),
        group("nyc1", Kind::LegacySwitch, 1, 3),
        named("nyc1-faulty-", group("nyc1", Kind::Server, 5, 2)),
    ];
    FleetSpec { day_s: 600, ..FleetSpec::new(0, groups) }
}

/// Asks again until it succeeds or the time is up; then the last reason counts.
///
/// # Errors
/// That reason.
pub(crate) async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() > within => return Err(error.context(format!("waited {within:?} until {what}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A series of an answer: its labels, and time and value of each sample.
pub(crate) struct Row {
    pub(crate) labels: Value,
    pub(crate) samples: Vec<(i64, String)>,
}

impl Row {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels[name].as_str().unwrap_or_default()
    }

    /// The value of an instant query as a number.
    pub(crate) fn number(&self) -> Result<f64> {
        let (_, text) = self.samples.first().context("a series without a value")?;
        text.parse().with_context(|| format!("{} is {text}", self.labels))
    }
}

/// The running system.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) hubs: Vec<(HubId, String)>,
    /// Agents' URLs, with their PoP.
    pub(crate) agents: Vec<(&'static str, &'static str, String)>,
    pub(crate) devices: Vec<InventoryItem>,
    /// From here on everything answered must be stored.
    pub(crate) from_ms: i64,
    /// When counters wrap, at the latest.
    pub(crate) wrapped_ms: i64,
    excused: Vec<Excused>,
    folder: Option<TempDir>,
    started: Instant,
}

impl Bench {
    /// Starts everything and waits until every interface is counted at every hub.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn start() -> Result<Self> {
        check_binaries();
        let started = Instant::now();
        let folder = tempfile::Builder::new().prefix("anemone-system-").tempdir().context("make a folder")?;
        let offset = u16::try_from(std::process::id() % 3_000)?;
        let hub_http = three_in_a_row(PORTS.start + offset)?;
        let edge_http = three_in_a_row(hub_http.port() + 3)?;
        let plan = Plan::new(folder.path(), hub_http, edge_http, &AGENTS)?;
        let fleet = fleet();
        let shape = Shape { fleet: &fleet, ledger: true, seal_log_bytes: SEAL_LOG_BYTES, agent_extra: "" };
        let mut cluster = Cluster::start(plan, &shape).await?;
        let wrapped_ms = now_ms() + i64::from(WRAP_AFTER_S) * 1000;
        let devices = cluster.inventory().await?;
        cluster::import(&mut cluster, &inventory_json(&devices, INTERVAL), Duration::from_secs(30)).await?;
        let (hubs, agents) = (cluster.hub_urls(), cluster.agent_urls());
        let folder = Some(folder);
        Ok(Self { cluster, hubs, agents, devices, from_ms: 0, wrapped_ms, excused: Vec::new(), folder, started })
    }

    /// Stops everything; how long it took.
    pub(crate) async fn stop(&mut self) -> Duration {
        let before = Instant::now();
        self.cluster.stop().await;
        before.elapsed()
    }

    /// Keeps the folder of a failed run.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.folder.take().map(TempDir::keep).unwrap_or_default()
    }

    pub(crate) fn say(&self, text: &str) {
        println!("[{:6.2} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// The agents of a PoP.
    pub(crate) fn agents_of(&self, pop: &str) -> Vec<String> {
        self.agents.iter().filter(|(p, ..)| *p == pop).map(|(.., url)| url.clone()).collect()
    }

    pub(crate) fn devices_of<'a>(&'a self, pop: &'a str) -> impl Iterator<Item = &'a InventoryItem> {
        self.devices.iter().filter(move |device| device.pop == pop)
    }

    /// An agent was just killed: what it had not flushed yet, and what nobody took while it was gone, may be missing.
    pub(crate) fn excuse(&mut self, pop: &str) {
        let killed_ms = now_ms();
        self.excused.push(Excused { pop: pop.to_owned(), window_ms: killed_ms - 2_500..killed_ms + 500 });
    }

    /// Waits until every hub has exactly what these devices answered in the window; how many seconds that took.
    ///
    /// # Errors
    /// What is missing, doubled or invented when the time is up.
    pub(crate) async fn complete(&self, devices: &str, window: Range<i64>, within: Duration) -> Result<f64> {
        self.complete_at(&self.hub_nodes(), devices, window, within).await
    }

    /// The same of these nodes.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub(crate) async fn complete_at(&self, nodes: &[String], devices: &str, window: Range<i64>, within: Duration) -> Result<f64> {
        let started = Instant::now();
        until("what the devices answered is there", within, async || {
            let ledger = Arc::new(Ledger::read(&self.cluster.simulator_url, devices, &window, &self.excused).await?);
            // Each node on a thread of its own: comparing is work.
            let compare = |node: String| {
                let (ledger, window) = (Arc::clone(&ledger), window.clone());
                async move {
                    let report = tokio::spawn(async move { ledger.compare(&node, &window).await.map(|report| (node, report)) });
                    report.await.context("comparing was abandoned")?
                }
            };
            for (node, report) in try_join_all(nodes.iter().cloned().map(compare)).await? {
                ensure!(report.is_clean(), "{node}: {report}");
                ensure!(report.matched > 0, "{node} has nothing to compare: {}", summary(&report));
            }
            Ok(())
        })
        .await?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Waits until a node answers with samples received after `since_ms`, from PoPs that match; seconds since `from`.
    ///
    /// # Errors
    /// It does not in time.
    pub(crate) async fn fresh(&self, nodes: &[String], pop: &str, since_ms: i64, within: Duration) -> Result<f64> {
        let from = Instant::now();
        let expression = format!("max(timestamp(if_in_octets{{pop=~\"{pop}\"}}))");
        let ask = nodes.iter().map(async |node| {
            until("there are new samples", within, async || {
                let rows = rows(node, &expression, None).await?;
                let newest = rows.first().with_context(|| format!("{node} has no samples of {pop}"))?.number()?;
                ensure!(newest * 1000.0 > since_ms as f64, "{node}: the newest sample of {pop} is of {newest}, before {since_ms}");
                Ok(())
            })
            .await
        });
        join_all(ask).await.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(from.elapsed().as_secs_f64())
    }

    /// URLs of the hubs.
    pub(crate) fn hub_nodes(&self) -> Vec<String> {
        self.hubs.iter().map(|(_, url)| url.clone()).collect()
    }

    /// Changes simulated devices over the simulator's control.
    ///
    /// # Errors
    /// It refuses.
    pub(crate) async fn simulator(&self, path: &str, order: Value) -> Result<()> {
        http::post(format!("{}/{path}", self.cluster.simulator_url), order, ASK).await.map(drop)
    }

    /// What the agents of a PoP say of their devices.
    ///
    /// # Errors
    /// One does not answer.
    pub(crate) async fn device_status(&self, pop: &str) -> Result<Vec<Value>> {
        let mut devices = Vec::new();
        for url in self.agents_of(pop) {
            match http::get(format!("{url}/api/v1/devices"), ASK).await?["devices"].take() {
                Value::Array(rows) => devices.extend(rows),
                other => bail!("{url}: devices are {other}"),
            }
        }
        Ok(devices)
    }
}

/// The series an expression gives at a node.
///
/// # Errors
/// The node does not answer, or refuses it.
pub(crate) async fn rows(node: &str, expression: &str, time_ms: Option<i64>) -> Result<Vec<Row>> {
    let (result, _) = http::query(node, expression, time_ms, ASK).await?;
    let sample = |pair: &Value| Some(((pair.get(0)?.as_f64()? * 1000.0).round() as i64, pair.get(1)?.as_str()?.to_owned()));
    let row = |mut row: Value| {
        let samples = match (&row["value"], &row["values"]) {
            (Value::Array(_), _) => sample(&row["value"]).into_iter().collect(),
            (_, Value::Array(pairs)) => pairs.iter().filter_map(sample).collect(),
            _ => Vec::new(),
        };
        Row { labels: row["metric"].take(), samples }
    };
    Ok(result.into_iter().map(row).collect())
}
