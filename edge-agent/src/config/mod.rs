//! The agent's config: one TOML file, read strictly.
//!
//! Unknown keys and bad values are errors with line, column and a suggestion, all of them at once. Reading touches the one file and
//! nothing else: no socket, no directory, no certificate.

mod reader;
mod units;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemone_model::{AgentId, HubId};
use toml::de::DeTable;

pub use self::reader::Problem;
pub use self::units::ByteSize;

use self::reader::{Document, Section};
use self::units::duration_text;

/// Everything an agent is told at its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who it is.
    pub agent: AgentId,
    /// Where it keeps its spool and its local database.
    pub data_dir: PathBuf,
    /// Where its HTTP API listens.
    pub http: SocketAddr,
    /// Its certificate and the authority it trusts.
    pub tls: Tls,
    /// The hubs, in the order of the file.
    pub hubs: Vec<Hub>,
    /// Bounds of the spool.
    pub spool: SpoolBounds,
    /// Bounds of the local store.
    pub local: LocalBounds,
    /// How much is asked at once.
    pub poll: Poll,
    /// When a batch is sealed.
    pub batch: BatchBounds,
    /// Timing of the sessions with the hubs.
    pub link: LinkTiming,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// This agent's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// One hub node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// Its number.
    pub id: HubId,
    /// Where this agent reaches its QUIC endpoint, `host:port`.
    pub address: String,
}

/// Bounds of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolBounds {
    /// Most bytes it may hold; past that the oldest batches give way to gap records.
    pub max_bytes: ByteSize,
    /// Size of one segment file, the unit in which space is given back.
    pub segment_bytes: ByteSize,
    /// Most bytes of batches held in memory while the disk refuses writes.
    pub memory_bytes: ByteSize,
}

/// Bounds of the local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalBounds {
    /// How long samples are kept.
    pub retention: Duration,
    /// Most bytes of sealed blocks.
    pub max_bytes: ByteSize,
    /// How often the samples in memory are sealed into a block.
    pub seal_every: Duration,
    /// Seals earlier when the samples in memory take more than this.
    pub head_bytes: ByteSize,
}

/// How much is asked at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Most SNMP requests without an answer, for each thread.
    pub max_in_flight: usize,
    /// Threads that poll; each has its own socket.
    pub threads: usize,
}

/// When a batch is sealed: whichever comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchBounds {
    /// Longest time its first sample waits.
    pub max_delay: Duration,
    /// Its size.
    pub target_bytes: ByteSize,
    /// Most samples that wait between the devices and the batcher.
    pub queue_samples: usize,
}

/// Timing of the sessions with the hubs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTiming {
    /// How often each side says that it is there.
    pub heartbeat: Duration,
    /// Silence after which a session is given up.
    pub silence: Duration,
    /// How long connecting and the greeting may each take.
    pub connect_timeout: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// Most bytes of batches sent and not acknowledged.
    pub window_bytes: ByteSize,
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read config {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong; one line for each problem.
    #[error("{}", listing(path, problems))]
    Invalid {
        /// Which.
        path: PathBuf,
        /// In order of place; at least one.
        problems: Vec<Problem>,
    },
}

fn listing(path: &Path, problems: &[Problem]) -> String {
    let lines = problems.iter().map(|p| format!("{}:{}:{}: {}", path.display(), p.line, p.column, p.text));
    lines.collect::<Vec<_>>().join("\n")
}

const MIB: u64 = 1 << 20;

impl Config {
    /// Reads and checks the file. Relative paths in it count from its own directory.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks `text` as the content of `path`.
    ///
    /// # Errors
    /// Something in it is wrong; all of it is reported at once.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut document = Document::new(text);
        let config = match DeTable::parse(text) {
            Ok(table) => read(Section::root(&table), path.parent().unwrap_or(Path::new("")), &mut document),
            Err(error) => {
                document.problem(error.span().map_or(0, |span| span.start), error.message().replace('\n', ", "));
                None
            }
        };
        let problems = document.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::Invalid { path: path.to_owned(), problems }),
        }
    }
}

fn read(mut root: Section<'_>, base: &Path, document: &mut Document<'_>) -> Option<Config> {
    let mut agent = root.table("agent", document);
    let (pop, name) = (agent.required("pop", document), agent.required("name", document));
    let data_dir = agent.required::<PathBuf>("data_dir", document);
    let http = agent.or("http", SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)), document, |_| None);
    agent.finish(document);

    let mut tls = root.table("tls", document);
    let files = ["ca", "cert", "key"].map(|key| tls.required::<PathBuf>(key, document).map(|path| base.join(path)));
    tls.finish(document);
    let [ca, cert, key] = files;

    let hubs = hubs(&mut root, document);
    let spool = spool(root.table("spool", document), document);
    let local = local(root.table("local", document), document);
    let poll = poll(root.table("poll", document), document);
    let batch = batch(root.table("batch", document), document);
    let link = link(root.table("link", document), document);
    root.finish(document);
    Some(Config {
        agent: AgentId { pop: pop?, name: name? },
        data_dir: base.join(data_dir?),
        http,
        tls: Tls { ca: ca?, cert: cert?, key: key? },
        hubs,
        spool,
        local,
        poll,
        batch,
        link,
    })
}

fn hubs(root: &mut Section<'_>, document: &mut Document<'_>) -> Vec<Hub> {
    let mut hubs: Vec<Hub> = Vec::new();
    let sections = root.tables("hub", document);
    if sections.is_empty() {
        document.problem(0, "no hub is named: at least one [[hub]] with \"id\" and \"address\" is required");
    }
    for mut section in sections {
        let id = section.required_checked::<HubId>("id", document, |id| match id {
            0 => Some("hubs are numbered from 1".into()),
            _ => hubs.iter().any(|hub| hub.id == *id).then(|| format!("hub {id} is named twice")),
        });
        let address = section.required_checked::<String>("address", document, |text| {
            let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_none().then(|| format!("{text:?} has no port; write host:port"))
        });
        section.finish(document);
        if let (Some(id), Some(address)) = (id, address) {
            hubs.push(Hub { id, address });
        }
    }
    hubs
}

fn size_between(min: u64, max: u64) -> impl Fn(&ByteSize) -> Option<String> {
    move |size| (!(min..=max).contains(&size.0)).then(|| format!("{size} is outside {} to {}", ByteSize(min), ByteSize(max)))
}

fn time_between(min: Duration, max: Duration) -> impl Fn(&Duration) -> Option<String> {
    move |time| {
        let outside = !(min..=max).contains(time);
        outside.then(|| format!("{} is outside {} to {}", duration_text(*time), duration_text(min), duration_text(max)))
    }
}

fn number_between(min: u64, max: u64) -> impl Fn(&u64) -> Option<String> {
    move |number| (!(min..=max).contains(number)).then(|| format!("{number} is outside {min} to {max}"))
}

fn spool(mut section: Section<'_>, document: &mut Document<'_>) -> SpoolBounds {
    let segment_bytes = section.or("segment_bytes", ByteSize(64 * MIB), document, size_between(MIB, 1024 * MIB));
    let least = segment_bytes.0.saturating_mul(3);
    let max_bytes = section.or("max_bytes", ByteSize(2048 * MIB), document, |size| {
        (size.0 < least).then(|| format!("{size} is less than three segments of {segment_bytes}"))
    });
    let memory_bytes = section.or("memory_bytes", ByteSize(16 * MIB), document, size_between(MIB, 1024 * MIB));
    section.finish(document);
    SpoolBounds { max_bytes, segment_bytes, memory_bytes }
}

fn local(mut section: Section<'_>, document: &mut Document<'_>) -> LocalBounds {
    let minute = Duration::from_secs(60);
    let bounds = LocalBounds {
        retention: section.or("retention", minute * 60 * 48, document, time_between(minute, minute * 60 * 24 * 400)),
        max_bytes: section.or("max_bytes", ByteSize(1024 * MIB), document, size_between(MIB, u64::MAX)),
        seal_every: section.or("seal_every", minute * 10, document, time_between(Duration::from_secs(1), minute * 120)),
        head_bytes: section.or("head_bytes", ByteSize(256 * MIB), document, size_between(MIB, u64::MAX)),
    };
    section.finish(document);
    bounds
}

fn poll(mut section: Section<'_>, document: &mut Document<'_>) -> Poll {
    let max_in_flight = section.or("max_in_flight", 256_u64, document, number_between(1, 65_536));
    let threads = section.or("threads", 1_u64, document, number_between(1, 64));
    section.finish(document);
    Poll { max_in_flight: usize::try_from(max_in_flight).unwrap_or(1), threads: usize::try_from(threads).unwrap_or(1) }
}

fn batch(mut section: Section<'_>, document: &mut Document<'_>) -> BatchBounds {
    let (least, most) = (Duration::from_millis(50), Duration::from_secs(60));
    let queue = section.or("queue_samples", 1_000_000_u64, document, number_between(10_000, 100_000_000));
    let bounds = BatchBounds {
        max_delay: section.or("max_delay", Duration::from_secs(1), document, time_between(least, most)),
        target_bytes: section.or("target_bytes", ByteSize(256 << 10), document, size_between(4 << 10, 512 << 10)),
        queue_samples: usize::try_from(queue).unwrap_or(usize::MAX),
    };
    section.finish(document);
    bounds
}

fn link(mut section: Section<'_>, document: &mut Document<'_>) -> LinkTiming {
    let (tenth, second) = (Duration::from_millis(100), Duration::from_secs(1));
    let heartbeat = section.or("heartbeat", second, document, time_between(tenth, second * 60));
    let silence = section.or("silence", heartbeat * 3, document, |silence| {
        (*silence < heartbeat * 2).then(|| format!("{} is less than two heartbeats", duration_text(*silence)))
    });
    let timing = LinkTiming {
        heartbeat,
        silence,
        connect_timeout: section.or("connect_timeout", second * 2, document, time_between(tenth, second * 60)),
        backoff_max: section.or("backoff_max", second, document, time_between(tenth, second * 300)),
        window_bytes: section.or("window_bytes", ByteSize(8 * MIB), document, size_between(MIB, 256 * MIB)),
    };
    section.finish(document);
    timing
}

#[cfg(test)]
mod tests;
