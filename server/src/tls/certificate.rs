//! The certificate that the coordinator shows: its own, made anew in time, or the operator's, read anew when its file changes.

use super::{Authority, CertificateFiles, Sha256, TlsError, authority::SERVER_LIFE};
use piecework_proto::trust::{Identity, certificate_sha256, provider};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the operator's files are looked at, at the most.
const LOOK_EVERY: Duration = Duration::from_secs(60);

fn certified(identity: Identity) -> Result<Arc<CertifiedKey>, String> {
    let certified = CertifiedKey::from_der(identity.chain, identity.key, &provider());
    certified.map(Arc::new).map_err(|error| error.to_string())
}

/// Made by the coordinator's own authority.
#[derive(Debug)]
pub(super) struct Own {
    authority: Arc<Authority>,
    names: Vec<String>,
    /// And when it was made.
    current: Mutex<(Arc<CertifiedKey>, SystemTime)>,
}

impl Own {
    pub(super) fn new(authority: Arc<Authority>, names: Vec<String>) -> Result<Self, TlsError> {
        let now = SystemTime::now();
        let current = Mutex::new((make(&authority, &names, now)?, now));
        Ok(Self { authority, names, current })
    }
}

fn make(authority: &Authority, names: &[String], now: SystemTime) -> Result<Arc<CertifiedKey>, TlsError> {
    certified(authority.issue_server(names, now)?).map_err(TlsError::Setup)
}

/// Past half of its life, or made in the future: the clock was set back.
fn is_old(made: SystemTime, now: SystemTime) -> bool {
    now.duration_since(made).map_or(true, |age| age > SERVER_LIFE / 2)
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        if is_old(current.1, now) {
            match make(&self.authority, &self.names, now) {
                Ok(made) => *current = (made, now),
                Err(error) => tracing::error!(%error, "the coordinator's certificate can't be renewed"),
            }
        }
        Some(current.0.clone())
    }
}

/// The operator's.
#[derive(Debug)]
pub(super) struct Files {
    files: CertificateFiles,
    /// The last certificate of the chain: what tokens pin.
    anchor: Sha256,
    current: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    certified: Arc<CertifiedKey>,
    stamp: Stamp,
    looked: Instant,
}

/// When the two files were changed.
type Stamp = [Option<SystemTime>; 2];

impl Files {
    pub(super) fn new(files: CertificateFiles) -> Result<Self, TlsError> {
        let stamp = stamp(&files);
        let certified = read(&files)?;
        let anchor = anchor_of(&certified);
        let current = Mutex::new(Read { certified, stamp, looked: Instant::now() });
        Ok(Self { files, anchor, current })
    }

    /// The last certificate of the chain: what tokens pin.
    pub(super) const fn anchor_sha256(&self) -> Sha256 {
        self.anchor
    }
}

fn anchor_of(certified: &CertifiedKey) -> Sha256 {
    certified.cert.last().map(|last| certificate_sha256(last)).unwrap_or_default()
}

fn stamp(files: &CertificateFiles) -> Stamp {
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    [changed(&files.chain), changed(&files.key)]
}

fn read(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let CertificateFiles { chain: chain_path, key: key_path } = files;
    let bytes = |path: &Path| fs::read(path).map_err(TlsError::path(path));
    let chain = CertificateDer::pem_slice_iter(&bytes(chain_path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::damaged(chain_path))?;
    match chain.len() {
        0 => return Err(TlsError::damaged(chain_path)("there is no certificate in it")),
        1 => return Err(TlsError::NoIssuer(chain_path.clone())),
        _ => {}
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes(key_path)?).map_err(TlsError::damaged(key_path))?;
    certified(Identity { chain, key }).map_err(TlsError::damaged(key_path))
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let stamp = stamp(&self.files);
            if stamp != current.stamp {
                match read(&self.files) {
                    Ok(certified) if anchor_of(&certified) != self.anchor => {
                        current.stamp = stamp;
                        tracing::error!(
                            path = %self.files.chain.display(),
                            "the last certificate in the file is another one than tokens and agents know the coordinator by: \
                             it goes on with its old certificate. After a restart with this file, agents and clients need new tokens"
                        );
                    }
                    Ok(certified) => {
                        tracing::info!(path = %self.files.chain.display(), "the coordinator's certificate was read anew");
                        (current.certified, current.stamp) = (certified, stamp);
                    }
                    // Perhaps only one of the two is there yet.
                    Err(error) => tracing::warn!(%error, "the coordinator goes on with its old certificate"),
                }
            }
        }
        Some(current.certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_anew_in_time_and_when_the_clock_goes_back() {
        let made = SystemTime::now();
        assert!(!is_old(made, made));
        assert!(!is_old(made, made + SERVER_LIFE / 3));
        assert!(is_old(made, made + SERVER_LIFE * 2 / 3));
        assert!(is_old(made, made - Duration::from_secs(1)));
    }

    #[test]
    fn the_operators_certificate_needs_its_issuer() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let identity = authority.issue_server(&["localhost".into()], SystemTime::now()).unwrap();
        let pem = |der: &[u8]| rcgen_pem(der);
        let files = CertificateFiles { chain: dir.path().join("chain"), key: dir.path().join("ca-key.pem") };
        fs::write(&files.chain, pem(&identity.chain[0])).unwrap();
        assert!(matches!(Files::new(files.clone()), Err(TlsError::NoIssuer(_))));
        fs::write(&files.chain, "").unwrap();
        assert!(matches!(Files::new(files.clone()), Err(TlsError::Damaged { .. })));
        // The key of another certificate.
        fs::write(&files.chain, pem(&identity.chain[0]) + &pem(&identity.chain[1])).unwrap();
        assert!(
            matches!(Files::new(files.clone()), Err(TlsError::Damaged { path, .. }) if path == files.key)
        );
    }

    fn rcgen_pem(der: &[u8]) -> String {
        let lines = data_encoding::BASE64.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    }
}
