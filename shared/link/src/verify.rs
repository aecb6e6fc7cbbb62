//! Judging a peer's certificate: the chain by webpki, the identity by ourselves.
//!
//! One judge is made for one handshake, so that what it found can be told together with the peer's address: rustls and quinn
//! hand on no more than an alert. Host names are not looked at, since hubs are reached through relays and NAT; who the peer is
//! stands in the identity.

use std::fmt;
use std::sync::{Arc, OnceLock};

use anemone_model::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::identity::{Claims, PeerIdentity};
use crate::refusal::Refusal;
use crate::tls::Expected;

/// Who was judged and refused, and why.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Who the certificate claims, unverified.
    pub(crate) claimed: String,
    pub(crate) refusal: Refusal,
}

/// Where a judge leaves what it found. Empty while no certificate has arrived.
pub(crate) type Verdict = Arc<OnceLock<Result<PeerIdentity, Refused>>>;

/// Judges the peer of one handshake.
pub(crate) struct Judge {
    pub(crate) own: Identity,
    pub(crate) expected: Expected,
    pub(crate) roots: Arc<RootCertStore>,
    /// The chain check for clients, built once for all handshakes.
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    pub(crate) verdict: Verdict,
}

impl Judge {
    fn judge(&self, usage: &'static str, end_entity: &CertificateDer<'_>, chain: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let (outcome, error) = match Claims::read(end_entity) {
            Err(refusal) => (Err(Refused { claimed: "nobody".to_owned(), refusal }), Some(CertificateError::BadEncoding.into())),
            Ok(claims) => match self.weigh(usage, &claims, chain()) {
                Ok(identity) => (Ok(PeerIdentity { identity, serial: claims.serial }), None),
                Err(failure) => {
                    let (refusal, error) = *failure;
                    (Err(Refused { claimed: claims.claimed(), refusal }), Some(error))
                }
            },
        };
        // A handshake presents one certificate; were there a second, the first verdict would stand.
        let _ = self.verdict.set(outcome);
        error.map_or(Ok(()), Err)
    }

    fn weigh(&self, usage: &'static str, claims: &Claims, chain: Result<(), Error>) -> Result<Identity, Box<(Refusal, Error)>> {
        let denied = |refusal| Box::new((refusal, Error::from(CertificateError::ApplicationVerificationFailure)));
        let chain = chain.map_err(|error| Box::new((Refusal::from_chain(error.clone(), claims, usage), error)));
        // A certificate that is signed by us but not for this use is one of another role: the role is what the operator knows.
        if let Err(failure) = &chain
            && matches!(failure.0, Refusal::WrongUsage { .. })
            && let Ok(identity) = claims.identity()
            && let Err(refusal @ Refusal::WrongRole { .. }) = self.expected.admit(&self.own, &identity)
        {
            return Err(Box::new((refusal, failure.1.clone())));
        }
        chain?;
        let identity = claims.identity().map_err(denied)?;
        self.expected.admit(&self.own, &identity).map_err(denied)?;
        Ok(identity)
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge("server", end_entity, || {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a client of another authority shall present what it has, so that the log can say who it was.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge("client", end_entity, || self.clients.verify_client_cert(end_entity, intermediates, now).map(|_| ()))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("own", &self.own).field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// The signature algorithms of a provider.
pub(crate) fn algorithms(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    provider.signature_verification_algorithms
}
