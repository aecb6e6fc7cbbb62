//! Credentials of every good and bad kind, raw clients that follow no rule, and the log as text.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anemone_certs::{Authority, IssueOptions, Issued, Validity};
use anemone_link::{AgentEndpoint, Credentials, HubEndpoint, LinkOptions, Tls};
use anemone_model::Identity;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::subscriber::DefaultGuard;

pub(crate) const HUB: &str = "anemone://demo/hub/1";
pub(crate) const AGENT: &str = "anemone://demo/pop/ams1/agent/a1";
const DAY: i64 = 86_400;

pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn identity(uri: &str) -> Identity {
    uri.parse().expect("an identity")
}

pub(crate) fn authority(cluster: &str) -> Authority {
    Authority::create(&cluster.parse().expect("a name"), Validity::days(100)).expect("an authority")
}

/// When a certificate is valid, from now.
#[derive(Clone, Copy)]
pub(crate) enum When {
    Now,
    Past,
    Future,
}

pub(crate) fn issue(authority: &Authority, uri: &str, when: When) -> Issued {
    let validity = match when {
        When::Now => Validity::days(1),
        When::Past => Validity::around_now(-2 * DAY, -DAY),
        When::Future => Validity::around_now(DAY, 2 * DAY),
    };
    authority.issue(&identity(uri), &IssueOptions { sans: vec!["127.0.0.1".to_owned()], validity }).expect("a certificate")
}

/// Credentials issued by `authority` that trust `roots`.
pub(crate) fn credentials(authority: &Authority, roots: &[&Authority], uri: &str, when: When) -> Credentials {
    let issued = issue(authority, uri, when);
    let roots = roots.iter().map(|root| root.cert_pem()).collect::<String>();
    Credentials::from_pem(&issued.cert_pem, &issued.key_pem, &roots).expect("credentials")
}

pub(crate) fn tls(credentials: Credentials) -> Arc<Tls> {
    Tls::new(credentials).expect("credentials with an authority")
}

/// Good credentials.
pub(crate) fn good(authority: &Authority, uri: &str) -> Arc<Tls> {
    tls(credentials(authority, &[authority], uri, When::Now))
}

pub(crate) fn hub(tls: Arc<Tls>) -> (HubEndpoint, SocketAddr) {
    hub_with(tls, LinkOptions::default())
}

pub(crate) fn hub_with(tls: Arc<Tls>, options: LinkOptions) -> (HubEndpoint, SocketAddr) {
    let hub = HubEndpoint::bind(anywhere(), tls, options).expect("a free port");
    let address = hub.local_address().expect("an address");
    (hub, address)
}

pub(crate) fn agent(tls: Arc<Tls>) -> AgentEndpoint {
    AgentEndpoint::bind(anywhere(), tls, LinkOptions::default()).expect("a free port")
}

/// A TLS client of our own authority's servers that is bound by none of our rules; with a certificate or without.
pub(crate) fn raw_client(authority: &Authority, issued: Option<&Issued>, alpn: &[u8]) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).expect("a certificate")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// A raw QUIC connection to a hub.
pub(crate) async fn raw_session(
    config: ClientConfig,
    address: SocketAddr,
) -> (quinn::Endpoint, Result<quinn::Connection, quinn::ConnectionError>) {
    let endpoint = quinn::Endpoint::client(anywhere()).expect("a free port");
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("the initial suite");
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), address, "127.0.0.1").expect("an attempt");
    let connection = connecting.await;
    (endpoint, connection)
}

/// The log lines written on this thread since it was made.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn capture() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic while logging")).into_owned()
    }

    /// Waits for a line that holds all parts.
    pub(crate) async fn wait_for(&self, parts: &[&str]) -> String {
        for _ in 0..1000 {
            if let Some(line) = self.text().lines().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no line with {parts:?} in:\n{}", self.text());
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
