//! The authority: one self-signed certificate with its key, and what it issues.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anemone_model::{Identity, Name, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;

use crate::files::{self, Access, Taken};
use crate::validity::text;
use crate::{CertsError, Validity};

/// The file name of the authority's certificate: what every node is given as the only root it trusts.
pub const AUTHORITY_CERT: &str = "ca.crt";
/// The file name of the authority's private key. Needed for issuing only; keep it away from the nodes.
pub const AUTHORITY_KEY: &str = "ca.key";

/// The certificate authority of one cluster. ECDSA P-256, self-signed, may sign end-entity certificates only.
pub struct Authority {
    cluster: Name,
    certificate: String,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

/// What may vary between certificates of one identity.
#[derive(Clone, Debug)]
pub struct IssueOptions {
    /// IP addresses and DNS names to name beside the identity. Our own programs do not look at them; other clients do.
    pub sans: Vec<String>,
    /// From when to when it is valid.
    pub validity: Validity,
}

impl Default for IssueOptions {
    /// No further names, valid for 30 days.
    fn default() -> Self {
        Self { sans: Vec::new(), validity: Validity::days(30) }
    }
}

/// A new certificate and its private key.
pub struct Issued {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PKCS#8 PEM.
    pub key_pem: String,
    /// Its serial number, 32 lower-case hexadecimal digits.
    pub serial: String,
}

impl Authority {
    /// Makes a new authority for `cluster`.
    ///
    /// # Errors
    /// An empty validity, or a failure of the cryptography.
    pub fn create(cluster: &Name, validity: Validity) -> Result<Self, CertsError> {
        validity.check()?;
        let sign = |source| CertsError::Sign { subject: format!("the authority of cluster {cluster}"), source };
        let key = KeyPair::generate().map_err(sign)?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, cluster.as_str());
        // Two authorities of one cluster must differ in name, or chains are looked up under the wrong one.
        subject.push(DnType::CommonName, format!("anemone authority {:08x}", rand::random::<u32>()));
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial());
        params.not_before = validity.not_before();
        params.not_after = validity.not_after();
        let certificate = params.self_signed(&key).map_err(sign)?.pem();
        Ok(Self { cluster: cluster.clone(), certificate, not_after: validity.not_after(), issuer: Issuer::new(params, key) })
    }

    /// Loads the authority that [`Authority::save`] stored in `directory`.
    ///
    /// # Errors
    /// A file that cannot be read, is not an authority of ours, or a key that is not the certificate's.
    pub fn load(directory: &Path) -> Result<Self, CertsError> {
        let (cert_path, key_path) = (directory.join(AUTHORITY_CERT), directory.join(AUTHORITY_KEY));
        let certificate = files::read(&cert_path)?;
        let key_pem = files::read(&key_path)?;
        let malformed = |path: &Path, reason: String| CertsError::Malformed { path: path.to_owned(), reason };

        let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|error| malformed(&cert_path, format!("not a PEM file: {error}")))?;
        let parsed = pem.parse_x509().map_err(|error| malformed(&cert_path, format!("not a certificate: {error}")))?;
        if !parsed.is_ca() {
            return Err(malformed(&cert_path, "not the certificate of an authority".to_owned()));
        }
        let organization = parsed.subject().iter_organization().next().and_then(|name| name.as_str().ok());
        let organization = organization.ok_or_else(|| malformed(&cert_path, "its subject names no cluster (organization)".to_owned()))?;
        let cluster =
            organization.parse::<Name>().map_err(|error| malformed(&cert_path, format!("cluster name in its subject: {error}")))?;

        let key = KeyPair::from_pem(&key_pem).map_err(|error| malformed(&key_path, format!("not a private key: {error}")))?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(malformed(&key_path, format!("not the key of {}", cert_path.display())));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(|error| malformed(&cert_path, error.to_string()))?;
        Ok(Self { cluster, certificate, not_after, issuer })
    }

    /// Stores the authority as [`AUTHORITY_CERT`] and [`AUTHORITY_KEY`] (mode 0600) in `directory`, which is made if need be.
    ///
    /// # Errors
    /// [`CertsError::AuthorityExists`] when either file is there already; both are left as they are.
    pub fn save(&self, directory: &Path) -> Result<(), CertsError> {
        files::create_directory(directory)?;
        if let Some(path) = [AUTHORITY_KEY, AUTHORITY_CERT].map(|name| directory.join(name)).into_iter().find(|path| path.exists()) {
            return Err(CertsError::AuthorityExists { path });
        }
        files::write(directory, AUTHORITY_KEY, &self.issuer.key().serialize_pem(), Access::Private, Taken::Refuse)?;
        files::write(directory, AUTHORITY_CERT, &self.certificate, Access::Public, Taken::Refuse)
    }

    /// The cluster it speaks for.
    #[must_use]
    pub fn cluster(&self) -> &Name {
        &self.cluster
    }

    /// Its certificate, PEM: the root that nodes trust.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate with a new key. A hub may act as server and client, an agent as client only.
    ///
    /// # Errors
    /// An identity of another cluster, an empty validity or one that outlives the authority, a name that is no name.
    pub fn issue(&self, identity: &Identity, options: &IssueOptions) -> Result<Issued, CertsError> {
        if identity.cluster() != &self.cluster {
            return Err(CertsError::ForeignCluster { identity: identity.to_string(), cluster: self.cluster.to_string() });
        }
        options.validity.check()?;
        if options.validity.not_after() > self.not_after {
            return Err(CertsError::OutlivesAuthority {
                identity: identity.to_string(),
                not_after: text(options.validity.not_after()),
                authority_not_after: text(self.not_after),
            });
        }
        let sign = |source| CertsError::Sign { subject: identity.to_string(), source };
        let serial = random_serial();
        let key = KeyPair::generate().map_err(sign)?;
        let params = end_entity(identity, options, serial.clone())?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(sign)?;
        Ok(Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem(), serial: crate::show::hex(&serial.to_bytes()) })
    }

    /// Issues a certificate and stores it in `directory` as `<stem>.crt` and `<stem>.key` (mode 0600), see [`file_stem`], with
    /// the authority's certificate beside it. A former certificate of the same identity is replaced.
    ///
    /// # Errors
    /// As [`Authority::issue`]; [`CertsError::AuthorityDiffers`] when the directory holds another authority's certificate,
    /// [`CertsError::IdentityDiffers`] when the file is another identity's.
    pub fn issue_into(
        &self,
        directory: &Path,
        identity: &Identity,
        options: &IssueOptions,
    ) -> Result<(Issued, PathBuf, PathBuf), CertsError> {
        let issued = self.issue(identity, options)?;
        files::create_directory(directory)?;
        let root = directory.join(AUTHORITY_CERT);
        if !root.exists() {
            files::write(directory, AUTHORITY_CERT, &self.certificate, Access::Public, Taken::Replace)?;
        } else if files::read(&root)? != self.certificate {
            return Err(CertsError::AuthorityDiffers { path: root });
        }
        let stem = file_stem(identity);
        let (cert_name, key_name) = (format!("{stem}.crt"), format!("{stem}.key"));
        let taken = directory.join(&cert_name);
        if taken.exists() && !crate::summaries(&taken)?.iter().any(|former| former.identities == [identity.to_string()]) {
            return Err(CertsError::IdentityDiffers { path: taken, identity: identity.to_string() });
        }
        files::write(directory, &key_name, &issued.key_pem, Access::Private, Taken::Replace)?;
        files::write(directory, &cert_name, &issued.cert_pem, Access::Public, Taken::Replace)?;
        Ok((issued, directory.join(cert_name), directory.join(key_name)))
    }
}

/// How the files of an identity are called: `hub-1`, `agent-ams1-a1`.
#[must_use]
pub fn file_stem(identity: &Identity) -> String {
    match identity {
        Identity::Hub { id, .. } => format!("hub-{id}"),
        Identity::Agent { agent, .. } => format!("agent-{}-{}", agent.pop, agent.name),
    }
}

fn end_entity(identity: &Identity, options: &IssueOptions, serial: SerialNumber) -> Result<CertificateParams, CertsError> {
    let uri = identity.to_string();
    let mut sans = vec![SanType::URI(uri.as_str().try_into().map_err(|source| CertsError::Sign { subject: uri.clone(), source })?)];
    for san in &options.sans {
        let invalid = || CertsError::AlternativeName { san: san.clone() };
        sans.push(match san.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if is_dns_name(san) => SanType::DnsName(san.as_str().try_into().map_err(|_| invalid())?),
            Err(_) => return Err(invalid()),
        });
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, identity.cluster().as_str());
    // A common name holds 64 characters, and two names of a PoP and an agent may be longer: the URI is what counts.
    subject.push(DnType::CommonName, file_stem(identity).chars().take(64).collect::<String>());
    let mut params = CertificateParams::default();
    params.subject_alt_names = sans;
    params.distinguished_name = subject;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match identity.role() {
        Role::Hub => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        Role::Agent => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial);
    params.not_before = options.validity.not_before();
    params.not_after = options.validity.not_after();
    Ok(params)
}

/// RFC 1123 host name: labels of 1 to 63 letters, digits and hyphens.
fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// 126 random bits in 16 bytes: the top bits are fixed so that the number is positive and has the same length everywhere.
fn random_serial() -> SerialNumber {
    let serial = (rand::random::<u128>() & !(1 << 127)) | (1 << 126);
    SerialNumber::from_slice(&serial.to_be_bytes())
}
