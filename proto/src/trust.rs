//! How the other side of a TLS connection is known.
//!
//! A token carries the digest of one certificate: the trust anchor. The coordinator sends that certificate at the end of
//! its chain, and nothing that it has not signed is believed. So no file has to be copied to a host before it can join, and no
//! certificate authority of the world is trusted.

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The name in every certificate of a coordinator that has made its own: whatever address it is reached at, it is known by
/// this. `.internal` is nobody's to register.
pub const COORDINATOR_NAME: &str = "coordinator.piecework.internal";

/// The length of a pin, in bytes.
pub const PIN_BYTES: usize = 32;

/// The protocol that both sides speak over TLS.
pub const ALPN: &[u8] = b"h2";

/// The one certificate that a coordinator's must be signed by, or be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Which name the coordinator's certificate must have.
    pub name: NameCheck,
    /// SHA-256 of the certificate.
    pub sha256: [u8; PIN_BYTES],
}

/// Which name a coordinator's certificate must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// [`COORDINATOR_NAME`]: the anchor signs for one installation of ours, and nothing else.
    Coordinator,
    /// The host that was dialled: the anchor is the operator's, and may sign for others too.
    Host,
}

/// A certificate with its key, by which this side is known.
#[derive(Debug)]
pub struct Identity {
    /// The certificate, and those that it is signed by.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// SHA-256 of a certificate.
#[must_use]
pub fn certificate_sha256(certificate: &[u8]) -> [u8; PIN_BYTES] {
    Sha256::digest(certificate).into()
}

/// The cryptography of all TLS here.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a client of a coordinator dials with.
///
/// # Errors
/// If certificate and key of the identity do not belong together.
pub fn client_config(pin: Pin, identity: Option<Identity>) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(PinnedAnchor { pin, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Believes what is signed by the pinned certificate, by the ordinary rules.
#[derive(Debug)]
struct PinnedAnchor {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAnchor {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchor = intermediates.iter().find(|found| certificate_sha256(found) == self.pin.sha256).ok_or_else(
            || Error::General("it is not the coordinator that the token was made by: its certificate is signed by another".into()),
        )?;
        let mut roots = RootCertStore::empty();
        roots.add(anchor.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let expected = match self.pin.name {
            NameCheck::Coordinator => {
                &ServerName::try_from(COORDINATOR_NAME).map_err(|error| Error::General(error.to_string()))?
            }
            NameCheck::Host => server_name,
        };
        verifier.verify_server_cert(end_entity, intermediates, expected, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
