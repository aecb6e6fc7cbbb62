//! The command line: what can be asked of the binary.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::config::Config;
use crate::spool::Spool;

/// The Anemone edge agent.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent.
    Run {
        /// Its config.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a config file; opens nothing else.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Show what the spool of a stopped agent holds.
    Spool {
        /// The agent's data directory.
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Ask a running agent, in PromQL, and print the answer as a table.
    Query {
        /// The expression.
        expr: String,
        /// Where the agent's HTTP API listens.
        #[arg(long, default_value = "127.0.0.1:9180")]
        http: String,
    },
}

/// `check-config`: says that it is right, or all that is wrong.
///
/// # Errors
/// Something is wrong with it.
pub fn check_config(file: &Path, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let hubs: Vec<String> = config.hubs.iter().map(|hub| format!("{} at {}", hub.id, hub.address)).collect();
    writeln!(out, "{}: ok: agent {}, hubs {}", file.display(), config.agent, hubs.join(", "))?;
    Ok(())
}

/// `spool`: opens the spool and prints what it holds. It cannot be opened while an agent runs on it.
///
/// # Errors
/// There is none, or it is in use.
pub fn inspect_spool(data_dir: &Path, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let dir = data_dir.join("spool");
    if !dir.join("log").is_dir() {
        bail!("{} has no spool", data_dir.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot start a runtime")?;
    let opened = runtime.block_on(Spool::inspect(&dir));
    let (spool, report) = opened.context("the spool cannot be opened; of a running agent ask /api/v1/status/agent")?;
    let status = spool.status();
    writeln!(out, "epoch              {:016x}", status.epoch)?;
    writeln!(out, "first held         {}", status.first)?;
    writeln!(out, "acknowledged below {}", status.acked_below)?;
    writeln!(out, "next               {}", status.next)?;
    writeln!(out, "bytes              {}", status.bytes)?;
    writeln!(
        out,
        "to be shipped      {} batches, {} bytes",
        status.durable_below.saturating_sub(status.acked_below),
        status.unacknowledged_bytes
    )?;
    writeln!(out, "dropped            {} batches", status.dropped_batches)?;
    for gap in &status.gaps {
        let end = gap.from_sequence + gap.sequences;
        writeln!(out, "gap                {}..{end}, {} samples: {}", gap.from_sequence, gap.samples, gap.reason)?;
    }
    for lost in &report.log.lost {
        writeln!(out, "lost               {}..{} at byte {} of {}", lost.from, lost.to, lost.offset, lost.path.display())?;
    }
    runtime.block_on(spool.release());
    Ok(())
}

/// `query`: prints one line for each series of an instant query.
///
/// # Errors
/// The agent does not answer, or not with a result.
pub fn query(expr: &str, http: &str, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let url = format!("http://{}/api/v1/query", http.trim_start_matches("http://").trim_end_matches('/'));
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).http_status_as_error(false).build();
    let answer = ureq::Agent::new_with_config(config).get(&url).query("query", expr).call();
    let mut answer = answer.with_context(|| format!("the agent at {http} does not answer"))?;
    let body: Value = answer.body_mut().read_json().with_context(|| format!("the answer of {http} is not JSON"))?;
    if body["status"] != "success" {
        bail!("{}", body["error"].as_str().unwrap_or("the agent answered without a result"));
    }
    for warning in body["warnings"].as_array().into_iter().flatten() {
        writeln!(std::io::stderr(), "warning: {}", warning.as_str().unwrap_or_default())?;
    }
    print_table(&rows(&body["data"]), out)?;
    Ok(())
}

/// Series text and value of each row of an answer.
fn rows(data: &Value) -> Vec<(String, String)> {
    let value = |pair: &Value| pair[1].as_str().unwrap_or_default().to_owned();
    match data["resultType"].as_str() {
        Some("vector") => {
            let series = data["result"].as_array().into_iter().flatten();
            series.map(|series| (series_text(&series["metric"]), value(&series["value"]))).collect()
        }
        Some("matrix") => {
            let series = data["result"].as_array().into_iter().flatten();
            let samples = series.flat_map(|series| {
                let name = series_text(&series["metric"]);
                let values = series["values"].as_array().into_iter().flatten();
                values.map(move |pair| (format!("{name} @{}", pair[0]), value(pair))).collect::<Vec<_>>()
            });
            samples.collect()
        }
        _ => vec![(String::new(), value(&data["result"]))],
    }
}

fn series_text(metric: &Value) -> String {
    let labels = metric.as_object().into_iter().flatten().filter(|(name, _)| *name != "__name__");
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
    format!("{}{{{}}}", metric["__name__"].as_str().unwrap_or_default(), labels.join(","))
}

fn print_table(rows: &[(String, String)], out: &mut impl std::io::Write) -> std::io::Result<()> {
    let width = rows.iter().map(|(series, _)| series.chars().count()).max().unwrap_or(0);
    for (series, value) in rows {
        writeln!(out, "{series:width$}  {value}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_rows() {
        let vector = serde_json::json!({"resultType": "vector", "result": [
            {"metric": {"__name__": "up", "pop": "ams1"}, "value": [1.5, "1"]},
            {"metric": {}, "value": [1.5, "42"]},
        ]});
        assert_eq!(rows(&vector), [("up{pop=\"ams1\"}".into(), "1".into()), ("{}".into(), "42".into())]);
        let scalar = serde_json::json!({"resultType": "scalar", "result": [1.5, "7"]});
        assert_eq!(rows(&scalar), [(String::new(), "7".into())]);
        let mut out = Vec::new();
        print_table(&rows(&vector), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "up{pop=\"ams1\"}  1\n{}              42\n");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_directory_without_a_spool_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = inspect_spool(dir.path(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().ends_with("has no spool"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is created by looking");
    }
}
