//! What can go wrong with an authority and its certificates.

use std::io;
use std::path::PathBuf;

/// Why an authority or a certificate could not be made, stored, loaded or read.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// An authority is already there, and replacing it would cut off every node that trusts it.
    #[error("an authority already exists at {path}; it is never overwritten, choose another directory or remove it yourself")]
    AuthorityExists {
        /// The file found.
        path: PathBuf,
    },
    /// The output directory belongs to another authority.
    #[error("{path} holds the certificate of another authority; choose another output directory")]
    AuthorityDiffers {
        /// The file found.
        path: PathBuf,
    },
    /// The file name is taken by the certificate of another identity, since names may hold hyphens themselves.
    #[error("{path} is not a certificate of {identity}; it is not replaced, choose another output directory")]
    IdentityDiffers {
        /// The file found.
        path: PathBuf,
        /// The identity asked for.
        identity: String,
    },
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was attempted: `read`, `create`, `write`...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate or key could not be made.
    #[error("make the certificate of {subject}: {source}")]
    Sign {
        /// For whom.
        subject: String,
        /// The reason.
        source: rcgen::Error,
    },
    /// The identity is of another cluster than the authority.
    #[error("{identity} is not of cluster {cluster}, the only one this authority speaks for")]
    ForeignCluster {
        /// The identity asked for.
        identity: String,
        /// The authority's cluster.
        cluster: String,
    },
    /// The certificate would be valid for longer than the authority.
    #[error("the certificate of {identity} would be valid until {not_after}, longer than its authority, which ends {authority_not_after}")]
    OutlivesAuthority {
        /// The identity asked for.
        identity: String,
        /// The end asked for.
        not_after: String,
        /// The end of the authority.
        authority_not_after: String,
    },
    /// A validity period that ends before it starts.
    #[error("validity from {not_before} to {not_after} is empty")]
    EmptyValidity {
        /// Its start.
        not_before: String,
        /// Its end.
        not_after: String,
    },
    /// A subject alternative name that is neither an IP address nor a DNS name.
    #[error("{san:?} is neither an IP address nor a DNS name")]
    AlternativeName {
        /// The text given.
        san: String,
    },
}
