//! Why the spool could not do what was asked.

use std::path::PathBuf;

use anemone_log::LogError;
use anemone_wire::WireError;

/// Why the spool failed. All of these may pass, but for [`SpoolError::Wire`].
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The log below it failed.
    #[error("spool: {0}")]
    Log(#[from] LogError),
    /// A file beside the log failed.
    #[error("spool: cannot {what} {path}: {source}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A batch does not encode or decode.
    #[error("spool: {0}")]
    Wire(#[from] WireError),
}
