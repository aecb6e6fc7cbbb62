//! TLS configurations made from credentials that can be replaced while running.
//!
//! A configuration is made for each handshake from the credentials of that moment: new handshakes use new credentials at once,
//! and each handshake has its own judge (see `verify`). It costs a few allocations, little beside the key exchange.

use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use anemone_model::{HubId, Identity, Role};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::credentials::{Credentials, CredentialsError};
use crate::refusal::Refusal;
use crate::verify::{Judge, Verdict, algorithms};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// The cryptography used everywhere: ring.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// What is spoken inside TLS, named in ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `anemone/1`: our sessions over QUIC.
    Anemone,
    /// `h2`: gRPC over TCP.
    Http2,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        vec![match self {
            Self::Anemone => b"anemone/1".to_vec(),
            Self::Http2 => b"h2".to_vec(),
        }]
    }
}

/// Which peers are wanted, all of our own cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any peer of one of these roles.
    AnyOf(&'static [Role]),
    /// The hub of this number.
    Hub(HubId),
    /// This peer and no other.
    Exactly(Identity),
}

impl Expected {
    /// Whether `peer` is wanted by `own`.
    pub(crate) fn admit(&self, own: &Identity, peer: &Identity) -> Result<(), Refusal> {
        if peer.cluster() != own.cluster() {
            return Err(Refusal::WrongCluster { theirs: peer.cluster().clone(), ours: own.cluster().clone() });
        }
        let roles = match self {
            Self::AnyOf(roles) => (*roles).to_vec(),
            Self::Hub(_) => vec![Role::Hub],
            Self::Exactly(expected) => vec![expected.role()],
        };
        if !roles.contains(&peer.role()) {
            let allowed = roles.iter().map(Role::to_string).collect::<Vec<_>>().join(" or ");
            return Err(Refusal::WrongRole { role: peer.role(), allowed });
        }
        let one = match self {
            Self::AnyOf(_) => return Ok(()),
            Self::Hub(id) => Identity::Hub { cluster: own.cluster().clone(), id: *id },
            Self::Exactly(expected) => expected.clone(),
        };
        if &one == peer { Ok(()) } else { Err(Refusal::WrongPeer { expected: one }) }
    }
}

/// The TLS side of a process: its present credentials, shared by all its endpoints.
pub struct Tls {
    present: RwLock<Arc<Present>>,
}

struct Present {
    credentials: Credentials,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Starts with these credentials.
    ///
    /// # Errors
    /// Credentials without a usable authority.
    pub fn new(credentials: Credentials) -> Result<Arc<Self>, CredentialsError> {
        Ok(Arc::new(Self { present: RwLock::new(Present::new(credentials)?) }))
    }

    /// Uses other credentials from the next handshake on. Sessions that exist stay as they are.
    ///
    /// # Errors
    /// Credentials of another identity; the present ones stay.
    pub fn replace(&self, credentials: Credentials) -> Result<(), CredentialsError> {
        let present = self.identity();
        if credentials.identity != present {
            return Err(CredentialsError::IdentityChanged { present, new: credentials.identity });
        }
        let next = Present::new(credentials)?;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.present().credentials.identity.clone()
    }

    fn present(&self) -> Arc<Present> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// For one handshake as server, and where its verdict will be.
    pub(crate) fn server(&self, protocol: Protocol, expected: Expected) -> (Arc<ServerConfig>, Verdict) {
        let (judge, verdict, key) = self.present().judge(expected);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has cipher suites for TLS 1.3")
            .with_client_cert_verifier(judge)
            .with_cert_resolver(key);
        config.alpn_protocols = protocol.alpn();
        // A resumed session would not be judged.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        (Arc::new(config), verdict)
    }

    /// For one handshake as client, and where its verdict will be.
    pub(crate) fn client(&self, protocol: Protocol, expected: Expected) -> (Arc<ClientConfig>, Verdict) {
        let (judge, verdict, key) = self.present().judge(expected);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has cipher suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_client_cert_resolver(key);
        config.alpn_protocols = protocol.alpn();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        (Arc::new(config), verdict)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl Present {
    fn new(credentials: Credentials) -> Result<Arc<Self>, CredentialsError> {
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&credentials.roots), provider())
            .build()
            .map_err(|error| CredentialsError::Authority { what: "authorities".to_owned(), reason: error.to_string() })?;
        Ok(Arc::new(Self { credentials, clients }))
    }

    fn judge(&self, expected: Expected) -> (Arc<Judge>, Verdict, Arc<SingleCertAndKey>) {
        let verdict = Verdict::default();
        let judge = Judge {
            own: self.credentials.identity.clone(),
            expected,
            roots: Arc::clone(&self.credentials.roots),
            clients: Arc::clone(&self.clients),
            algorithms: algorithms(&PROVIDER),
            verdict: Arc::clone(&verdict),
        };
        (Arc::new(judge), verdict, Arc::new(SingleCertAndKey::from(Arc::clone(&self.credentials.certified))))
    }
}
