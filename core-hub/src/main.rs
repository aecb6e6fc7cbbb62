//! `core-hub`: parse arguments, then run a node or ask one.

use std::process::ExitCode;

use clap::Parser;
use core_hub::cli::{Cli, Command};
use core_hub::{client, config::Config, run};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config } => run::run(&config),
        Command::CheckConfig { file } => Config::load(&file).map(|_| println!("{}: ok", file.display())).map_err(Into::into),
        Command::Device { verb } => client::device(&verb),
        Command::Agent { verb } => client::agents(&verb),
        Command::Pop { verb } => client::pops(&verb),
        Command::Gap { verb } => client::gaps(&verb),
        Command::Cluster { verb } => client::cluster(&verb),
        Command::Query { expression, at } => client::query(&expression, &at),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("core-hub: {error:#}");
            ExitCode::FAILURE
        }
    }
}
