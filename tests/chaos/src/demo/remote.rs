//! How a second terminal talks to a running demo: HTTP on loopback, at an address kept in a file.
//!
//! `POST /<command>/<arguments...>` answers lines of text as they come up; a last line that begins with `error: ` means that
//! the command failed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::post;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::cli::Command;
use super::console::Console;

/// Lines on their way to a slow terminal; the command waits when it is full.
const LINES: usize = 64;
const ERROR: &str = "error: ";

/// The file with the address of the demo started last by this user.
fn address_file() -> PathBuf {
    std::env::temp_dir().join(format!("anemone-demo-{}.address", rustix::process::getuid().as_raw()))
}

/// Serves commands; the address file is removed when this is dropped.
pub struct Remote {
    address: SocketAddr,
}

impl Remote {
    /// Whether this user runs no other demo, whose commands would otherwise reach this one.
    ///
    /// # Errors
    /// Another demo answers.
    pub fn alone() -> Result<()> {
        let file = address_file();
        let Ok(address) = fs::read_to_string(&file) else { return Ok(()) };
        let answers = address.parse::<SocketAddr>().is_ok_and(|a| std::net::TcpStream::connect_timeout(&a, Duration::from_secs(1)).is_ok());
        if answers {
            bail!(
                "a demo runs already; end it with `demo stop`, or start this one with another TMPDIR than {}",
                std::env::temp_dir().display()
            );
        }
        Ok(())
    }

    /// Starts serving and leaves the address for the second terminal.
    ///
    /// # Errors
    /// There is no free port, or the file cannot be written.
    pub async fn start(console: Arc<Console>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for commands")?;
        let address = listener.local_addr().context("listen for commands")?;
        let router = Router::new().route("/{*command}", post(run)).with_state(console);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("commands from other terminals are no longer taken: {error}");
            }
        });
        let file = address_file();
        fs::write(&file, address.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { address })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let file = address_file();
        // Another demo may have been started since; its address stays.
        if fs::read_to_string(&file).is_ok_and(|text| text == self.address.to_string()) {
            // What is left behind by a failure here is an address where nobody answers.
            let _ = fs::remove_file(&file);
        }
    }
}

async fn run(State(console): State<Arc<Console>>, Path(command): Path<String>) -> Response {
    let (lines, received) = mpsc::channel(LINES);
    tokio::spawn(async move {
        let words: Vec<&str> = command.split('/').collect();
        if let Err(error) = console.command(&words, &lines).await {
            // A terminal that is gone need not be told.
            let _ = lines.send(format!("{ERROR}{error:#}\n")).await;
        }
    });
    let body = stream::unfold(received, async |mut received| Some((Ok::<_, std::convert::Infallible>(received.recv().await?), received)));
    Response::new(Body::from_stream(body))
}

/// Sends a command to the running demo and prints what it answers.
///
/// # Errors
/// No demo runs, or the command failed.
pub fn send(command: &Command) -> Result<()> {
    let path = match command {
        Command::Cut { pop } => format!("cut/{pop}"),
        Command::Heal { pop } => format!("heal/{pop}"),
        Command::Delay { pop, delay } => format!("delay/{pop}/{}", delay.as_millis()),
        Command::KillAgent { agent } => format!("kill-agent/{agent}"),
        Command::KillLeader => "kill-leader".to_owned(),
        Command::Status => "status".to_owned(),
        Command::Check => "check".to_owned(),
        Command::Stop => "stop".to_owned(),
        Command::Load(_) => bail!("load runs a cluster of its own"),
    };
    let file = address_file();
    let Ok(address) = fs::read_to_string(&file) else {
        bail!("no demo runs (there is no {}); start one with `make demo`", file.display());
    };
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let response = agent
        .post(format!("http://{address}/{path}"))
        .send_empty()
        .with_context(|| format!("no demo answers at {address}; start one with `make demo`"))?;
    let mut failed = None;
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("the demo stopped answering")?;
        match line.strip_prefix(ERROR) {
            Some(error) => failed = Some(error.to_owned()),
            None => println!("{line}"),
        }
    }
    failed.map_or(Ok(()), |error| bail!("{error}"))
}
