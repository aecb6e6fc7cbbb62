//! The processes of the demo and the relays between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anemone_model::HubId;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http;
use super::plan::Plan;
use crate::process::{Process, ProcessSpec};
use crate::relay::{Direction, Fault, Relay};
use crate::sim::{FleetSpec, InventoryItem};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long agents, and then the rest, may take to stop before they are killed.
const STOP_AGENTS: Duration = Duration::from_millis(2_200);
const STOP_REST: Duration = Duration::from_millis(1_200);

/// Everything that runs.
pub struct Cluster {
    /// Addresses and files.
    pub plan: Plan,
    /// Base URL of the simulator's control.
    pub simulator_url: String,
    processes: BTreeMap<String, Process>,
    /// Killed on purpose and not started again yet.
    killed: BTreeSet<String>,
    relays: BTreeMap<(String, HubId), Relay>,
}

/// Where the programs are: beside this one, as cargo builds them.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let folder = own.parent().context("find this program's folder")?;
    let found = [folder.join(name), folder.parent().unwrap_or(folder).join(name)].into_iter().find(|p| p.is_file());
    found.with_context(|| format!("there is no {name} in {}; `make demo` builds it", folder.display()))
}

/// What makes a cluster out of a plan.
pub struct Shape<'a> {
    /// The simulated devices.
    pub fleet: &'a FleetSpec,
    /// Whether the simulator keeps a ledger.
    pub ledger: bool,
    /// Raft log bytes after which hubs seal.
    pub seal_log_bytes: u64,
    /// More TOML for the agents.
    pub agent_extra: &'a str,
}

impl Cluster {
    /// Starts relays, simulator, hubs and agents.
    ///
    /// # Errors
    /// A file, address or program cannot be used.
    pub async fn start(plan: Plan, shape: &Shape<'_>) -> Result<Self> {
        plan.write_certificates()?;
        let mut cluster =
            Self { plan, simulator_url: String::new(), processes: BTreeMap::new(), killed: BTreeSet::new(), relays: BTreeMap::new() };
        cluster.start_simulator(shape).await?;
        for hub in cluster.plan.hubs.clone() {
            let config = cluster.plan.write_hub(&hub, shape.seal_log_bytes)?;
            cluster.spawn(&format!("hub-{}", hub.id), "core-hub", &["run".into(), "--config".into(), config]).await?;
        }
        for pop in cluster.plan.pops() {
            for hub in cluster.plan.hubs.clone() {
                let relay = Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), hub.quic).await.context("start a relay")?;
                cluster.relays.insert((pop.to_owned(), hub.id), relay);
            }
        }
        for agent in cluster.plan.agents.clone() {
            let hubs: Vec<SocketAddr> = cluster.plan.hubs.iter().map(|h| cluster.relays[&(agent.pop.to_owned(), h.id)].address()).collect();
            let config = cluster.plan.write_agent(&agent, &hubs, shape.agent_extra)?;
            let name = format!("agent-{}-{}", agent.pop, agent.name);
            cluster.spawn(&name, "edge-agent", &["run".into(), "--config".into(), config]).await?;
        }
        Ok(cluster)
    }

    async fn start_simulator(&mut self, shape: &Shape<'_>) -> Result<()> {
        let fleet = self.plan.write("fleet.json", &serde_json::to_string_pretty(shape.fleet)?)?;
        let control = self.plan.simulator;
        let mut args: Vec<PathBuf> = ["run", "--control", &control.to_string(), "--fleet"].map(PathBuf::from).into();
        args.push(fleet);
        if shape.ledger {
            args.push("--ledger".into());
        }
        self.spawn("simulator", "simulator", &args).await?;
        self.simulator_url = format!("http://{control}");
        let deadline = Instant::now() + TIMEOUT;
        while http::get(format!("{}/health", self.simulator_url), TIMEOUT).await.is_err() {
            self.all_run()?;
            if Instant::now() > deadline {
                bail!("the simulator does not answer; see {}", self.log("simulator").display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.plan.dir.join("logs").join(format!("{name}.log"))
    }

    async fn spawn(&mut self, name: &str, what: &str, args: &[PathBuf]) -> Result<()> {
        let spec = ProcessSpec::new(name, program(what)?, args, self.log(name));
        self.processes.insert(name.to_owned(), Process::start(spec).await?);
        Ok(())
    }

    /// Whether every process runs.
    ///
    /// # Errors
    /// Names the first that ended, with the end of its log.
    pub fn all_run(&mut self) -> Result<()> {
        for (name, process) in self.processes.iter_mut().filter(|(name, _)| !self.killed.contains(*name)) {
            if let Some(status) = process.exited()? {
                let log = self.plan.dir.join("logs").join(format!("{name}.log"));
                bail!("{name} ended ({status}); the end of its log:\n{}", tail(&log));
            }
        }
        Ok(())
    }

    /// The simulated devices.
    ///
    /// # Errors
    /// The simulator does not answer.
    pub async fn inventory(&self) -> Result<Vec<InventoryItem>> {
        let answer = http::get(format!("{}/inventory", self.simulator_url), Duration::from_secs(30)).await?;
        serde_json::from_value(answer).context("the simulator's inventory is not as expected")
    }

    /// Base URLs of the hubs.
    #[must_use]
    pub fn hub_urls(&self) -> Vec<(HubId, String)> {
        self.plan.hubs.iter().map(|h| (h.id, format!("http://{}", h.http))).collect()
    }

    /// Base URLs of the agents: PoP, name, URL.
    #[must_use]
    pub fn agent_urls(&self) -> Vec<(&'static str, &'static str, String)> {
        self.plan.agents.iter().map(|a| (a.pop, a.name, format!("http://{}", a.http))).collect()
    }

    /// Process ids by name.
    #[must_use]
    pub fn pids(&self) -> BTreeMap<String, u32> {
        self.processes.iter().filter_map(|(name, p)| Some((name.clone(), p.pid()?))).collect()
    }

    /// Sets the faults of all links of a PoP, each way.
    ///
    /// # Errors
    /// There is no such PoP.
    pub fn set_links(&self, pop: &str, fault: Fault) -> Result<()> {
        let links: Vec<&Relay> = self.relays.iter().filter(|((p, _), _)| p == pop).map(|(_, relay)| relay).collect();
        if links.is_empty() {
            bail!("there is no PoP {pop}; there are {}", self.plan.pops().join(" and "));
        }
        links.iter().for_each(|relay| relay.set(Direction::Both, fault));
        Ok(())
    }

    /// The faults of a PoP's links, which are all alike.
    #[must_use]
    pub fn links(&self, pop: &str) -> Fault {
        self.relays.iter().find(|((p, _), _)| p == pop).map_or_else(Fault::default, |(_, relay)| relay.faults()[0])
    }

    /// Kills a process with SIGKILL.
    ///
    /// # Errors
    /// There is no such process.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        self.process(name)?.kill().await?;
        self.killed.insert(name.to_owned());
        Ok(())
    }

    /// Starts a process again.
    ///
    /// # Errors
    /// There is no such process, or it does not start.
    pub async fn restart(&mut self, name: &str) -> Result<()> {
        self.process(name)?.restart().await?;
        self.killed.remove(name);
        Ok(())
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("there is no process {name}"))
    }

    /// Asks everything to stop, agents first so that they can still ship, and kills what does not. Within 5 s.
    pub async fn stop(&mut self) {
        let (agents, rest): (Vec<_>, Vec<_>) = self.processes.iter_mut().partition(|(name, _)| name.starts_with("agent-"));
        for (group, deadline) in [(agents, STOP_AGENTS), (rest, STOP_REST)] {
            let stops = group.into_iter().map(|(name, process)| async move {
                if let Err(error) = process.stop(deadline).await {
                    eprintln!("stopping {name}: {error}");
                }
            });
            futures_util::future::join_all(stops).await;
        }
    }
}

/// The leader as the first hub that knows one says.
///
/// # Errors
/// No hub knows a leader.
pub async fn leader(hubs: &[(HubId, String)]) -> Result<(HubId, u64)> {
    for (_, url) in hubs {
        if let Ok(answer) = http::get(format!("{url}/api/v1/cluster"), Duration::from_secs(1)).await
            && let (Some(leader), Some(term)) = (answer["data"]["leader"].as_u64(), answer["data"]["term"].as_u64())
        {
            return Ok((leader, term));
        }
    }
    bail!("no hub knows a leader")
}

/// Hands the devices to the hubs, as soon as there is a leader.
///
/// # Errors
/// No hub takes them in time.
pub async fn import(cluster: &mut Cluster, devices: &Value, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let url = cluster.hub_urls()[0].1.clone();
    loop {
        let result = http::post(format!("{url}/api/v1/devices"), devices.clone(), Duration::from_secs(30)).await;
        match result {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.context("no hub took the inventory")),
            Err(_) => cluster.all_run()?,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| format!("(cannot read {}: {error})", log.display()));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
