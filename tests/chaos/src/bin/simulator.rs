//! The device simulator as a process: `run` a fleet, print its `inventory`, or `synth` a uniform one from flags.
//!
//! Prints one JSON line `{"port":..,"control":..,"devices":..}` on standard output once it answers, and exits
//! cleanly on SIGTERM and ctrl-c, and, if told so, when its parent dies.

use std::{
    io::{IsTerminal as _, Write},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anemone_chaos::{
    process,
    sim::{Control, FleetSpec, GroupSpec, Kind, LedgerBound, Ready, Simulator},
};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Simulates SNMP devices, thousands in one process, told apart by their 127/8 addresses")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the fleet of a file
    Run {
        /// Fleet file, TOML or JSON
        #[arg(long)]
        fleet: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Print the devices of a fleet file as JSON
    Inventory {
        /// Fleet file, TOML or JSON
        #[arg(long)]
        fleet: PathBuf,
    },
    /// Run a uniform fleet
    Synth {
        /// How many devices
        #[arg(long, default_value_t = 10_000)]
        devices: u32,
        /// Interfaces of each
        #[arg(long, default_value_t = 48)]
        interfaces: u16,
        /// access-switch, core-router, server, load-balancer or legacy-switch
        #[arg(long, default_value = "core-router")]
        kind: Kind,
        /// Address of the first device
        #[arg(long, default_value = "127.64.0.1")]
        first: Ipv4Addr,
        /// UDP port of all devices
        #[arg(long, default_value_t = 16100)]
        port: u16,
        /// PoP they stand in
        #[arg(long, default_value = "load1")]
        pop: String,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Args)]
struct Options {
    /// Where the HTTP control listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Keep what was answered
    #[arg(long)]
    ledger: bool,
    /// Most entries kept with --ledger, over all devices
    #[arg(long, default_value_t = 20_000_000)]
    ledger_entries: usize,
    /// Exit when the parent process dies
    #[arg(long)]
    exit_with_parent: bool,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Run { fleet, options } => run(&FleetSpec::read(&fleet)?, &options),
        Command::Inventory { fleet } => {
            let inventory = Simulator::plan(&FleetSpec::read(&fleet)?)?;
            println!("{}", serde_json::to_string_pretty(&inventory)?);
            Ok(())
        }
        Command::Synth { devices, interfaces, kind, first, port, pop, options } => {
            let group = GroupSpec { pop, kind: Some(kind), count: devices, interfaces: Some(interfaces), ..GroupSpec::default() };
            run(&FleetSpec { first, ..FleetSpec::new(port, vec![group]) }, &options)
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn run(spec: &FleetSpec, options: &Options) -> anyhow::Result<()> {
    if options.exit_with_parent {
        process::exit_with_parent().context("asking to be killed with the parent process")?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ledger = if options.ledger { LedgerBound::Entries(options.ledger_entries) } else { LedgerBound::Off };
    let simulator = Arc::new(Simulator::start(spec, ledger)?);
    let control = Control::start(simulator.clone(), options.control).await?;
    let ready = Ready { port: simulator.port(), control: control.address(), devices: simulator.inventory().len() };
    println!("{}", serde_json::to_string(&ready)?);
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let tallies = simulator.tallies();
    tracing::info!(requests = tallies.requests, responses = tallies.responses, varbinds = tallies.varbinds, "stopped");
    Ok(())
}
