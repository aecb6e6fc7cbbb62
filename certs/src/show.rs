//! What a certificate says, for people.

use std::fmt;
use std::path::Path;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use crate::validity::text;
use crate::{CertsError, files};

/// The points of a certificate that an operator asks for.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Subject name.
    pub subject: String,
    /// Name of who signed it.
    pub issuer: String,
    /// Its `anemone://` URIs: exactly one in a certificate of a node, none in an authority's.
    pub identities: Vec<String>,
    /// Its other alternative names.
    pub names: Vec<String>,
    /// Whether it may sign certificates.
    pub authority: bool,
    /// `server`, `client`.
    pub usages: Vec<&'static str>,
    /// First instant at which it is valid.
    pub not_before: OffsetDateTime,
    /// Last instant at which it is valid.
    pub not_after: OffsetDateTime,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// SHA-256 of the DER form, hexadecimal.
    pub fingerprint: String,
}

/// The summaries of all certificates in a PEM file.
///
/// # Errors
/// A file that cannot be read, holds no certificate, or one that cannot be parsed.
pub fn summaries(path: &Path) -> Result<Vec<Summary>, CertsError> {
    let malformed = |reason: String| CertsError::Malformed { path: path.to_owned(), reason };
    let contents = files::read(path)?;
    let mut found = Vec::new();
    for (index, pem) in Pem::iter_from_buffer(contents.as_bytes()).enumerate() {
        let pem = pem.map_err(|error| malformed(format!("PEM block {}: {error}", index + 1)))?;
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let certificate = pem.parse_x509().map_err(|error| malformed(format!("PEM block {}: not a certificate: {error}", index + 1)))?;
        found.push(Summary::of(&certificate, &pem.contents));
    }
    if found.is_empty() {
        return Err(malformed("holds no certificate (no PEM block CERTIFICATE)".to_owned()));
    }
    Ok(found)
}

impl Summary {
    fn of(certificate: &X509Certificate<'_>, der: &[u8]) -> Self {
        let (mut identities, mut names) = (Vec::new(), Vec::new());
        let sans = certificate.subject_alternative_name().ok().flatten();
        for name in sans.iter().flat_map(|sans| &sans.value.general_names) {
            match name {
                GeneralName::URI(uri) if uri.starts_with("anemone://") => identities.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => names.push(address(bytes)),
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                other => names.push(other.to_string()),
            }
        }
        let usage = certificate.extended_key_usage().ok().flatten();
        let usages = usage.map_or(Vec::new(), |usage| {
            [(usage.value.server_auth, "server"), (usage.value.client_auth, "client")]
                .into_iter()
                .filter(|(set, _)| *set)
                .map(|(_, name)| name)
                .collect()
        });
        Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            identities,
            names,
            authority: certificate.is_ca(),
            usages,
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            serial: hex(&certificate.serial.to_bytes_be()),
            fingerprint: sha256(der),
        }
    }

    fn state(&self, now: OffsetDateTime) -> String {
        if now < self.not_before {
            "not yet valid".to_owned()
        } else if now > self.not_after {
            "EXPIRED".to_owned()
        } else {
            let left = self.not_after - now;
            match left.whole_days() {
                0 => format!("valid, {} hours left", left.whole_hours()),
                days => format!("valid, {days} days left"),
            }
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.authority { "authority" } else { "node" };
        match self.identities.as_slice() {
            [] => writeln!(f, "identity     none ({role})")?,
            identities => writeln!(f, "identity     {}", identities.join(", "))?,
        }
        writeln!(f, "subject      {}", self.subject)?;
        writeln!(f, "issuer       {}", self.issuer)?;
        if !self.names.is_empty() {
            writeln!(f, "names        {}", self.names.join(", "))?;
        }
        if !self.usages.is_empty() {
            writeln!(f, "usage        {}", self.usages.join(", "))?;
        }
        let state = self.state(OffsetDateTime::now_utc());
        writeln!(f, "validity     {} to {} ({state})", text(self.not_before), text(self.not_after))?;
        writeln!(f, "serial       {}", self.serial)?;
        write!(f, "fingerprint  sha256:{}", self.fingerprint)
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        std::net::Ipv4Addr::from(v4).to_string()
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        std::net::Ipv6Addr::from(v6).to_string()
    } else {
        hex(bytes)
    }
}

fn sha256(bytes: &[u8]) -> String {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = suite.tls13().expect("the suite is of TLS 1.3, as its name says").common.hash_provider;
    hex(hash.hash(bytes).as_ref())
}
