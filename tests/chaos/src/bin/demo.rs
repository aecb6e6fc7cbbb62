//! The demo: start everything, or talk to a demo that runs. See the `demo` module.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anemone_chaos::demo::cli::{Cli, Command};
use anemone_chaos::demo::{console, load, remote};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        None => block_on(console::up(&cli.up)),
        Some(Command::Load(options)) => block_on(load::run(options)),
        Some(command) => remote::send(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
