//! `certs`: makes the authority of a cluster and issues certificates to its hubs and agents.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anemone_certs::{AUTHORITY_CERT, AUTHORITY_KEY, Authority, IssueOptions, Validity, summaries};
use anemone_model::{AgentId, HubId, Identity, Name};
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Certificate authority, hub and agent certificates of an Anemone cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the authority of a new cluster.
    Init {
        /// Where to keep it; made if need be.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the cluster.
        #[arg(long)]
        cluster: Name,
        /// How long it is valid.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// Issue a certificate to a hub or an agent.
    #[command(subcommand)]
    Issue(Issue),
    /// Print what the certificates in a PEM file say.
    Show {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Subcommand)]
enum Issue {
    /// To a hub: may act as server and as client.
    Hub {
        /// Its number, 1 or more, never used twice.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        id: HubId,
        /// IP addresses and DNS names to put in as well, separated by commas.
        #[arg(long, value_delimiter = ',')]
        san: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// To an agent: may act as client only.
    Agent {
        /// The PoP it polls for.
        #[arg(long)]
        pop: Name,
        /// Its name in the PoP.
        #[arg(long)]
        name: Name,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// Where the authority is kept.
    #[arg(long)]
    dir: PathBuf,
    /// Where to put the certificate, its key and a copy of the authority's certificate [default: DIR].
    #[arg(long)]
    out: Option<PathBuf>,
    /// How many days from now it is valid.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// First instant of validity, RFC 3339 [default: five minutes ago].
    #[arg(long, value_parser = instant)]
    not_before: Option<OffsetDateTime>,
    /// Last instant of validity, RFC 3339; instead of --days.
    #[arg(long, value_parser = instant, conflicts_with = "days")]
    not_after: Option<OffsetDateTime>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Init { dir, cluster, days } => init(&dir, &cluster, days),
        Command::Issue(Issue::Hub { id, san, common }) => issue(&common, san, |cluster| Identity::Hub { cluster, id }),
        Command::Issue(Issue::Agent { pop, name, common }) => {
            issue(&common, Vec::new(), |cluster| Identity::Agent { cluster, agent: AgentId { pop, name } })
        }
        Command::Show { file } => show(&file),
    }
}

fn init(dir: &Path, cluster: &Name, days: u32) -> Result<()> {
    let authority = Authority::create(cluster, Validity::days(days))?;
    authority.save(dir)?;
    println!("authority of cluster {cluster}, valid for {days} days");
    println!("  certificate  {}  (give it to every node)", dir.join(AUTHORITY_CERT).display());
    println!("  private key  {}  (keep it here; it signs certificates)", dir.join(AUTHORITY_KEY).display());
    Ok(())
}

fn issue(common: &Common, sans: Vec<String>, identity: impl FnOnce(Name) -> Identity) -> Result<()> {
    let authority = Authority::load(&common.dir).context("load the authority (made by `certs init`)")?;
    let identity = identity(authority.cluster().clone());
    let usual = Validity::days(common.days);
    let validity = Validity::between(common.not_before.unwrap_or(usual.not_before()), common.not_after.unwrap_or(usual.not_after()));
    let out = common.out.as_ref().unwrap_or(&common.dir);
    let (issued, cert, key) = authority.issue_into(out, &identity, &IssueOptions { sans, validity })?;
    println!("{identity}");
    println!("  certificate  {}", cert.display());
    println!("  private key  {}", key.display());
    println!("  authority    {}", out.join(AUTHORITY_CERT).display());
    println!("  serial       {}", issued.serial);
    Ok(())
}

fn show(file: &Path) -> Result<()> {
    for (index, summary) in summaries(file)?.iter().enumerate() {
        if index > 0 {
            println!();
        }
        println!("{summary}");
    }
    Ok(())
}

fn instant(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("expected RFC 3339 such as 2026-11-22T12:00:00Z: {error}"))
}
