//! The commands that ask a running hub over HTTP.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::Agent;

use crate::cli::{At, ClusterVerb, DeviceVerb, ListVerb, Output};
use crate::text::table;

/// Redirects followed: from a follower to the leader, and once more if it changes meanwhile.
const REDIRECTS: usize = 3;
/// How long one request may take; a large import is many entries of the log.
const DEADLINE: Duration = Duration::from_secs(30);

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(Some(DEADLINE)).build().into()
}

/// What is sent.
enum Request<'a> {
    Get,
    Post(&'a Value),
    Delete,
}

fn ask(at: &At, path: &str, request: &Request<'_>) -> Result<Value> {
    let agent = agent();
    let mut url = format!("{}{path}", at.hub.trim_end_matches('/'));
    let bearer = at.token.as_ref().map(|token| format!("Bearer {token}"));
    for _ in 0..=REDIRECTS {
        let sent = match request {
            Request::Get => agent.get(&url).call(),
            Request::Post(body) => bearer.iter().fold(agent.post(&url), |r, b| r.header("authorization", b)).send_json(body),
            Request::Delete => bearer.iter().fold(agent.delete(&url), |r, b| r.header("authorization", b)).call(),
        };
        let mut response = sent.with_context(|| format!("cannot ask {url}"))?;
        if response.status().is_redirection() {
            let location = response.headers().get("location").and_then(|l| l.to_str().ok());
            url = location.with_context(|| format!("{url} redirects to nowhere"))?.to_owned();
            continue;
        }
        let answer: Value = response.body_mut().read_json().with_context(|| format!("{url} did not answer in JSON"))?;
        if answer["status"] != "success" {
            bail!("{url}: {}", answer["error"].as_str().unwrap_or("no reason given"));
        }
        return Ok(answer);
    }
    bail!("{url}: redirected more than {REDIRECTS} times")
}

/// Prints rows of `columns` (head, JSON pointer) of an array, or the answer itself.
fn print_rows(at: &At, answer: &Value, columns: &[(&str, &str)]) {
    match at.output {
        Output::Json => println!("{answer:#}"),
        Output::Table => {
            let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
            let rows = answer["data"].as_array().into_iter().flatten();
            let cells = |row: &Value| columns.iter().map(|(_, pointer)| cell(row.pointer(pointer))).collect();
            print!("{}", table(&heads, &rows.map(cells).collect::<Vec<Vec<String>>>()));
        }
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// `device ...`
///
/// # Errors
/// The hub cannot be asked, or refuses.
pub fn device(verb: &DeviceVerb) -> Result<()> {
    match verb {
        DeviceVerb::List { at } => {
            let answer = ask(at, "/api/v1/devices", &Request::Get)?;
            print_rows(
                at,
                &answer,
                &[("NAME", "/name"), ("POP", "/pop"), ("ADDRESS", "/address"), ("INTERVAL-MS", "/interval"), ("AGENT", "/agent")],
            );
        }
        DeviceVerb::Import { file, at } => {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let devices: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
            let answer = ask(at, "/api/v1/devices", &Request::Post(&devices))?;
            println!("{} devices received, {} added or changed", answer["data"]["received"], answer["data"]["changed"]);
        }
        DeviceVerb::Remove { name, at } => {
            ask(at, &format!("/api/v1/devices/{name}"), &Request::Delete)?;
            println!("removed {name}");
        }
    }
    Ok(())
}

/// `agent list`
///
/// # Errors
/// The hub cannot be asked.
pub fn agents(ListVerb::List { at }: &ListVerb) -> Result<()> {
    let answer = ask(at, "/api/v1/agents", &Request::Get)?;
    let columns = [
        ("POP", "/pop"),
        ("AGENT", "/name"),
        ("DARK-SINCE", "/dark_since"),
        ("DEVICES", "/devices"),
        ("FAILING", "/load/devices_failing"),
        ("UNACKED", "/load/unacknowledged_batches"),
        ("SAMPLES", "/samples"),
        ("GAPS", "/gaps"),
        ("HTTP", "/http"),
    ];
    print_rows(at, &answer, &columns);
    Ok(())
}

/// `pop list`
///
/// # Errors
/// The hub cannot be asked.
pub fn pops(ListVerb::List { at }: &ListVerb) -> Result<()> {
    let answer = ask(at, "/api/v1/pops", &Request::Get)?;
    print_rows(
        at,
        &answer,
        &[
            ("POP", "/name"),
            ("STATE", "/state"),
            ("DARK-SINCE", "/dark_since"),
            ("AGENTS", "/agents"),
            ("DEVICES", "/devices"),
            ("UNASSIGNED", "/devices_unassigned"),
        ],
    );
    Ok(())
}

/// `gap list`
///
/// # Errors
/// The hub cannot be asked.
pub fn gaps(ListVerb::List { at }: &ListVerb) -> Result<()> {
    let answer = ask(at, "/api/v1/gaps", &Request::Get)?;
    let columns = [
        ("POP", "/pop"),
        ("AGENT", "/agent"),
        ("FROM", "/from"),
        ("TO", "/to"),
        ("BATCHES", "/sequences"),
        ("SAMPLES", "/samples"),
        ("REASON", "/reason"),
    ];
    print_rows(at, &answer, &columns);
    Ok(())
}

/// `cluster status`: asks the node given, then every other one it names.
///
/// # Errors
/// The first node cannot be asked.
pub fn cluster(ClusterVerb::Status { at }: &ClusterVerb) -> Result<()> {
    let first = ask(at, "/api/v1/cluster", &Request::Get)?;
    let mut rows = Vec::new();
    for node in first["data"]["nodes"].as_array().into_iter().flatten() {
        let of_node = At { hub: node["http"].as_str().unwrap_or_default().to_owned(), token: None, output: at.output };
        rows.push(match ask(&of_node, "/api/v1/cluster", &Request::Get) {
            Ok(answer) => answer["data"].clone(),
            Err(error) => serde_json::json!({ "node": node["id"], "state": format!("unreachable: {error}") }),
        });
    }
    let columns = [
        ("NODE", "/node"),
        ("STATE", "/state"),
        ("TERM", "/term"),
        ("LEADER", "/leader"),
        ("COMMITTED", "/committed"),
        ("APPLIED", "/applied"),
        ("LOG-BYTES", "/log_bytes"),
        ("SERIES", "/series"),
        ("DEVICES", "/devices"),
    ];
    print_rows(at, &serde_json::json!({ "data": rows }), &columns);
    Ok(())
}

/// `query EXPRESSION`
///
/// # Errors
/// The hub cannot be asked, or the expression has no answer.
pub fn query(expression: &str, at: &At) -> Result<()> {
    let answer = ask(at, &format!("/api/v1/query?query={}", percent_encoded(expression)), &Request::Get)?;
    if at.output == Output::Json {
        println!("{answer:#}");
        return Ok(());
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", cell(Some(warning)));
    }
    let result = &answer["data"]["result"];
    let rows = match answer["data"]["resultType"].as_str() {
        Some("vector") => {
            result.as_array().into_iter().flatten().map(|row| vec![series(&row["metric"]), cell(row.pointer("/value/1"))]).collect()
        }
        Some("scalar" | "string") => vec![vec![String::new(), cell(result.get(1))]],
        _ => result.as_array().into_iter().flatten().map(|row| vec![series(&row["metric"]), row["values"].to_string()]).collect::<Vec<_>>(),
    };
    print!("{}", table(&["SERIES", "VALUE"], &rows));
    Ok(())
}

fn series(metric: &Value) -> String {
    let labels = metric.as_object().into_iter().flatten().filter(|(name, _)| *name != "__name__");
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
    format!("{}{{{}}}", metric["__name__"].as_str().unwrap_or(""), labels.join(","))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
        out
    })
}
