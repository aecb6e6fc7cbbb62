//! Why a peer's certificate is refused.

use anemone_model::{Identity, IdentityError, Name, Role};
use rustls::{CertificateError, Error};

use crate::identity::Claims;

/// The reason for which a peer was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It presented no certificate.
    #[error("no certificate presented")]
    NoCertificate,
    /// Its certificate cannot be parsed.
    #[error("certificate is malformed: {reason}")]
    Malformed {
        /// The parser's words.
        reason: String,
    },
    /// Its certificate is not signed by an authority trusted here.
    #[error("unknown issuer: certificate signed by {issuer:?}, not by an authority of this cluster")]
    UnknownIssuer {
        /// The issuer's name as the certificate has it.
        issuer: String,
    },
    /// The certificate's time is over.
    #[error("certificate expired at {not_after}")]
    Expired {
        /// Its last instant, RFC 3339.
        not_after: String,
    },
    /// The certificate's time has not come.
    #[error("certificate is not valid before {not_before}")]
    NotYetValid {
        /// Its first instant, RFC 3339.
        not_before: String,
    },
    /// The certificate may not be used for what the peer uses it for.
    #[error("certificate is not for use as {usage}")]
    WrongUsage {
        /// `client` or `server`.
        usage: &'static str,
    },
    /// It holds no identity of ours.
    #[error("certificate has no identity (no anemone:// URI among its alternative names)")]
    NoIdentity,
    /// It holds several.
    #[error("certificate has {count} identities where one is allowed")]
    SeveralIdentities {
        /// How many.
        count: usize,
    },
    /// Its identity is not one.
    #[error("certificate has an invalid identity: {0}")]
    InvalidIdentity(IdentityError),
    /// It belongs to another cluster.
    #[error("wrong cluster: {theirs}, this is {ours}")]
    WrongCluster {
        /// The peer's cluster.
        theirs: Name,
        /// Our cluster.
        ours: Name,
    },
    /// Its role is not admitted here.
    #[error("wrong role: {role}, only {allowed} is admitted here")]
    WrongRole {
        /// The peer's role.
        role: Role,
        /// The roles admitted.
        allowed: String,
    },
    /// It is somebody else than who was to be reached.
    #[error("wrong peer: expected {expected}")]
    WrongPeer {
        /// Who was expected.
        expected: Identity,
    },
    /// Any other reason of the TLS library: bad signature, unsupported algorithm...
    #[error("certificate refused: {0}")]
    Other(Error),
}

impl Refusal {
    /// The reason behind an error of the chain check.
    pub(crate) fn from_chain(error: Error, claims: &Claims, usage: &'static str) -> Self {
        let Error::InvalidCertificate(reason) = &error else { return Self::Other(error) };
        match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired { not_after: claims.not_after.clone() },
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid { not_before: claims.not_before.clone() }
            }
            CertificateError::UnknownIssuer => Self::UnknownIssuer { issuer: claims.issuer.clone() },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongUsage { usage },
            CertificateError::BadEncoding => Self::Malformed { reason: error.to_string() },
            _ => Self::Other(error),
        }
    }
}

/// What a TLS alert about certificates means, for the side that was refused; `None` for alerts about other things.
/// RFC 8446 section 6.2.
pub(crate) fn alert_meaning(alert: u8) -> Option<&'static str> {
    Some(match alert {
        42 => "bad certificate",
        43 => "certificate is not for this use",
        44 => "certificate revoked",
        45 => "certificate expired or not yet valid",
        46 => "certificate not acceptable",
        48 => "certificate signed by an authority unknown there",
        49 => "access denied: the identity in the certificate is not admitted there",
        51 => "certificate or handshake signature does not verify",
        116 => "no certificate presented",
        _ => return None,
    })
}
