//! Reading who a certificate says its holder is.

use anemone_model::Identity;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::refusal::Refusal;

/// Who the peer is: taken from a certificate that has passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its identity.
    pub identity: Identity,
    /// The serial number of its certificate, lower-case hexadecimal.
    pub serial: String,
}

/// What a certificate says of itself, true or not.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    /// Every `anemone://` URI among the alternative names.
    pub(crate) uris: Vec<String>,
    pub(crate) issuer: String,
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    pub(crate) serial: String,
}

impl Claims {
    /// Reads an end-entity certificate in DER.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Refusal> {
        let malformed = |reason: String| Refusal::Malformed { reason };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| malformed(format!("alternative names: {error}")))?;
        let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
        let uri = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) if uri.starts_with("anemone://") => Some((*uri).to_owned()),
            _ => None,
        };
        Ok(Self {
            uris: names.iter().filter_map(uri).collect(),
            issuer: certificate.issuer().to_string(),
            not_before: instant(certificate.validity().not_before),
            not_after: instant(certificate.validity().not_after),
            serial: certificate.serial.to_bytes_be().iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// The one identity in it.
    pub(crate) fn identity(&self) -> Result<Identity, Refusal> {
        match self.uris.as_slice() {
            [] => Err(Refusal::NoIdentity),
            [uri] => uri.parse().map_err(Refusal::InvalidIdentity),
            several => Err(Refusal::SeveralIdentities { count: several.len() }),
        }
    }

    /// For log lines: who it claims to be.
    pub(crate) fn claimed(&self) -> String {
        if self.uris.is_empty() { "nobody".to_owned() } else { self.uris.join(", ") }
    }
}

fn instant(time: ASN1Time) -> String {
    time.to_datetime().format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
