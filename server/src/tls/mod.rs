//! TLS: who the coordinator is to others, and which agents it has certified. TCP is never spoken without it.

mod authority;
mod certificate;
mod listener;

pub use authority::{Authority, Issued, REQUEST_BYTES_MAX, Request};
pub use listener::{Connection, Peer, connections};

use crate::domain::Sha256;
use certificate::{Files, Own};
use piecework_proto::{
    token::{TOKEN_ID_BYTES, TOKEN_SECRET_BYTES, Token, TokenKind},
    trust::{ALPN, NameCheck, Pin, certificate_sha256, provider},
};
use rustls::{
    RootCertStore, ServerConfig,
    server::{ResolvesServerCert, WebPkiClientVerifier},
};
use sha2::Digest as _;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long an agent's certificate is good, if nothing else is said. It is renewed in time, as long as the agent runs.
pub const AGENT_LIFE_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);

/// The protocol of HTTP clients that know no other.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The directory's name in the data directory.
const DIR_NAME: &str = "tls";

/// The operator's own certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those that it is signed by, as PEM.
    pub chain: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// Why TLS can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged, or is something else: {why}", path = .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The operator's certificate comes without those that it is signed by.
    #[error("{path} has one certificate: put those that it is signed by behind it, so that agents can know it", path = .0.display())]
    NoIssuer(PathBuf),
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Made(#[source] rcgen::Error),
    /// A request for a certificate is none.
    #[error("this is no request for a certificate: {0}")]
    Request(String),
    /// There is no chance.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// What was put together does not fit.
    #[error("TLS can't be set up: {0}")]
    Setup(String),
}

impl TlsError {
    fn path(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Path { path, source }
    }

    fn damaged<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |why| Self::Damaged { path, why: why.to_string() }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Signs the certificates of agents.
    pub authority: Arc<Authority>,
    /// How others are to know this coordinator: goes into every token.
    pub pin: Pin,
    /// For the listener.
    pub config: Arc<ServerConfig>,
    /// How long an agent's certificate is good.
    pub agent_life: Duration,
    /// Where agents and clients find the coordinator, as far as it knows, for people.
    pub address: String,
}

/// What TLS is set up with.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// What the coordinator is reached by, beside its fixed name; for its own certificate.
    pub names: Vec<String>,
    /// The operator's own certificate, instead of one that the coordinator makes.
    pub files: Option<CertificateFiles>,
    /// How long an agent's certificate is good.
    pub agent_life: Duration,
    /// Where it listens, for people.
    pub address: String,
}

/// Makes a token: as it is shown, its id, and the digest of its secret.
///
/// # Errors
/// If there is no chance.
pub fn make_token(kind: TokenKind, pin: Pin) -> Result<(String, [u8; TOKEN_ID_BYTES], Sha256), TlsError> {
    let (mut id, mut secret) = ([0; TOKEN_ID_BYTES], [0; TOKEN_SECRET_BYTES]);
    for bytes in [&mut id[..], &mut secret[..]] {
        getrandom::fill(bytes).map_err(|error| TlsError::Random(error.to_string()))?;
    }
    let token = Token { kind, pin, id, secret };
    Ok((token.to_string(), id, secret_sha256(&secret)))
}

/// What is kept of a secret. It has 160 random bits, so nothing slower than a digest is called for.
#[must_use]
pub fn secret_sha256(secret: &[u8]) -> Sha256 {
    sha2::Sha256::digest(secret).into()
}

impl Tls {
    /// Opens what is in the data directory, or makes it.
    ///
    /// # Errors
    /// If a file can't be used or is not what it should be.
    pub fn open(data: &Path, config: TlsConfig) -> Result<Self, TlsError> {
        let TlsConfig { names, files, agent_life, address } = config;
        let authority = Arc::new(Authority::open(&data.join(DIR_NAME))?);
        let (resolver, pin): (Arc<dyn ResolvesServerCert>, _) = match files {
            None => {
                let sha256 = certificate_sha256(authority.certificate());
                let own = Own::new(authority.clone(), names)?;
                (Arc::new(own), Pin { name: NameCheck::Coordinator, sha256 })
            }
            Some(files) => {
                let files = Files::new(files)?;
                let pin = Pin { name: NameCheck::Host, sha256: files.anchor_sha256() };
                (Arc::new(files), pin)
            }
        };
        let setup = |error: &dyn std::error::Error| TlsError::Setup(error.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).map_err(|error| setup(&error))?;
        // Clients have no certificate: they show a token with each call.
        let agents = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| setup(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(&error))?
            .with_client_cert_verifier(agents)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec(), ALPN_HTTP1.to_vec()];
        Ok(Self { authority, pin, config: Arc::new(config), agent_life, address })
    }
}
