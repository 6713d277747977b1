//! The credentials as files: one for what the agent has, so that certificate and key change together, and one for the key that
//! it is joining with.

use super::pin_of;
use crate::session::ConnectError;
use piecework_proto::{
    address::AddressError,
    trust::{NameCheck, PIN_BYTES, Pin},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tonic::Status;

/// Why an agent has no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It has never joined, and can't.
    #[error(
        "this agent has not joined this coordinator yet: make a token with `piecework agents join-token` where the \
         coordinator runs, and give it with --join"
    )]
    NoToken,
    /// The token is another one's.
    #[error("this token is for clients: make one for agents with `piecework agents join-token`")]
    ClientToken,
    /// It was away for too long.
    #[error(
        "the certificate of this agent, {0}, has ended: make a token with `piecework agents join-token`, and give it with \
         --join; it stays the same agent"
    )]
    Ended(String),
    /// It belongs elsewhere.
    #[error(
        "this agent has joined another coordinator, as {name}: give it another --data, or remove {path} if that one is gone",
        path = .path.display()
    )]
    JoinedAnother {
        /// Under which name.
        name: String,
        /// Where that is written.
        path: PathBuf,
    },
    /// The coordinator said no.
    #[error("the coordinator refuses: {}", .0.message())]
    Refused(#[source] Status),
    /// Somebody else answers there.
    #[error("{0}")]
    NotTheCoordinator(#[source] ConnectError),
    /// No such place.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A file can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged: {why}; remove it, and let the agent join anew", path = .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A key can't be made or used.
    #[error("the agent's key can't be used: {0}")]
    Key(#[source] rcgen::Error),
    /// Certificate and key do not fit, or are none.
    #[error("the agent's certificate can't be used: {0}")]
    Tls(#[source] rustls::Error),
    /// The coordinator's answer is no certificate.
    #[error("the coordinator sent a certificate that can't be read")]
    Certificate,
}

/// What an agent has that has joined.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Joined {
    pub(super) name: String,
    coordinator_sha256: String,
    check_host_name: bool,
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// How long it was good when it came, by this host's clock.
    life_secs: u64,
    not_after_secs: u64,
}

/// A key on its way to a certificate.
#[derive(Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) key: Vec<u8>,
}

/// Without the key.
impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Joined {
    pub(super) fn new(
        name: &str,
        pin: Pin,
        certificate: Vec<u8>,
        key: Vec<u8>,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let (coordinator_sha256, check_host_name) = pin_of(pin);
        let not_after_secs = ends(&certificate)?;
        Ok(Self {
            name: name.to_owned(),
            coordinator_sha256,
            check_host_name,
            certificate,
            key,
            life_secs: not_after_secs.saturating_sub(secs(now)),
            not_after_secs,
        })
    }

    /// The same agent with a new certificate.
    pub(super) fn with(
        &self,
        certificate: Vec<u8>,
        key: Vec<u8>,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        Self::new(&self.name, self.pin(), certificate, key, now)
    }

    pub(super) fn pin(&self) -> Pin {
        let mut sha256 = [0; PIN_BYTES];
        for (byte, digits) in sha256.iter_mut().zip(self.coordinator_sha256.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            // A digit that was changed by hand makes another pin, which fits nobody.
            *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
        }
        Pin { name: if self.check_host_name { NameCheck::Host } else { NameCheck::Coordinator }, sha256 }
    }

    pub(super) fn life(&self) -> Duration {
        Duration::from_secs(self.life_secs)
    }

    /// Less than a third of its life is left.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        secs(now) + self.life_secs / 3 >= self.not_after_secs
    }

    /// Nobody takes it any more.
    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        secs(now) >= self.not_after_secs
    }
}

/// Seconds since 1970.
fn secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Until when a certificate is good, in seconds since 1970.
fn ends(certificate: &[u8]) -> Result<u64, CredentialsError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| CredentialsError::Certificate)?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

/// Where the agent's credentials are.
pub(super) fn path(data: &Path) -> PathBuf {
    data.join("tls/identity.json")
}

/// Where the key is that it is joining with.
pub(super) fn pending_path(data: &Path) -> PathBuf {
    data.join("tls/joining.json")
}

/// It has joined. A file that stays does no harm.
pub(super) fn remove_pending(data: &Path) {
    let path = pending_path(data);
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "a file can't be removed");
    }
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CredentialsError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| CredentialsError::Damaged { path: path.to_owned(), why: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CredentialsError::Path { path: path.to_owned(), source }),
    }
}

/// Whole or not at all, and nobody else's to read.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), CredentialsError> {
    let part = path.with_extension("part");
    let written = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(path);
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec_pretty(value).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        File::open(dir)?.sync_all()
    };
    written().map_err(|source| CredentialsError::Path { path: path.to_owned(), source })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    pub(in crate::credentials) fn joined(now: u64, after: i64) -> Joined {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        // As the coordinator does it, for clocks that are late.
        params.not_before = SystemTime::UNIX_EPOCH.into();
        params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(after.unsigned_abs())).into();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
        let pin = Pin { name: NameCheck::Host, sha256: [0xa7; PIN_BYTES] };
        Joined::new("build-1", pin, certificate, key.serialize_der(), now).expect("it can be read")
    }

    #[test]
    fn what_is_kept_is_read_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(dir.path());
        assert!(read::<Joined>(&path).expect("nothing there").is_none());
        let kept = joined(100, 400);
        write(&path, &kept).expect("writes");
        let found: Joined = read(&path).expect("reads").expect("is there");
        assert_eq!((found.pin(), &found.key, found.life().as_secs()), (kept.pin(), &kept.key, 300));
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{").expect("writes");
        assert!(matches!(read::<Joined>(&path), Err(CredentialsError::Damaged { .. })));
    }

    #[test]
    fn it_is_due_when_two_thirds_of_its_life_are_over() {
        let kept = joined(100, 400);
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        assert!(!kept.is_due(at(299)));
        assert!(kept.is_due(at(300)));
        assert!(kept.is_due(at(500)));
        assert!(!kept.has_ended(at(399)) && kept.has_ended(at(400)));
    }
}
