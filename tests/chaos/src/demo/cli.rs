//! The demo's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// The whole of Anemone on this machine: three hubs, two PoPs, simulated devices. Without a command it starts; the commands
/// below talk to a demo that runs in another terminal.
#[derive(Debug, Parser)]
#[command(name = "demo", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do with a running demo.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to start one.
    #[command(flatten)]
    pub up: Up,
}

/// How to start a demo.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// Stop after this time, such as 90, 90s or 5m; runs until Ctrl-C otherwise.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Simulated devices.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub devices: u32,
    /// Poll interval, such as 5s.
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    pub interval: Duration,
    /// HTTP of the first hub; the others have the next two ports.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub hub_http: SocketAddr,
    /// HTTP of the first agent; the others have the next two ports.
    #[arg(long, default_value = "127.0.0.1:9180")]
    pub edge_http: SocketAddr,
    /// Where everything is kept; a temporary directory, removed at the end, if not given.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Write a JSON summary here at the end.
    #[arg(long)]
    pub report: Option<PathBuf>,
}

/// Commands for a running demo.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Cut every link between a PoP and the hubs.
    Cut {
        /// The PoP, such as ams1.
        pop: String,
    },
    /// Undo cut and delay; after a cut, wait for its samples and check the hubs against the simulator's ledger.
    Heal {
        /// The PoP.
        pop: String,
    },
    /// Hold every datagram between a PoP and the hubs, each way.
    Delay {
        /// The PoP.
        pop: String,
        /// How long, such as 200ms; 0 undoes it.
        #[arg(value_parser = parse_duration)]
        delay: Duration,
    },
    /// Kill the leading hub with SIGKILL, wait until ingest goes on, then start it again.
    KillLeader,
    /// Kill an agent with SIGKILL and start it again.
    KillAgent {
        /// The agent, such as a1.
        agent: String,
    },
    /// Nodes, PoPs, links and counts.
    Status,
    /// Compare what every hub has stored with the simulator's ledger, series by series.
    Check,
    /// Stop the demo.
    Stop,
    /// Measure: one agent, many devices, three hubs; prints CPU and memory of each process.
    Load(Load),
}

/// The load figure.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Simulated devices.
    #[arg(long, default_value_t = 10_000)]
    pub devices: u32,
    /// Interfaces of each.
    #[arg(long, default_value_t = 48)]
    pub interfaces: u16,
    /// Poll interval.
    #[arg(long, value_parser = parse_duration, default_value = "60s")]
    pub interval: Duration,
    /// How long to let it settle before measuring: series are defined in the first interval.
    #[arg(long, value_parser = parse_duration, default_value = "130s")]
    pub warm_up: Duration,
    /// How long to measure.
    #[arg(long, value_parser = parse_duration, default_value = "120s")]
    pub duration: Duration,
    /// Where everything is kept; a temporary directory if not given.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Write the figures as JSON here.
    #[arg(long)]
    pub report: Option<PathBuf>,
}

/// `200ms`, `90s`, `90`, `5m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a duration such as 200ms, 90s or 5m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{text:?} has the unknown unit {unit:?}; known: ms, s, m, h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("200ms", 200), ("90", 90_000), ("90s", 90_000), ("5m", 300_000), ("1h", 3_600_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "s", "5d", "-1s", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_as_documented() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command.is_some());
        assert_eq!(parse("demo --devices 10 --duration 60 --interval 2s --hub-http 127.0.0.1:9080").ok(), Some(false));
        assert_eq!(parse("demo cut ams1").ok(), Some(true));
        assert_eq!(parse("demo delay nyc1 200ms").ok(), Some(true));
        assert!(parse("demo fly ams1").is_err());
    }
}
