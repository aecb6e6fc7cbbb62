//! The demo as its users run it: one process that brings everything up, and a second terminal that talks to it.
//!
//! Figures are printed; `--nocapture` shows them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anemone_chaos::demo::http;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// For one question to a node.
const ASK: Duration = Duration::from_secs(10);
/// For one command of the second terminal.
const COMMAND: Duration = Duration::from_secs(40);
/// Everything has to be up, or over, by then; what is promised is asserted on its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// In the demo's own clock: all hubs have all interfaces.
const COMPLETE_S: f64 = 15.0;
/// After a cut the hubs warn.
const WARNED: Duration = Duration::from_secs(10);
/// After Ctrl-C everything is gone.
const GONE: Duration = Duration::from_secs(5);
/// A check leaves out the last 5 s; after this time it covers the kills.
const SETTLED: Duration = Duration::from_secs(6);
/// Below what Linux gives to outgoing connections, and not where the test of the whole system looks.
const PORTS: Range<u16> = 14_000..20_000;
/// Interfaces of this machine, if it has an snmpd, may come and go.
const SIMULATED: &str = "count(if_in_octets{device!=\"this-machine\"})";
/// Three hubs, three agents and the simulator.
const CHILDREN: usize = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_comes_up_obeys_a_second_terminal_and_leaves_nothing_behind() {
    check_binaries();
    let temporary = tempfile::Builder::new().prefix("anemone-demo-program-").tempdir().expect("a folder");
    let folder = temporary.path().canonicalize().expect("a path");
    let started = Instant::now();
    if let Err(error) = scenarios(&folder).await {
        let kept = temporary.keep();
        let said = ["first", "second"].map(|name| fs::read_to_string(kept.join(name).with_extension("out")).unwrap_or_default());
        panic!("{error:#}\n\nEverything is kept in {}. The demo said:\n{}", kept.display(), said.join("\n"));
    }
    println!("all of it took {:.1} s", started.elapsed().as_secs_f64());
}

async fn scenarios(folder: &Path) -> Result<()> {
    let mut demo = Demo::start(folder, "first", &["--data-dir", path_text(&folder.join("kept"))?]).await?;
    demo.everything_is_up().await?;
    demo.status_is_told().await.context("status")?;
    // The only agent of its PoP, so it certainly has devices.
    for (node, pops) in [(&demo.hubs[0], &["ams1", "nyc1"][..]), (&demo.agents[2], &["nyc1"])] {
        answers_as_prometheus(node, pops).await.with_context(|| node.clone())?;
    }
    demo.a_pop_is_cut_and_healed().await.context("cut and heal")?;
    demo.links_are_delayed().await.context("delay")?;
    demo.processes_are_killed().await.context("kills")?;
    demo.mistakes_are_explained().await.context("mistakes")?;
    demo.an_interrupt_ends_it().await.context("interrupt")?;
    it_ends_by_itself(folder).await.context("a demo with a duration")
}

/// Cargo builds the binaries of other packages only when the whole workspace is built.
fn check_binaries() {
    let folder = Path::new(DEMO).parent().expect("a program is in a folder");
    for name in ["simulator", "core-hub", "edge-agent"] {
        assert!(folder.join(name).is_file(), "there is no {name} in {}: run `cargo build --workspace` first", folder.display());
    }
}

/// Three ports in a row that nobody listens at, searched upwards from `from`.
fn three_in_a_row(from: u16) -> Result<u16> {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let free = |first: &u16| (*first..first + 3).map(|port| TcpListener::bind(address(port))).collect::<Result<Vec<_>, _>>().is_ok();
    (from..PORTS.end - 3).step_by(3).find(free).with_context(|| format!("no three ports in a row are free from {from} on"))
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

/// Process ids with the folder in their command line.
fn processes_of(folder: &Path) -> Result<Vec<(String, String)>> {
    let name = path_text(folder)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        // One that ended since has no command line any more, and neither has a zombie.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid.bytes().all(|b| b.is_ascii_digit()) && line.contains(name) {
            found.push((pid, line));
        }
    }
    Ok(found)
}

async fn nap() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// What a command of the second terminal did.
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

/// A running demo.
struct Demo {
    folder: PathBuf,
    child: Child,
    output: PathBuf,
    report: PathBuf,
    hubs: Vec<String>,
    agents: Vec<String>,
    interfaces: u64,
}

impl Demo {
    async fn start(folder: &Path, name: &str, extra: &[&str]) -> Result<Self> {
        // Two runs at once on one machine begin at different ports.
        let begin = PORTS.start + u16::try_from(std::process::id() % 900)? * 6;
        let hub = three_in_a_row(begin)?;
        let edge = three_in_a_row(hub + 3)?;
        let (output, report) = (folder.join(name).with_extension("out"), folder.join(name).with_extension("json"));
        let log = File::create(&output)?;
        let child = Command::new(DEMO)
            .args(["--devices", "6", "--interval", "1s"])
            .args(["--hub-http", &format!("127.0.0.1:{hub}"), "--edge-http", &format!("127.0.0.1:{edge}")])
            .args(["--report", path_text(&report)?])
            .args(extra)
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // As a shell does, so that Ctrl-C reaches all of the group.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start the demo")?;
        let urls = |first: u16| (first..first + 3).map(|port| format!("http://127.0.0.1:{port}")).collect();
        Ok(Self { folder: folder.to_owned(), child, output, report, hubs: urls(hub), agents: urls(edge), interfaces: 0 })
    }

    /// Runs a command as from a second terminal.
    async fn ask(&self, line: &str) -> Result<Said> {
        let mut command = Command::new(DEMO);
        command.args(line.split(' ')).env("TMPDIR", &self.folder).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(COMMAND, command.output()).await.with_context(|| format!("demo {line} does not end within {COMMAND:?}"))??;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { status: output.status, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// As [`Self::ask`]; what it printed.
    async fn obeys(&self, line: &str) -> Result<String> {
        let said = self.ask(line).await?;
        ensure!(said.status.success(), "demo {line}: {}: {}{}", said.status, said.out, said.err);
        Ok(said.out)
    }

    /// Waits for a line of the demo's own terminal.
    async fn line(&mut self, has: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.output)?;
            if let Some(line) = text.lines().find(|line| has(line)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the demo ended: {status}");
            }
            ensure!(Instant::now() < deadline, "the demo did not say it within {PATIENCE:?}");
            nap().await;
        }
    }

    async fn everything_is_up(&mut self) -> Result<()> {
        let line = self.line(|line| line.contains("count(if_in_octets) is ") && line.contains("at all hubs")).await?;
        let clock = line.strip_prefix('[').and_then(|rest| rest.split_once("s]")).with_context(|| format!("no time in {line:?}"))?.0;
        let seconds: f64 = clock.trim().parse().with_context(|| format!("no time in {line:?}"))?;
        println!("all hubs have all interfaces {seconds:.1} s after the start");
        ensure!(seconds <= COMPLETE_S, "that took {seconds} s, longer than {COMPLETE_S} s");
        let count = line.split("count(if_in_octets) is ").nth(1).and_then(|rest| rest.split(' ').next());
        self.interfaces = count.unwrap_or_default().parse().with_context(|| format!("no number in {line:?}"))?;
        self.line(|line| line.contains("demo cut ams1")).await?;
        let address = format!("anemone-demo-{}.address", rustix::process::getuid().as_raw());
        ensure!(self.folder.join(&address).is_file(), "there is no {address}");
        Ok(())
    }

    async fn status_is_told(&self) -> Result<()> {
        let status = self.obeys("status").await?;
        for name in ["hub 1", "hub 2", "hub 3", "agent ams1/a1", "agent ams1/a2", "agent nyc1/n1"] {
            let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in\n{status}"))?;
            ensure!(line.contains("count(if_in_octets) ") && !line.contains("unreachable"), "{line}");
        }
        let leaders = status.lines().filter(|line| line.starts_with("hub ") && line.contains(" leader")).count();
        ensure!(leaders == 1, "{leaders} leaders in\n{status}");
        println!("{}", status.trim_end());
        Ok(())
    }

    async fn a_pop_is_cut_and_healed(&self) -> Result<()> {
        self.obeys("cut ams1").await?;
        let cut = Instant::now();
        for hub in &self.hubs {
            loop {
                let (_, warnings) = http::query(hub, "count(if_in_octets)", None, ASK).await?;
                if warnings.iter().any(|warning| warning.contains("ams1")) {
                    break;
                }
                ensure!(
                    cut.elapsed() < WARNED,
                    "{:.1} s after the cut {hub} does not warn of ams1: {warnings:?}",
                    cut.elapsed().as_secs_f64()
                );
                nap().await;
            }
        }
        println!("all hubs warn of ams1 {:.1} s after the cut", cut.elapsed().as_secs_f64());
        for hub in &self.hubs {
            let (result, warnings) = http::query(hub, "count(if_in_octets{pop=\"nyc1\"})", None, ASK).await?;
            ensure!(result.len() == 1 && warnings.is_empty(), "{hub}: nyc1 is not cut off: {result:?}, {warnings:?}");
        }
        ensure!(self.obeys("status").await?.contains("link cut"), "status does not say that ams1 is cut off");
        let began = Instant::now();
        let healed = self.obeys("heal ams1").await?;
        ensure!(healed.contains(" 0 missing") && healed.contains(" 0 doubled"), "{healed}");
        println!("demo heal took {:.1} s: {}", began.elapsed().as_secs_f64(), healed.lines().last().unwrap_or_default());
        Ok(())
    }

    async fn links_are_delayed(&self) -> Result<()> {
        for (command, shown) in [("delay nyc1 50ms", true), ("delay nyc1 0", false)] {
            self.obeys(command).await?;
            let status = self.obeys("status").await?;
            let delayed = status.lines().any(|line| line.starts_with("agent nyc1/") && line.contains("50 ms"));
            ensure!(delayed == shown, "after {command}:\n{status}");
        }
        Ok(())
    }

    async fn processes_are_killed(&self) -> Result<()> {
        let killed = self.obeys("kill-leader").await?;
        let seconds = killed.split("ingest goes on ").nth(1).and_then(|rest| rest.split(' ').next());
        let seconds: f64 = seconds.and_then(|text| text.parse().ok()).with_context(|| format!("no seconds in {killed}"))?;
        println!("ingest goes on {seconds:.2} s after the leader was killed");
        for agent in ["a1", "n1"] {
            let killed = self.obeys(&format!("kill-agent {agent}")).await?;
            ensure!(killed.contains("answers again"), "{killed}");
            println!("{}", killed.lines().last().unwrap_or_default());
        }
        self.all_is_counted().await?;
        tokio::time::sleep(SETTLED).await;
        let checked = self.obeys("check").await?;
        for hub in ["hub 1: ", "hub 2: ", "hub 3: "] {
            let line = checked.lines().find(|line| line.contains(hub)).with_context(|| format!("no {hub} in\n{checked}"))?;
            ensure!([" 0 missing", " 0 doubled", " 0 invented"].iter().all(|none| line.contains(none)), "{line}");
            println!("demo check: {line}");
        }
        Ok(())
    }

    /// Waits until the hub that was started again has all interfaces too.
    async fn all_is_counted(&self) -> Result<()> {
        let began = Instant::now();
        for hub in &self.hubs {
            loop {
                let count = http::number(hub, SIMULATED, ASK).await;
                if count.as_ref().is_ok_and(|count| *count == self.interfaces) {
                    break;
                }
                ensure!(began.elapsed() < PATIENCE / 2, "{hub} has {count:?} of {} interfaces", self.interfaces);
                nap().await;
            }
        }
        println!("all hubs have all {} interfaces {:.1} s later", self.interfaces, began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn mistakes_are_explained(&self) -> Result<()> {
        for (line, names) in [
            ("cut xyz9", &["xyz9", "ams1", "nyc1"][..]),
            ("heal xyz9", &["xyz9", "ams1", "nyc1"]),
            ("delay xyz9 1s", &["xyz9", "ams1", "nyc1"]),
            ("kill-agent z9", &["z9", "a1", "a2", "n1"]),
        ] {
            let said = self.ask(line).await?;
            ensure!(!said.status.success(), "demo {line} succeeds: {}", said.out);
            ensure!(names.iter().all(|name| said.err.contains(name)), "demo {line}: {}", said.err);
        }
        Ok(())
    }

    /// Waits for the end; how long that took.
    async fn ends(&mut self, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        let status = timeout(within, self.child.wait()).await.with_context(|| format!("the demo does not end within {within:?}"))??;
        let took = began.elapsed();
        ensure!(status.success(), "the demo ended after {:.1} s: {status}", took.as_secs_f64());
        let left = processes_of(&self.folder)?;
        ensure!(left.is_empty(), "still there: {left:?}");
        Ok(took)
    }

    /// The report, with what every one of them has.
    fn reported(&self) -> Result<Value> {
        let text = fs::read_to_string(&self.report).context("the report")?;
        let report: Value = serde_json::from_str(&text).context("the report")?;
        let check = &report["check"];
        let why = check["why"].as_str().unwrap_or_default();
        println!("report: check.clean {}{}{why}", check["clean"], if why.is_empty() { "" } else { ", because " });
        let without_time = check["clean"].is_null() && !why.is_empty();
        ensure!(check["clean"] == true || without_time, "check is neither clean nor says why it was not made: {check:#}");
        ensure!(report["interfaces_simulated"].as_u64().is_some_and(|count| count > 0), "{report:#}");
        ensure!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 3.0), "{report:#}");
        Ok(report)
    }

    /// Ctrl-C, which a terminal sends to the whole group.
    async fn an_interrupt_ends_it(mut self) -> Result<()> {
        let running = processes_of(&self.folder)?.len();
        ensure!(running == CHILDREN + 1, "{running} processes run");
        let group = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the demo runs")?;
        kill_process_group(group, Signal::INT)?;
        let took = self.ends(GONE).await?;
        println!("everything is gone {:.1} s after the interrupt", took.as_secs_f64());
        let report = self.reported()?;
        let events: Vec<&str> = report["events"].as_array().context("events")?.iter().filter_map(|e| e["event"].as_str()).collect();
        for event in ["cut", "heal", "kill-leader", "kill-agent"] {
            ensure!(events.contains(&event), "no {event} among the events of the report: {events:?}");
        }
        let said = self.ask("status").await?;
        ensure!(!said.status.success() && said.err.contains("no demo runs"), "status without a demo: {}{}", said.out, said.err);
        ensure!(self.folder.join("kept").is_dir(), "the folder given is gone");
        Ok(())
    }
}

async fn it_ends_by_itself(folder: &Path) -> Result<()> {
    let began = Instant::now();
    let mut demo = Demo::start(folder, "second", &["--duration", "3"]).await?;
    demo.everything_is_up().await?;
    demo.ends(PATIENCE).await?;
    println!("a demo of 3 s was there for {:.1} s", began.elapsed().as_secs_f64());
    demo.reported()?;
    let left: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    ensure!(!left.iter().any(|name| name.starts_with("anemone-demo-")), "it left something behind: {left:?}");
    Ok(())
}

/// The data of a successful answer.
async fn data(node: &str, path: &str) -> Result<Value> {
    let mut answer = http::get(format!("{node}/api/v1/{path}"), ASK).await?;
    ensure!(answer["status"] == "success", "{path}: {answer}");
    Ok(answer["data"].take())
}

/// `[seconds, "value"]`.
fn is_sample(pair: &Value) -> bool {
    let Some([time, Value::String(value)]) = pair.as_array().map(Vec::as_slice) else { return false };
    time.is_number() && value.parse::<f64>().is_ok()
}

/// Every endpoint has the shape that Prometheus documents.
async fn answers_as_prometheus(node: &str, expected: &[&str]) -> Result<()> {
    let instant = data(node, "query?query=if_in_octets").await?;
    let rows = instant["result"].as_array().context("the result of query is no array")?;
    let shaped = rows.iter().all(|row| row["metric"]["__name__"] == "if_in_octets" && is_sample(&row["value"]));
    ensure!(instant["resultType"] == "vector" && !rows.is_empty() && shaped, "query: {instant}");
    let now = rows[0]["value"][0].as_f64().context("a time")?;

    let range = data(node, &format!("query_range?query=if_in_octets&start={}&end={now}&step=1", now - 5.0)).await?;
    let rows = range["result"].as_array().context("the result of query_range is no array")?;
    let samples = |row: &Value| row["values"].as_array().is_some_and(|values| !values.is_empty() && values.iter().all(is_sample));
    ensure!(range["resultType"] == "matrix" && !rows.is_empty() && rows.iter().all(samples), "query_range: {range}");

    let series = data(node, &format!("series?{}=if_in_octets", http::encoded("match[]"))).await?;
    let named = |one: &Value| {
        let labels = one.as_object();
        one["__name__"] == "if_in_octets" && labels.is_some_and(|l| ["pop", "device", "if_name"].iter().all(|name| l[*name].is_string()))
    };
    ensure!(series.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(named)), "series: {series}");

    let labels = data(node, "labels").await?;
    let names = labels.as_array().context("labels are no array")?;
    ensure!(["__name__", "pop", "device", "if_name"].iter().all(|name| names.iter().any(|n| n == name)), "labels: {labels}");
    let pops = data(node, "label/pop/values").await?;
    ensure!(pops == Value::from(expected), "pops: {pops}");

    let refused = http::get(format!("{node}/api/v1/query?query={}", http::encoded("sum(")), ASK).await?;
    ensure!(refused["status"] == "error" && refused["errorType"] == "bad_data" && refused["error"].is_string(), "{refused}");
    Ok(())
}
