//! The running demo: brings everything up, takes commands, checks, and sums up.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemone_model::HubId;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, mpsc};

use super::cli::Up;
use super::cluster::{self, Cluster, Shape};
use super::plan::{self, Plan};
use super::remote::Remote;
use super::report::Timeline;
use super::verify::{self, Excused, Ledger};
use super::{http, snmpd, usage};
use crate::relay::Fault;
use crate::sim::now_ms;

const AGENTS: [(&str, &str); 3] = [("ams1", "a1"), ("ams1", "a2"), ("nyc1", "n1")];
/// How long the demo waits for the first samples of everything.
const FIRST_SAMPLES: Duration = Duration::from_secs(60);
/// How long after a heal everything must be at the hubs.
const CATCH_UP: Duration = Duration::from_secs(10);
/// What an agent has received but not yet made durable when it is killed: its batch delay and some.
const UNFLUSHED_MS: i64 = 2_500;
/// A check looks back this far at most.
const LONGEST_CHECK_MS: i64 = 600_000;
const DISAGREES: &str = "what is stored does not agree with what the devices answered";
const ASK: Duration = Duration::from_secs(5);

/// Where lines for a second terminal go.
pub type Lines = mpsc::Sender<String>;

/// A demo that is up.
pub struct Console {
    cluster: Mutex<Cluster>,
    timeline: Mutex<Timeline>,
    ledger: Mutex<Marks>,
    simulator: String,
    hubs: Vec<(HubId, String)>,
    agents: Vec<(&'static str, &'static str, String)>,
    interfaces: u64,
    expected: u64,
    stop: Notify,
}

/// Times that checks depend on, milliseconds since 1970.
struct Marks {
    complete_from_ms: i64,
    cut: Vec<(String, i64)>,
    excused: Vec<Excused>,
}

/// A directory that is removed at the end, or one that was given and stays.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self> {
        let temporary = given.is_none();
        let own = || std::env::temp_dir().join(format!("anemone-demo-{}-{}", std::process::id(), now_ms()));
        let path = given.map_or_else(own, Path::to_owned);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Runs a demo until Ctrl-C, SIGTERM, `demo stop` or the end of its duration.
///
/// # Errors
/// It does not come up, or something stored does not agree with what the devices answered.
pub async fn up(options: &Up) -> Result<()> {
    check_options(options)?;
    Remote::alone()?;
    let folder = Folder::new(options.data_dir.as_deref())?;
    let timeline = Timeline::default();
    timeline.say(&format!("certificates, configuration, data and logs are in {}", folder.path.display()));
    let plan = Plan::new(&folder.path, options.hub_http, options.edge_http, &AGENTS)?;
    let recording = plan.write("linux-server.snmprec", include_str!("../../devices/linux-server.snmprec"))?;
    let fleet = plan::demo_fleet(options.devices, Some(&recording));
    let shape = Shape { fleet: &fleet, ledger: true, seal_log_bytes: 16 << 20, agent_extra: "" };
    let mut interrupts = Interrupts::new()?;
    let mut cluster = tokio::select! {
        started = Cluster::start(plan, &shape) => started?,
        () = interrupts.any() => bail!("interrupted while starting"),
    };
    timeline.say("3 hubs, 3 agents, 6 relays and the simulator are started");
    let prepared = tokio::select! {
        console = prepare(&mut cluster, options, &timeline) => console,
        () = interrupts.any() => Err(anyhow::anyhow!("interrupted before everything was up")),
    };
    let (interfaces, expected) = match prepared {
        Ok(numbers) => numbers,
        Err(error) => {
            cluster.stop().await;
            return Err(error);
        }
    };
    let console = Arc::new(Console {
        simulator: cluster.simulator_url.clone(),
        hubs: cluster.hub_urls(),
        agents: cluster.agent_urls(),
        ledger: Mutex::new(Marks { complete_from_ms: now_ms(), cut: Vec::new(), excused: Vec::new() }),
        cluster: Mutex::new(cluster),
        timeline: Mutex::new(timeline),
        interfaces,
        expected,
        stop: Notify::new(),
    });
    let remote = Remote::start(Arc::clone(&console)).await;
    let outcome = match &remote {
        Ok(_) => console.run(options, &mut interrupts).await,
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    drop(remote);
    console.cluster.lock().await.stop().await;
    console.timeline.lock().await.say("everything is stopped");
    outcome
}

fn check_options(options: &Up) -> Result<()> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(3600));
    if !(least..=most).contains(&options.interval) {
        bail!("--interval {:?} is outside {least:?} to {most:?}", options.interval);
    }
    if let Some(folder) = options.report.as_ref().and_then(|path| path.parent()).filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        bail!("--report: there is no folder {}", folder.display());
    }
    Ok(())
}

/// Inventory in, then wait for the first samples: interfaces simulated, and interfaces expected in all.
async fn prepare(cluster: &mut Cluster, options: &Up, timeline: &Timeline) -> Result<(u64, u64)> {
    let simulated = cluster.inventory().await?;
    let interfaces: u64 = simulated.iter().map(|d| d.interfaces as u64).sum();
    let mut devices = plan::inventory_json(&simulated, options.interval);
    let own = snmpd::probe(options.interval).await;
    if let (Some(own), Some(devices)) = (&own, devices.as_array_mut()) {
        devices.push(own.device.clone());
        timeline.say(&format!("this machine's snmpd answers and is polled too: {} interfaces", own.interfaces));
    }
    cluster::import(cluster, &devices, Duration::from_secs(20)).await?;
    let (leader, term) = cluster::leader(&cluster.hub_urls()).await?;
    timeline.say(&format!("hub {leader} leads in term {term}; {} devices are in the inventory", devices.as_array().map_or(0, Vec::len)));
    let expected = interfaces + own.map_or(0, |own| own.interfaces);
    let deadline = Instant::now() + FIRST_SAMPLES + options.interval * 2;
    loop {
        cluster.all_run()?;
        // Interfaces of this machine may come and go, so only the simulated ones are waited for.
        let counts = counts(&cluster.hub_urls(), "count(if_in_octets{device!=\"this-machine\"})").await;
        if counts.iter().all(|(_, count)| *count == Some(interfaces)) {
            timeline.say(&format!("count(if_in_octets) is {interfaces} at all hubs: every interface simulated"));
            return Ok((interfaces, expected));
        }
        if Instant::now() > deadline {
            bail!("after {:?} count(if_in_octets) is {counts:?}, expected {interfaces} at each hub", FIRST_SAMPLES + options.interval * 2);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn counts(nodes: &[(HubId, String)], expression: &str) -> Vec<(HubId, Option<u64>)> {
    let ask = nodes.iter().map(async |(id, url)| (*id, http::number(url, expression, ASK).await.ok()));
    futures_util::future::join_all(ask).await
}

struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Console {
    async fn run(&self, options: &Up, interrupts: &mut Interrupts) -> Result<()> {
        self.print_how_to();
        let over = async {
            match options.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let stopped_early = tokio::select! {
            () = over => false,
            () = self.stop.notified() => false,
            () = interrupts.any() => true,
            error = self.watch() => return Err(error),
        };
        let last = if stopped_early {
            // Everything has to be gone within 5 s.
            json!({ "clean": null, "why": "interrupted, so there was no last check" })
        } else {
            tokio::select! {
                checked = self.last_check(options.interval) => checked.unwrap_or_else(|error| json!({ "clean": false, "why": format!("{error:#}") })),
                () = interrupts.any() => json!({ "clean": null, "why": "interrupted during the last check" }),
            }
        };
        if let Some(path) = &options.report {
            let report = tokio::time::timeout(Duration::from_millis(700), self.summary(&last)).await.context("summing up")?;
            fs::write(path, format!("{report:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if last["clean"] == false {
            bail!("{}", last["why"].as_str().unwrap_or(DISAGREES));
        }
        Ok(())
    }

    fn print_how_to(&self) {
        println!();
        for (hub, url) in &self.hubs {
            println!("  hub {hub}            {url}/api/v1/query?query=count(if_in_octets)");
        }
        for (pop, name, url) in &self.agents {
            println!("  agent {pop}/{name}    {url}/api/v1/query?query=count(if_in_octets)");
        }
        let first = &self.hubs[0].1;
        let bin = std::env::current_exe().map_or_else(|_| "target/release".into(), |exe| exe.parent().unwrap_or(Path::new(".")).to_owned());
        let bin = std::env::current_dir().ok().and_then(|here| bin.strip_prefix(here).ok().map(Path::to_owned)).unwrap_or(bin);
        println!("\nTry in a second terminal:\n");
        println!("  {}/core-hub query 'sum by (pop) (rate(if_in_octets[1m]))' --hub {first}", bin.display());
        println!("  {0}/demo cut ams1        (then: {0}/core-hub pop list --hub {first}; {0}/demo heal ams1)", bin.display());
        println!("  {}/demo kill-leader", bin.display());
        println!("\nAlso: demo status, demo check, demo delay nyc1 200ms, demo kill-agent a1, demo stop. Ctrl-C ends it.\n");
    }

    /// Resolves when a process has ended that nobody killed.
    async fn watch(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Err(error) = self.cluster.lock().await.all_run() {
                return error;
            }
        }
    }

    /// Runs a command of the second terminal.
    ///
    /// # Errors
    /// It is no command, or it failed.
    pub async fn command(&self, words: &[&str], lines: &Lines) -> Result<()> {
        match words {
            ["cut", pop] => self.cut(pop, lines).await,
            ["heal", pop] => self.heal(pop, lines).await,
            ["delay", pop, ms] => self.delay(pop, ms.parse().context("the delay is no number")?, lines).await,
            ["kill-leader"] => self.kill_leader(lines).await,
            ["kill-agent", agent] => self.kill_agent(agent, lines).await,
            ["status"] => self.status(lines).await,
            ["check"] => match self.check(lines).await? {
                None => bail!("there is nothing to check yet; wait some seconds"),
                Some(checked) if checked["clean"] == false => bail!("{DISAGREES}"),
                Some(_) => Ok(()),
            },
            ["stop"] => {
                self.stop.notify_one();
                self.tell(lines, "stop", "the demo stops".to_owned(), Value::Null).await;
                Ok(())
            }
            other => bail!("{} is no command of the demo", other.join(" ")),
        }
    }

    /// Says a line in both terminals and keeps it for the report.
    async fn tell(&self, lines: &Lines, kind: &str, text: String, details: Value) {
        self.timeline.lock().await.event(kind, &text, details);
        // A second terminal that is gone need not be told.
        let _ = lines.send(format!("{text}\n")).await;
    }

    async fn cut(&self, pop: &str, lines: &Lines) -> Result<()> {
        self.cluster.lock().await.set_links(pop, Fault { cut: true, ..Fault::default() })?;
        self.ledger.lock().await.cut.push((pop.to_owned(), now_ms()));
        self.tell(lines, "cut", format!("{pop} is cut off from all hubs; its agents go on polling and answering"), json!({ "pop": pop }))
            .await;
        Ok(())
    }

    async fn delay(&self, pop: &str, ms: u32, lines: &Lines) -> Result<()> {
        {
            let cluster = self.cluster.lock().await;
            cluster.set_links(pop, Fault { delay_ms: ms, ..cluster.links(pop) })?;
        }
        let text = format!("every datagram between {pop} and the hubs is held for {ms} ms, each way");
        self.tell(lines, "delay", text, json!({ "pop": pop, "ms": ms })).await;
        Ok(())
    }

    /// Undoes a cut and waits until every hub has every sample of it.
    async fn heal(&self, pop: &str, lines: &Lines) -> Result<()> {
        self.cluster.lock().await.set_links(pop, Fault::default())?;
        let healed = Instant::now();
        let (cut_ms, excused) = {
            let mut marks = self.ledger.lock().await;
            let cut = marks.cut.iter().filter(|(p, _)| p == pop).map(|(_, at)| *at).min();
            marks.cut.retain(|(p, _)| p != pop);
            (cut, marks.excused.clone())
        };
        let Some(cut_ms) = cut_ms else {
            self.tell(lines, "heal", format!("{pop} is linked to all hubs without faults"), json!({ "pop": pop })).await;
            return Ok(());
        };
        self.tell(lines, "heal", format!("{pop} is linked again; waiting until the hubs have all of it"), json!({ "pop": pop })).await;
        let window = cut_ms..now_ms();
        let mut said_late = false;
        loop {
            let ledger = Ledger::read(&self.simulator, &format!("pop:{pop}"), &window, &excused).await?;
            let (mut clean, mut lacking) = (Vec::new(), None);
            for (hub, url) in &self.hubs {
                let report = ledger.compare(url, &window).await?;
                match report.is_clean() {
                    true => clean.push((*hub, verify::summary(&report))),
                    false => lacking = lacking.or(Some(format!("hub {hub}: {}", verify::summary(&report)))),
                }
            }
            let seconds = healed.elapsed().as_secs_f64();
            let Some(lacking) = lacking else {
                let found = clean.first().map(|(_, text)| text.clone()).unwrap_or_default();
                if healed.elapsed() > CATCH_UP {
                    bail!("every hub has it all, but only {seconds:.1} s after the heal, more than {CATCH_UP:?}: {found}");
                }
                let text = format!("{:.1} s after the heal every hub has it all: {found}", seconds);
                self.tell(lines, "caught-up", text, json!({ "pop": pop, "seconds": seconds, "window_ms": [window.start, window.end] }))
                    .await;
                return Ok(());
            };
            if healed.elapsed() > CATCH_UP * 3 {
                bail!("{seconds:.1} s after the heal: {lacking}");
            }
            if healed.elapsed() > CATCH_UP && !said_late {
                let text = format!("not caught up within {CATCH_UP:?}: {lacking}");
                said_late = true;
                self.tell(lines, "late", text, json!({ "pop": pop })).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Kills the leader and measures until samples taken after the kill are applied under a new one.
    async fn kill_leader(&self, lines: &Lines) -> Result<()> {
        let (leader, term) = cluster::leader(&self.hubs).await?;
        let name = format!("hub-{leader}");
        let others: Vec<_> = self.hubs.iter().filter(|(id, _)| *id != leader).cloned().collect();
        let before = applied_samples(&others).await?;
        self.cluster.lock().await.kill(&name).await?;
        let killed = Instant::now();
        self.tell(
            lines,
            "kill-leader",
            format!("hub {leader}, leader in term {term}, was killed with SIGKILL"),
            json!({ "hub": leader, "term": term }),
        )
        .await;
        let mut new = None;
        let outcome = loop {
            if new.is_none()
                && let Ok((hub, now)) = cluster::leader(&others).await
                && now > term
                && hub != leader
            {
                new = Some(killed.elapsed());
                self.tell(
                    lines,
                    "new-leader",
                    format!("hub {hub} leads in term {now} after {:.2} s", killed.elapsed().as_secs_f64()),
                    json!({ "hub": hub, "seconds": killed.elapsed().as_secs_f64() }),
                )
                .await;
            }
            if new.is_some() && applied_samples(&others).await.is_ok_and(|now| now > before) {
                break Ok(killed.elapsed().as_secs_f64());
            }
            if killed.elapsed() > Duration::from_secs(20) {
                break Err(anyhow::anyhow!("20 s after the kill nothing new is applied"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.cluster.lock().await.restart(&name).await?;
        let seconds = outcome?;
        self.tell(lines, "ingest-resumed", format!("ingest goes on {seconds:.2} s after the kill"), json!({ "seconds": seconds })).await;
        self.tell(lines, "restart", format!("hub {leader} is started again"), json!({ "hub": leader })).await;
        Ok(())
    }

    async fn kill_agent(&self, agent: &str, lines: &Lines) -> Result<()> {
        let Some((pop, name, url)) = self.agents.iter().find(|(_, name, _)| *name == agent) else {
            bail!("there is no agent {agent}; there are {}", self.agents.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", "));
        };
        let mut cluster = self.cluster.lock().await;
        let process = format!("agent-{pop}-{name}");
        cluster.kill(&process).await?;
        let killed_ms = now_ms();
        self.ledger.lock().await.excused.push(Excused { pop: (*pop).to_owned(), window_ms: killed_ms - UNFLUSHED_MS..killed_ms + 500 });
        cluster.restart(&process).await?;
        drop(cluster);
        let text =
            format!("agent {pop}/{name} was killed with SIGKILL and is started again; what it had not flushed in its last second is gone");
        self.tell(lines, "kill-agent", text, json!({ "pop": pop, "agent": name })).await;
        let started = Instant::now();
        while http::get(format!("{url}/api/v1/labels"), ASK).await.is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                bail!("agent {pop}/{name} does not answer 20 s after its restart");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let text = format!("agent {pop}/{name} answers again after {:.1} s", started.elapsed().as_secs_f64());
        self.tell(lines, "agent-back", text, json!({ "seconds": started.elapsed().as_secs_f64() })).await;
        Ok(())
    }

    async fn status(&self, lines: &Lines) -> Result<()> {
        let say = async |text: String| drop(lines.send(format!("{text}\n")).await);
        say(format!("interfaces simulated: {}; expected with this machine's snmpd: {}", self.interfaces, self.expected)).await;
        for (hub, url) in &self.hubs {
            let line = match http::get(format!("{url}/api/v1/cluster"), ASK).await {
                Err(error) => format!("unreachable: {error:#}"),
                Ok(answer) => {
                    let count = http::number(url, "count(if_in_octets)", ASK).await.map_or_else(|e| e.to_string(), |n| n.to_string());
                    let of = &answer["data"];
                    let state = of["state"].as_str().unwrap_or("?");
                    format!(
                        "{state:<9} term {}  applied {}  log {} bytes  count(if_in_octets) {count}",
                        of["term"], of["applied"], of["log_bytes"]
                    )
                }
            };
            say(format!("hub {hub}         {line}")).await;
        }
        for (pop, name, url) in &self.agents {
            let count =
                http::number(url, "count(if_in_octets)", ASK).await.map_or_else(|e| format!("unreachable: {e:#}"), |n| n.to_string());
            let fault = self.cluster.lock().await.links(pop);
            let link = match fault {
                Fault { cut: true, .. } => "cut".to_owned(),
                Fault { delay_ms: 0, .. } => "up".to_owned(),
                Fault { delay_ms, .. } => format!("up, {delay_ms} ms each way"),
            };
            say(format!("agent {pop}/{name}  link {link}  count(if_in_octets) {count}")).await;
        }
        if let Some((_, url)) = self.hubs.first() {
            let (_, warnings) = http::query(url, "count(if_in_octets)", None, ASK).await.unwrap_or_default();
            for warning in warnings {
                say(format!("warning: {warning}")).await;
            }
        }
        Ok(())
    }

    /// Checks everything since the start that has had time to arrive; says and returns what was found, `None` if nothing has.
    async fn check(&self, lines: &Lines) -> Result<Option<Value>> {
        let (mut window, excused, cut): (Range<i64>, _, _) = {
            let marks = self.ledger.lock().await;
            let from = marks.complete_from_ms.max(now_ms() - LONGEST_CHECK_MS);
            (from..now_ms() - 5_000, marks.excused.clone(), marks.cut.clone())
        };
        if let Some((pop, since)) = cut.iter().min_by_key(|(_, at)| *at) {
            window.end = window.end.min(since - 2_000);
            let text = format!("{pop} is cut off, so only what was answered before the cut is checked");
            self.tell(lines, "check", text, json!({ "pop": pop })).await;
        }
        if window.is_empty() {
            return Ok(None);
        }
        let ledger = Ledger::read(&self.simulator, "*", &window, &excused).await?;
        let mut nodes = serde_json::Map::new();
        let mut clean = true;
        for (hub, url) in &self.hubs {
            let report = ledger.compare(url, &window).await?;
            clean &= report.is_clean();
            let text = format!("hub {hub}: {}", verify::summary(&report));
            self.tell(lines, "check", text, verify::json(&report)).await;
            for finding in report.to_string().lines().skip(1).take(5) {
                let _ = lines.send(format!("{finding}\n")).await;
            }
            nodes.insert(format!("hub-{hub}"), verify::json(&report));
        }
        let seconds = (window.end - window.start) as f64 / 1000.0;
        Ok(Some(json!({ "clean": clean, "seconds": seconds, "window_ms": [window.start, window.end], "hubs": nodes })))
    }

    /// The check at the end; findings are in the answer, not an error.
    async fn last_check(&self, interval: Duration) -> Result<Value> {
        let (lines, mut drain) = mpsc::channel::<String>(16);
        let drained = tokio::spawn(async move { while drain.recv().await.is_some() {} });
        self.timeline.lock().await.say(&format!("checking what is stored against what the devices answered (every {interval:?})"));
        let result = self.check(&lines).await;
        drop(lines);
        drained.await.context("the check was abandoned")?;
        Ok(result?.unwrap_or_else(|| json!({ "clean": null, "why": "the demo was too short to check anything" })))
    }

    async fn summary(&self, last: &Value) -> Value {
        let counts = counts(&self.hubs, "count(if_in_octets)").await;
        let pids = self.cluster.lock().await.pids();
        let usage = pids.iter().filter_map(|(name, pid)| Some((name.clone(), serde_json::to_value(usage::usage(*pid).ok()?).ok()?)));
        let timeline = self.timeline.lock().await;
        json!({
            "seconds": timeline.seconds(),
            "interfaces_simulated": self.interfaces,
            "interfaces_expected": self.expected,
            "count_if_in_octets": counts.iter().map(|(hub, count)| (format!("hub-{hub}"), json!(count))).collect::<serde_json::Map<_, _>>(),
            "check": last,
            "events": timeline.events(),
            "processes": usage.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// Samples applied of all agents, as the first of the hubs to answer says.
async fn applied_samples(hubs: &[(HubId, String)]) -> Result<u64> {
    for (_, url) in hubs {
        if let Ok(answer) = http::get(format!("{url}/api/v1/agents"), Duration::from_secs(1)).await {
            return Ok(answer["data"].as_array().into_iter().flatten().filter_map(|a| a["samples"].as_u64()).sum());
        }
    }
    bail!("no hub answers")
}
