//! The edge agent's binary: parses arguments, loads the config, runs.
//!
//! Exit codes: 0 done, 1 it failed or could not start, 2 the arguments or the config are wrong, 70 something vital failed while it ran.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use edge_agent::app::{self, AppError};
use edge_agent::cli::{self, Cli, Command};
use edge_agent::config::Config;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::CheckConfig { file } => finish(cli::check_config(&file, &mut io::stdout()), 2),
        Command::Spool { data_dir } => finish(cli::inspect_spool(&data_dir, &mut io::stdout()), 1),
        Command::Query { expr, http } => finish(cli::query(&expr, &http, &mut io::stdout()), 1),
    }
}

fn run(path: &Path) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => return finish(Err(error.into()), 2),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sled=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init();
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "agent ends");
            ExitCode::from(if matches!(error, AppError::Vital(_)) { 70 } else { 1 })
        }
    }
}

fn finish(outcome: anyhow::Result<()>, failed: u8) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(failed)
        }
    }
}
