//! The command line: `run` and `check-config` on the node itself, the rest over any node's HTTP API.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The Anemone core hub: replicated ingest, inventory, assignment, store and query.
#[derive(Debug, Parser)]
#[command(name = "core-hub", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a hub node until it is told to stop.
    Run {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration file and say what is wrong with it.
    CheckConfig {
        /// Configuration file.
        file: PathBuf,
    },
    /// The inventory.
    Device {
        /// What to do with it.
        #[command(subcommand)]
        verb: DeviceVerb,
    },
    /// Agents: reachability, devices, how far each spool is applied.
    Agent {
        /// What to do.
        #[command(subcommand)]
        verb: ListVerb,
    },
    /// PoPs: reachable or dark since when.
    Pop {
        /// What to do.
        #[command(subcommand)]
        verb: ListVerb,
    },
    /// What agents had to give up, and why.
    Gap {
        /// What to do.
        #[command(subcommand)]
        verb: ListVerb,
    },
    /// The Raft group as each node sees it.
    Cluster {
        /// What to do.
        #[command(subcommand)]
        verb: ClusterVerb,
    },
    /// Evaluate a PromQL expression now.
    Query {
        /// The expression.
        expression: String,
        /// Where to ask.
        #[command(flatten)]
        at: At,
    },
}

/// What can be done with devices.
#[derive(Debug, Subcommand)]
pub enum DeviceVerb {
    /// All devices and who polls them.
    List {
        /// Where to ask.
        #[command(flatten)]
        at: At,
    },
    /// Add or replace the devices of a JSON file: an array of objects with name, pop, address, community, and optionally interval (ms) and metadata.
    Import {
        /// The file.
        file: PathBuf,
        /// Where to ask.
        #[command(flatten)]
        at: At,
    },
    /// Remove a device from the inventory; its samples stay.
    Remove {
        /// Its name.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        at: At,
    },
}

/// For what can only be listed.
#[derive(Debug, Subcommand)]
pub enum ListVerb {
    /// All of them.
    List {
        /// Where to ask.
        #[command(flatten)]
        at: At,
    },
}

/// What can be done with the Raft group.
#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Leader, term, log and store of each node.
    Status {
        /// Where to ask.
        #[command(flatten)]
        at: At,
    },
}

/// Where to ask and how to print.
#[derive(Debug, Args)]
pub struct At {
    /// Base URL of any hub node.
    #[arg(long, env = "ANEMONE_HUB", default_value = "http://127.0.0.1:8080")]
    pub hub: String,
    /// Admin token, for changes.
    #[arg(long, env = "ANEMONE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// The API's answer.
    Json,
}
