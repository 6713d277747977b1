//! The coordinator's own certificate authority: made at the first start, kept in the data directory. It signs the
//! coordinator's certificate, unless the operator has one, and those of all agents.

use super::TlsError;
use piecework_proto::trust::{COORDINATOR_NAME, Identity, certificate_sha256};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

/// How long the authority itself is good for: it can't be replaced without every agent joining anew.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How long a coordinator's certificate is good for. A new one is made in time.
pub(super) const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How far the clocks of two hosts may be apart when a certificate has just been made.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(24 * 3600);

/// The longest request for a certificate, in bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;

const CERTIFICATE_NAME: &str = "ca.pem";
const KEY_NAME: &str = "ca-key.pem";
const SERIAL_BYTES: usize = 16;

/// The authority.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub der: Vec<u8>,
    /// By which it is known.
    pub sha256: [u8; 32],
    /// When it ends, in milliseconds since 1970.
    pub expires_millis: i64,
}

/// What an agent asks a certificate with: its key, which it has shown to own.
#[derive(Debug)]
pub struct Request {
    params: CertificateSigningRequestParams,
    /// SHA-256 of the key: the same request can be told when it comes again.
    pub key_sha256: [u8; 32],
}

impl Request {
    /// Reads a request, and checks that it is signed with its key.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(der: &[u8]) -> Result<Self, TlsError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(TlsError::Request(format!("longer than {REQUEST_BYTES_MAX} bytes")));
        }
        let params = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| TlsError::Request(error.to_string()))?;
        let key = rcgen::PublicKeyData::der_bytes(&params.public_key);
        Ok(Self { key_sha256: Sha256::digest(key).into(), params })
    }
}

impl Authority {
    /// Opens the one in this directory, or makes it.
    ///
    /// # Errors
    /// If it can't be read or written, or is damaged.
    pub fn open(dir: &Path) -> Result<Self, TlsError> {
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_NAME), dir.join(KEY_NAME));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(TlsError::path(dir))?;
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(TlsError::damaged(&key_path))?,
            None if certificate_path.exists() => {
                return Err(TlsError::path(&key_path)(io::Error::from(io::ErrorKind::NotFound)));
            }
            None => {
                let key = KeyPair::generate().map_err(TlsError::Made)?;
                write_new(&key_path, &key.serialize_pem())?;
                key
            }
        };
        let certificate = match read(&certificate_path)? {
            Some(pem) => CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(TlsError::damaged(&certificate_path))?,
            None => {
                let certificate = authority_params()?.self_signed(&key).map_err(TlsError::Made)?;
                write_new(&certificate_path, &certificate.pem())?;
                tracing::info!(path = %certificate_path.display(), "made a certificate authority for agents and clients");
                certificate.der().clone()
            }
        };
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(TlsError::damaged(&certificate_path))?;
        Ok(Self { certificate, issuer })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for the coordinator, with a new key, under its fixed name and these names and addresses.
    ///
    /// # Errors
    /// If one of them is no name.
    pub fn issue_server(&self, names: &[String], now: SystemTime) -> Result<Identity, TlsError> {
        let mut all = vec![COORDINATOR_NAME.to_owned()];
        all.extend(names.iter().cloned());
        let mut params = CertificateParams::new(all).map_err(TlsError::Made)?;
        params.distinguished_name = common_name("piecework coordinator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        limit(&mut params, now, SERVER_LIFE)?;
        let key = KeyPair::generate().map_err(TlsError::Made)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(TlsError::Made)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Identity { chain: vec![certificate.der().clone(), self.certificate.clone()], key })
    }

    /// A certificate for an agent. Of the request only the key is used: what the certificate says is ours to decide.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn issue_agent(
        &self,
        request: &Request,
        name: &str,
        now: SystemTime,
        life: Duration,
    ) -> Result<Issued, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        limit(&mut params, now, life)?;
        let certificate =
            params.signed_by(&request.params.public_key, &self.issuer).map_err(TlsError::Made)?;
        let der = certificate.der().to_vec();
        let expires_millis = millis(now + life);
        Ok(Issued { sha256: certificate_sha256(&der), der, expires_millis })
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn authority_params() -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("piecework certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    limit(&mut params, SystemTime::now(), AUTHORITY_LIFE)?;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn limit(params: &mut CertificateParams, now: SystemTime, life: Duration) -> Result<(), TlsError> {
    let mut serial = [0; SERIAL_BYTES];
    getrandom::fill(&mut serial).map_err(|error| TlsError::Random(error.to_string()))?;
    // A positive number, as the standard wants it.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = (now - CLOCK_SKEW_MAX).into();
    params.not_after = (now + life).into();
    Ok(())
}

fn read(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TlsError::path(path)(error)),
    }
}

/// Whole or not at all, and nobody else's to read.
fn write_new(path: &Path, text: &str) -> Result<(), TlsError> {
    let part = path.with_extension("part");
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    written().map_err(TlsError::path(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn request() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        let mode = fs::metadata(dir.path().join(KEY_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_lost_key_is_told_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        fs::remove_file(dir.path().join(KEY_NAME)).unwrap();
        assert!(matches!(Authority::open(dir.path()), Err(TlsError::Path { .. })));
        fs::write(dir.path().join(KEY_NAME), "nonsense").unwrap();
        assert!(matches!(Authority::open(dir.path()), Err(TlsError::Damaged { .. })));
    }

    #[test]
    fn a_request_must_be_signed_with_its_own_key() {
        let good = request();
        let known = Request::parse(&good).unwrap().key_sha256;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            // The parser overlooks a change of what is not signed; the key is.
            let key = Request::parse(&bad).map(|request| request.key_sha256).ok();
            assert!(key.is_none_or(|key| key == known), "changed at {at}, it is a request for another key");
        }
        assert!(Request::parse(&[]).is_err());
        assert!(Request::parse(&vec![0; REQUEST_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn the_same_key_is_told_again() {
        let (one, other) = (request(), request());
        let key = |der: &[u8]| Request::parse(der).unwrap().key_sha256;
        assert_eq!(key(&one), key(&one));
        assert_ne!(key(&one), key(&other));
    }
}
