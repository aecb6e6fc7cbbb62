//! What can go wrong when a fleet is read, started or told to misbehave.

use std::{io, net::SocketAddr, path::PathBuf};

/// Errors of the simulator; each names the file, device or address concerned.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A fleet file or a recording could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A fleet file is not valid TOML or JSON, or has an unknown key.
    #[error("{}: {reason}", path.display())]
    FleetSyntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        reason: String,
    },
    /// A fleet is well formed but makes no sense.
    #[error("fleet group {group}: {reason}")]
    Fleet {
        /// Position of the group in the file, from 0.
        group: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A recording holds no usable line.
    #[error("{}: no usable line ({skipped} skipped{})", path.display(), first.as_deref().map(|f| format!(", the first at {f}")).unwrap_or_default())]
    EmptyRecording {
        /// The file.
        path: PathBuf,
        /// Lines that could not be used.
        skipped: usize,
        /// The first of them with its reason.
        first: Option<String>,
    },
    /// The UDP socket or the control listener could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The thread or runtime that answers could not be started.
    #[error("cannot start the answering thread: {0}")]
    Thread(io::Error),
    /// No device has such a name.
    #[error("no device matches {0:?}")]
    UnknownDevice(String),
    /// The device cannot do what was asked of it.
    #[error("device {device}: {reason}")]
    Unsupported {
        /// The device.
        device: String,
        /// Why not.
        reason: &'static str,
    },
}
