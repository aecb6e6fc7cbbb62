//! What the demo consists of: addresses, certificates, configuration files, devices. Touches files, starts nothing.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemone_certs::{Authority, IssueOptions, Validity};
use anemone_model::{AgentId, HubId, Identity, Name};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::sim::{FleetSpec, GroupSpec, InventoryItem, Kind};

/// Hubs of the demo.
pub const HUBS: [HubId; 3] = [1, 2, 3];
const CLUSTER: &str = "demo";
const CERT_DAYS: u32 = 7;

/// One hub node.
#[derive(Clone, Debug)]
pub struct HubPlan {
    /// Its number.
    pub id: HubId,
    /// HTTP API.
    pub http: SocketAddr,
    /// Agents' QUIC.
    pub quic: SocketAddr,
    /// Raft.
    pub raft: SocketAddr,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct AgentPlan {
    /// Its PoP.
    pub pop: &'static str,
    /// Its name.
    pub name: &'static str,
    /// HTTP API.
    pub http: SocketAddr,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything is below it.
    pub dir: PathBuf,
    /// The hubs.
    pub hubs: Vec<HubPlan>,
    /// The agents.
    pub agents: Vec<AgentPlan>,
    /// Where the simulator is controlled.
    pub simulator: SocketAddr,
}

/// Ports below those that the system gives to outgoing connections, so that a process finds its port free when it is started again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// `count` ports of [`PORTS`] that `free` says are free, from a place that differs from process to process.
fn free_ports(count: usize, free: impl Fn(SocketAddr) -> bool) -> Result<Vec<SocketAddr>> {
    let width = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(37) % width;
    let address = |offset: u32| {
        let port = PORTS.start + u16::try_from((first + offset) % width).unwrap_or(0);
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    };
    let found: Vec<SocketAddr> = (0..width).map(address).filter(|address| free(*address)).take(count).collect();
    if found.len() < count {
        bail!("there are no {count} free ports from {} to {}", PORTS.start, PORTS.end);
    }
    Ok(found)
}

fn after(first: SocketAddr, offset: usize) -> Result<SocketAddr> {
    let port = u16::try_from(offset).ok().and_then(|offset| first.port().checked_add(offset));
    Ok(SocketAddr::new(first.ip(), port.with_context(|| format!("there are no {offset} ports after {first}"))?))
}

impl Plan {
    /// Three hubs and these agents, with HTTP on consecutive ports from the two given.
    ///
    /// # Errors
    /// The HTTP ports are taken, or there are no free ports.
    pub fn new(dir: &Path, hub_http: SocketAddr, edge_http: SocketAddr, agents: &[(&'static str, &'static str)]) -> Result<Self> {
        let udp = free_ports(HUBS.len(), |address| std::net::UdpSocket::bind(address).is_ok())?;
        let tcp = free_ports(HUBS.len() + 1, |address| std::net::TcpListener::bind(address).is_ok())?;
        let hub = |at: usize| Ok(HubPlan { id: HUBS[at], http: after(hub_http, at)?, quic: udp[at], raft: tcp[at] });
        let agent = |(at, (pop, name)): (usize, &(&'static str, &'static str))| Ok(AgentPlan { pop, name, http: after(edge_http, at)? });
        let plan = Self {
            dir: dir.to_owned(),
            hubs: (0..HUBS.len()).map(hub).collect::<Result<_>>()?,
            agents: agents.iter().enumerate().map(agent).collect::<Result<_>>()?,
            simulator: tcp[HUBS.len()],
        };
        for http in plan.hubs.iter().map(|h| h.http).chain(plan.agents.iter().map(|a| a.http)) {
            if let Err(error) = std::net::TcpListener::bind(http) {
                bail!("{http} cannot be used ({error}); choose others with --hub-http and --edge-http, each needs 3 ports in a row");
            }
        }
        Ok(plan)
    }

    /// PoPs, each once, in order.
    #[must_use]
    pub fn pops(&self) -> Vec<&'static str> {
        let mut pops: Vec<&'static str> = self.agents.iter().map(|a| a.pop).collect();
        pops.dedup();
        pops
    }

    /// Makes an authority, or loads the one that is there, and issues a certificate to everybody.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write_certificates(&self) -> Result<()> {
        let (authority_dir, dir) = (self.dir.join("authority"), self.dir.join("certs"));
        let cluster: Name = CLUSTER.parse()?;
        let authority = match Authority::load(&authority_dir) {
            Ok(authority) => authority,
            Err(_) if !authority_dir.exists() => {
                let authority = Authority::create(&cluster, Validity::days(CERT_DAYS * 2))?;
                authority.save(&authority_dir)?;
                authority
            }
            Err(error) => return Err(error.into()),
        };
        let hubs = self.hubs.iter().map(|h| Identity::Hub { cluster: cluster.clone(), id: h.id });
        let agents = self.agents.iter().map(|a| agent_identity(&cluster, a));
        for identity in hubs.map(Ok).chain(agents) {
            let options = IssueOptions { sans: vec!["127.0.0.1".to_owned()], validity: Validity::days(CERT_DAYS) };
            authority.issue_into(&dir, &identity?, &options)?;
        }
        Ok(())
    }

    /// The configuration of a hub; returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_hub(&self, hub: &HubPlan, seal_log_bytes: u64) -> Result<PathBuf> {
        let certs = self.dir.join("certs");
        let file = |name: &str| toml_string(&certs.join(name));
        let mut text = format!(
            "[node]\ncluster = \"{CLUSTER}\"\nid = {id}\ndata_dir = {dir}\n\n[tls]\nca = {ca}\ncert = {cert}\nkey = {key}\n\n[store]\nseal_log_bytes = {seal_log_bytes}\n",
            id = hub.id,
            dir = toml_string(&self.dir.join(format!("hub-{}", hub.id))),
            ca = file("ca.crt"),
            cert = file(&format!("hub-{}.crt", hub.id)),
            key = file(&format!("hub-{}.key", hub.id)),
        );
        for peer in &self.hubs {
            let _ = write!(
                text,
                "\n[[peer]]\nid = {}\nraft = \"{}\"\nquic = \"{}\"\nhttp = \"{}\"\n",
                peer.id, peer.raft, peer.quic, peer.http
            );
        }
        self.write(&format!("hub-{}.toml", hub.id), &text)
    }

    /// The configuration of an agent that reaches hub `i` at `hubs[i]`; `extra` is more TOML. Returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_agent(&self, agent: &AgentPlan, hubs: &[SocketAddr], extra: &str) -> Result<PathBuf> {
        let certs = self.dir.join("certs");
        let stem = format!("agent-{}-{}", agent.pop, agent.name);
        let file = |name: &str| toml_string(&certs.join(name));
        let mut text = format!(
            "[agent]\npop = \"{}\"\nname = \"{}\"\ndata_dir = {}\nhttp = \"{}\"\n\n[tls]\nca = {}\ncert = {}\nkey = {}\n",
            agent.pop,
            agent.name,
            toml_string(&self.dir.join(&stem)),
            agent.http,
            file("ca.crt"),
            file(&format!("{stem}.crt")),
            file(&format!("{stem}.key")),
        );
        for (hub, address) in self.hubs.iter().zip(hubs) {
            let _ = write!(text, "\n[[hub]]\nid = {}\naddress = \"{address}\"\n", hub.id);
        }
        text.push_str(extra);
        self.write(&format!("{stem}.toml"), &text)
    }

    /// Writes a file below the directory; returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

fn agent_identity(cluster: &Name, agent: &AgentPlan) -> Result<Identity> {
    let agent = AgentId { pop: agent.pop.parse()?, name: agent.name.parse()? };
    Ok(Identity::Agent { cluster: cluster.clone(), agent })
}

fn toml_string(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

/// The demo's devices: most of them switches, and one of everything, in both PoPs. The third device replays a recording.
#[must_use]
pub fn demo_fleet(devices: u32, recording: Option<&Path>) -> FleetSpec {
    let mut groups: Vec<GroupSpec> = Vec::new();
    for at in 0..devices {
        let pop = if at % 5 < 3 { "ams1" } else { "nyc1" };
        let kind = match at {
            2 if recording.is_some() => None,
            at => Some(match at / 5 % 4 {
                0 => Kind::AccessSwitch,
                1 if at % 2 == 0 => Kind::CoreRouter,
                1 => Kind::LegacySwitch,
                2 => Kind::Server,
                _ => Kind::LoadBalancer,
            }),
        };
        match groups.iter_mut().find(|g| g.pop == pop && g.kind == kind) {
            Some(group) => group.count += 1,
            None => groups.push(GroupSpec {
                pop: pop.to_owned(),
                kind,
                recording: if kind.is_none() { recording.map(Path::to_owned) } else { None },
                animate: true,
                count: 1,
                ..GroupSpec::default()
            }),
        }
    }
    FleetSpec { day_s: 600, ..FleetSpec::new(0, groups) }
}

/// Devices as the hub's inventory takes them.
#[must_use]
pub fn inventory_json(devices: &[InventoryItem], interval: Duration) -> Value {
    let device = |d: &InventoryItem| {
        json!({
            "name": d.name,
            "pop": d.pop,
            "address": d.address.to_string(),
            "community": d.community,
            "interval": u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            "metadata": { "kind": d.kind },
        })
    };
    devices.iter().map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_has_all_kinds_in_both_pops() {
        let fleet = demo_fleet(40, Some(Path::new("x.snmprec")));
        assert_eq!(fleet.groups.iter().map(|g| g.count).sum::<u32>(), 40);
        for pop in ["ams1", "nyc1"] {
            let kinds = fleet.groups.iter().filter(|g| g.pop == pop).count();
            assert!(kinds >= 5, "{pop}: {kinds}");
        }
        assert_eq!(demo_fleet(1, None).groups.len(), 1);
    }
}
