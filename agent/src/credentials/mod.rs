//! How the coordinator knows this agent over TCP: a certificate, got once with a token, and renewed in time.
//!
//! ```text
//!  key, kept ─▶ Enrol (token, key) ─▶ certificate, kept ─▶ every connection ─▶ at two thirds of its life: Renew (new key)
//! ```
//!
//! The key is on disk before it is sent for a certificate, so that an answer that was lost can be asked for again.

mod file;

pub use file::CredentialsError;

use crate::session::{Backoff, Coordinator};
use file::{Joined, Pending};
use piecework_proto::{
    address::Address,
    token::{Token, TokenKind},
    trust::{self, Identity, Pin},
    v1::{EnrolRequest, RenewRequest},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};
use tonic::Code;

/// How often it is looked whether the certificate is to be renewed, at the least: the clock may jump, or the host sleep.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(3600);

/// And not more often than this.
const LOOK_EVERY_MIN: Duration = Duration::from_secs(1);

/// How soon a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// By what this agent is known over TCP. Cheap to clone; all clones see a new certificate at once.
#[derive(Clone, Debug)]
pub struct Credentials {
    path: Arc<PathBuf>,
    current: Arc<RwLock<Current>>,
}

#[derive(Debug)]
struct Current {
    joined: Joined,
    tls: Arc<ClientConfig>,
}

impl Credentials {
    /// Those in the data directory; without any, the agent joins with this token, which may take until the coordinator
    /// answers.
    ///
    /// # Errors
    /// If there are none and there is no token, the coordinator refuses, or the directory can't be used.
    pub async fn open(
        data: &Path,
        address: &Address,
        name: &str,
        token: Option<Token>,
    ) -> Result<Self, CredentialsError> {
        let path = file::path(data);
        let joined = match file::read::<Joined>(&path)? {
            Some(joined) => {
                if token.as_ref().is_some_and(|token| token.pin != joined.pin()) {
                    return Err(CredentialsError::JoinedAnother { name: joined.name, path });
                }
                if joined.name != name {
                    tracing::warn!(
                        "this agent joined as {}, and keeps that name: it is not called {name}",
                        joined.name
                    );
                }
                if joined.has_ended(SystemTime::now()) {
                    let token = token.ok_or_else(|| CredentialsError::Ended(joined.name.clone()))?;
                    // Its key proves that it is the same agent.
                    let key = key_of(&joined.key)?;
                    let joined = enrol(address, &joined.name, &token, &key).await?;
                    file::write(&path, &joined)?;
                    tracing::info!(
                        name = joined.name,
                        "this agent has joined again, after its certificate had ended"
                    );
                    joined
                } else {
                    joined
                }
            }
            None => {
                let token = token.ok_or(CredentialsError::NoToken)?;
                let joined = enrol(address, name, &token, &pending_key(data)?).await?;
                file::write(&path, &joined)?;
                file::remove_pending(data);
                tracing::info!(name, "this agent has joined");
                joined
            }
        };
        let tls = Arc::new(tls(&joined)?);
        Ok(Self { path: Arc::new(path), current: Arc::new(RwLock::new(Current { joined, tls })) })
    }

    /// Where they are kept, within the data directory.
    #[must_use]
    pub fn path(data: &Path) -> PathBuf {
        file::path(data)
    }

    /// The name under which this agent has joined.
    #[must_use]
    pub fn name(&self) -> String {
        self.current.read().unwrap_or_else(PoisonError::into_inner).joined.name.clone()
    }

    /// What to dial with, now.
    #[must_use]
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).tls.clone()
    }

    /// Renews the certificate whenever two thirds of its life are over, for ever.
    pub async fn renew_in_time(self, coordinator: Coordinator) {
        loop {
            let (due, life) = {
                let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
                (current.joined.is_due(SystemTime::now()), current.joined.life())
            };
            let mut wait = (life / 50).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
            if due {
                match self.renew(&coordinator).await {
                    Ok(()) => tracing::info!("this agent's certificate is renewed"),
                    Err(error) => {
                        tracing::warn!(%error, "this agent's certificate can't be renewed now");
                        wait = wait.min(RENEW_AGAIN);
                    }
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn renew(&self, coordinator: &Coordinator) -> Result<(), CredentialsError> {
        let key = new_key()?;
        let request = RenewRequest { certificate_request: request(&key)? };
        let answer = coordinator.bulk().client().renew(request).await.map_err(CredentialsError::Refused)?;
        let certificate = answer.into_inner().certificate;
        let joined = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.joined.with(certificate, key.serialize_der(), SystemTime::now())?
        };
        let tls = Arc::new(tls(&joined)?);
        file::write(&self.path, &joined)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { joined, tls };
        // What is opened from here on shows the new one, upon which the coordinator takes the old one no more.
        coordinator.renew_bulk();
        Ok(())
    }
}

fn tls(joined: &Joined) -> Result<ClientConfig, CredentialsError> {
    let identity = Identity {
        chain: vec![CertificateDer::from(joined.certificate.clone())],
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(joined.key.clone())),
    };
    trust::client_config(joined.pin(), Some(identity)).map_err(CredentialsError::Tls)
}

/// Asks until there is an answer.
async fn enrol(
    address: &Address,
    name: &str,
    token: &Token,
    key: &KeyPair,
) -> Result<Joined, CredentialsError> {
    if token.kind != TokenKind::Join {
        return Err(CredentialsError::ClientToken);
    }
    let tls = Arc::new(trust::client_config(token.pin, None).map_err(CredentialsError::Tls)?);
    let coordinator = Coordinator::new(address.clone(), move || Some(tls.clone()));
    let enrolment =
        EnrolRequest { token: token.to_string(), name: name.to_owned(), certificate_request: request(key)? };
    let mut backoff = Backoff::new();
    let mut told = false;
    loop {
        let why = match coordinator.connect().await {
            Ok(mut client) => match client.enrol(enrolment.clone()).await {
                Ok(answer) => {
                    let certificate = answer.into_inner().certificate;
                    let key = key.serialize_der();
                    return Joined::new(name, token.pin, certificate, key, SystemTime::now());
                }
                Err(status) if is_refusal(status.code()) => return Err(CredentialsError::Refused(status)),
                Err(status) => status.message().to_owned(),
            },
            Err(error) if error.is_final() => return Err(CredentialsError::NotTheCoordinator(error)),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("this agent can't join yet: {why}; trying until it can");
        }
        backoff.wait().await;
    }
}

const fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

/// The key that this agent joins with: kept before it is used, and the same at each try.
fn pending_key(data: &Path) -> Result<KeyPair, CredentialsError> {
    let path = file::pending_path(data);
    if let Some(pending) = file::read::<Pending>(&path)? {
        return key_of(&pending.key);
    }
    let key = new_key()?;
    file::write(&path, &Pending { key: key.serialize_der() })?;
    Ok(key)
}

fn key_of(der: &[u8]) -> Result<KeyPair, CredentialsError> {
    KeyPair::try_from(der).map_err(CredentialsError::Key)
}

fn new_key() -> Result<KeyPair, CredentialsError> {
    KeyPair::generate().map_err(CredentialsError::Key)
}

fn request(key: &KeyPair) -> Result<Vec<u8>, CredentialsError> {
    let request = CertificateParams::default().serialize_request(key).map_err(CredentialsError::Key)?;
    Ok(request.der().to_vec())
}

/// A pin as it is kept: the digest, and whether the host's name counts.
fn pin_of(token: Pin) -> (String, bool) {
    let hex = token.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    (hex, token.name == trust::NameCheck::Host)
}

#[cfg(test)]
mod tests {
    use super::{file::tests::joined, *};

    #[tokio::test]
    async fn who_can_not_be_known_is_told_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let address: Address = "https://127.0.0.1:1".parse().expect("an address");
        let open = async |token| Credentials::open(dir.path(), &address, "build-1", token).await;
        let no_token = open(None).await.expect_err("no token");
        assert!(matches!(no_token, CredentialsError::NoToken), "{no_token}");
        file::write(&file::path(dir.path()), &joined(100, 400)).expect("writes");
        let ended = open(None).await.expect_err("it has ended in 1970");
        assert!(matches!(&ended, CredentialsError::Ended(name) if name == "build-1"), "{ended}");
        let pin = Pin { name: trust::NameCheck::Host, sha256: [1; 32] };
        let foreign = Token { kind: TokenKind::Join, pin, id: [0; 5], secret: [0; 20] };
        let another = open(Some(foreign)).await.expect_err("of another coordinator");
        assert!(matches!(another, CredentialsError::JoinedAnother { .. }), "{another}");
    }
}
