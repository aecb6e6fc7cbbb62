//! What a process presents and whom it trusts: its certificate chain, its private key, the cluster's authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anemone_model::Identity;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::identity::Claims;
use crate::refusal::Refusal;
use crate::tls::provider;

/// A certificate with its key and the authorities trusted; checked to belong together.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(crate) identity: Identity,
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) not_after: String,
}

/// Why credentials cannot be used. `what` is the file, or which text it was.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("read {what}: {source}")]
    Read {
        /// The file.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not the PEM that is expected there.
    #[error("{what}: expected {expected} in PEM form: {reason}")]
    Pem {
        /// The file.
        what: String,
        /// `a certificate`, `a private key`...
        expected: &'static str,
        /// What was found.
        reason: String,
    },
    /// The certificate carries no usable identity of ours.
    #[error("{what}: {source}")]
    Identity {
        /// The file.
        what: String,
        /// What is wrong.
        source: Refusal,
    },
    /// Certificate and key do not belong together, or the key is of no known kind.
    #[error("{key} is not usable with {cert}: {reason}")]
    Key {
        /// The certificate file.
        cert: String,
        /// The key file.
        key: String,
        /// Why.
        reason: String,
    },
    /// An authority's certificate cannot be trusted.
    #[error("{what}: not usable as an authority: {reason}")]
    Authority {
        /// The file.
        what: String,
        /// Why.
        reason: String,
    },
    /// New credentials are somebody else's.
    #[error("new credentials are of {new}, this process is {present}")]
    IdentityChanged {
        /// Who we are.
        present: Identity,
        /// Whose the new ones are.
        new: Identity,
    },
}

impl Credentials {
    /// Loads PEM files: certificate chain (ours first), private key, authorities.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(cert: &Path, key: &Path, authorities: &Path) -> Result<Self, CredentialsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| CredentialsError::Read { what: path.display().to_string(), source });
        let label = |path: &Path| PathBuf::from(path).display().to_string();
        Self::build((&label(cert), &read(cert)?), (&label(key), &read(key)?), (&label(authorities), &read(authorities)?))
    }

    /// As [`Credentials::load`], from texts.
    ///
    /// # Errors
    /// Names which text and what is wrong with it.
    pub fn from_pem(cert: &str, key: &str, authorities: &str) -> Result<Self, CredentialsError> {
        Self::build(("certificate", cert.as_bytes()), ("private key", key.as_bytes()), ("authorities", authorities.as_bytes()))
    }

    /// Who these credentials say we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificate ends, RFC 3339.
    #[must_use]
    pub fn not_after(&self) -> &str {
        &self.not_after
    }

    fn build(cert: (&str, &[u8]), key: (&str, &[u8]), authorities: (&str, &[u8])) -> Result<Self, CredentialsError> {
        let chain = certificates(cert)?;
        let refused = |source| CredentialsError::Identity { what: cert.0.to_owned(), source };
        let claims = Claims::read(&chain[0]).map_err(refused)?;
        let identity = claims.identity().map_err(refused)?;

        let private = PrivateKeyDer::from_pem_slice(key.1).map_err(|error| CredentialsError::Pem {
            what: key.0.to_owned(),
            expected: "a private key",
            reason: error.to_string(),
        })?;
        let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| CredentialsError::Key {
            cert: cert.0.to_owned(),
            key: key.0.to_owned(),
            reason: error.to_string(),
        })?;

        let mut roots = RootCertStore::empty();
        for authority in certificates(authorities)? {
            roots
                .add(authority)
                .map_err(|error| CredentialsError::Authority { what: authorities.0.to_owned(), reason: error.to_string() })?;
        }
        Ok(Self { identity, certified: Arc::new(certified), roots: Arc::new(roots), not_after: claims.not_after })
    }
}

/// At least one certificate.
fn certificates((what, pem): (&str, &[u8])) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let malformed = |reason: String| CredentialsError::Pem { what: what.to_owned(), expected: "a certificate", reason };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| malformed(error.to_string()))?;
    if found.is_empty() { Err(malformed("none found".to_owned())) } else { Ok(found) }
}
