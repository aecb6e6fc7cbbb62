//! The hub's configuration file: strict TOML. Reading it touches no socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemone_model::{HubId, Name};
use anemone_wire::limits::BATCH_MAX;
use serde::Deserialize;

/// A hub node's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Its certificate.
    pub tls: Tls,
    /// All nodes of the initial group, this one among them.
    #[serde(rename = "peer")]
    pub peers: Vec<PeerAddress>,
    /// Sessions with agents.
    #[serde(default)]
    pub ingest: Ingest,
    /// The store of samples.
    #[serde(default)]
    pub store: StoreLimits,
    /// Access to the HTTP API.
    #[serde(default)]
    pub admin: Admin,
}

/// This node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The cluster's name, as in every certificate.
    pub cluster: Name,
    /// Its number, 1 or more, never used twice.
    pub id: HubId,
    /// Where log, state and blocks are kept.
    pub data_dir: PathBuf,
}

/// Certificate files, PEM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The cluster's authority.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where a node of the group listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAddress {
    /// The node.
    pub id: HubId,
    /// Raft gRPC, TCP.
    pub raft: SocketAddr,
    /// Agents' QUIC, UDP.
    pub quic: SocketAddr,
    /// HTTP API, TCP.
    pub http: SocketAddr,
}

/// Sessions with agents. Times in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// How often a heartbeat is sent on each session.
    pub heartbeat_ms: u64,
    /// Silence after which an agent is called dark.
    pub dark_after_ms: u64,
    /// Darkness, while a neighbour of its PoP is heard, after which its devices move.
    pub grace_ms: u64,
    /// Most bytes of batches waiting to be proposed; sessions wait when it is reached.
    pub queue_bytes: u32,
}

impl Default for Ingest {
    fn default() -> Self {
        Self { heartbeat_ms: 1_000, dark_after_ms: 5_000, grace_ms: 60_000, queue_bytes: 32 << 20 }
    }
}

/// The store of samples.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreLimits {
    /// The head is sealed and the Raft log trimmed when the log holds this many bytes.
    pub seal_log_bytes: u64,
    /// Samples older than this are deleted; hours.
    pub retention_hours: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { seal_log_bytes: 64 << 20, retention_hours: 30 * 24 }
    }
}

/// Access to the HTTP API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// File with the token that changes must carry. Without it, changes are taken only from this machine.
    pub token_file: Option<PathBuf>,
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a configuration: syntax, an unknown key, a value of the wrong type.
    #[error("{0}")]
    Parse(String),
    /// Values that contradict each other.
    #[error("{path}: {why}")]
    Contradiction {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read or is not a valid configuration; the message has file, line and column.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// As [`Config::load`], of a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = anemone_model::strict::from_toml(path, text).map_err(|e| ConfigError::Parse(e.to_string()))?;
        config.check().map_err(|why| ConfigError::Contradiction { path: path.to_owned(), why })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let mut seen = BTreeMap::new();
        for peer in &self.peers {
            if peer.id == 0 || seen.insert(peer.id, peer).is_some() {
                return Err(format!("[[peer]] id {} is 0 or given twice", peer.id));
            }
        }
        if !seen.contains_key(&self.node.id) {
            return Err(format!("[node] id {} is not among the [[peer]] entries", self.node.id));
        }
        if self.ingest.heartbeat_ms == 0 || self.ingest.dark_after_ms / 2 < self.ingest.heartbeat_ms {
            return Err("[ingest] dark_after_ms must be at least twice heartbeat_ms, which must not be 0".to_owned());
        }
        if (self.ingest.queue_bytes as usize) < BATCH_MAX {
            return Err(format!("[ingest] queue_bytes must be at least {BATCH_MAX}, the size of the largest batch"));
        }
        Ok(())
    }

    /// This node's own addresses.
    #[must_use]
    pub fn own(&self) -> &PeerAddress {
        self.peers.iter().find(|p| p.id == self.node.id).expect("checked when the configuration was read")
    }
}

impl Ingest {
    /// How often a heartbeat is sent.
    #[must_use]
    pub fn heartbeat(self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../core-hub.example.toml");

    fn error(text: &str) -> String {
        Config::parse(Path::new("hub.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_valid() {
        let config = Config::parse(Path::new("hub.toml"), EXAMPLE).unwrap();
        assert_eq!(config.peers.len(), 3);
        assert_eq!(config.own().id, 1);
    }

    #[test]
    fn a_typo_is_named_with_its_place_and_a_suggestion() {
        let text = EXAMPLE.replace("data_dir", "data_dri");
        let line = text.lines().position(|l| l.starts_with("data_dri")).unwrap() + 1;
        let message = error(&text);
        assert!(message.starts_with(&format!("hub.toml:{line}:1: ")), "{message}");
        assert!(message.contains("`data_dri`") && message.contains("did you mean `data_dir`?"), "{message}");
    }

    #[test]
    fn contradictions_are_named() {
        assert_eq!(error(&EXAMPLE.replacen("id = 1", "id = 9", 1)), "hub.toml: [node] id 9 is not among the [[peer]] entries");
        assert!(error(&EXAMPLE.replace("id = 2", "id = 3")).contains("id 3 is 0 or given twice"));
        let small = error(&EXAMPLE.replace("[ingest]", "[ingest]\nqueue_bytes = 1000"));
        assert_eq!(small, "hub.toml: [ingest] queue_bytes must be at least 1048576, the size of the largest batch");
    }
}
