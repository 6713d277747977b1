//! RabbitMQ over TLS: a real one, with a certificate of an authority that nobody else knows.

use crate::rabbitmq::Node;
use piecework_server::broker::rabbitmq::{RabbitMq, RabbitMqConfig, RabbitMqConfigError, RabbitMqError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

/// Writes an authority, and a certificate of it for `localhost`, into a directory.
fn write_certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).expect("parameters").signed_by(&key, &authority);
    for (name, pem) in [
        ("ca.pem", authority.pem()),
        ("cert.pem", certificate.expect("a certificate").pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        fs::write(dir.join(name), pem).expect("a file");
    }
}

/// As a coordinator starts: dials it, and makes what is there always.
async fn check(config: Result<RabbitMqConfig, RabbitMqConfigError>) -> Result<(), RabbitMqError> {
    RabbitMq::check(&config.expect("a configuration").with_prefix("over-tls").expect("a prefix")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_that_shows_a_trusted_certificate_of_its_name_is_used() {
    let dir = tempfile::tempdir().expect("a directory");
    write_certificates(dir.path());
    let authority = dir.path().join("ca.pem");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let file = |name| dir.path().join(name).display().to_string();
    let node = Node::start_with(|_| {
        format!(
            "listeners.ssl.default = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
            file("ca.pem"),
            file("cert.pem"),
            file("key.pem")
        )
    });
    let Some(_node) = node else { return };

    let at = |host: &str| RabbitMqConfig::new(&[format!("amqps://guest:guest@{host}:{port}")]);
    let trusting = |host: &str| at(host).and_then(|config| config.with_authorities(&authority));
    check(trusting("localhost")).await.expect("a connection over TLS");

    for (what, config) in [
        ("an authority that nobody knows", at("localhost")),
        ("a certificate of another name", trusting("127.0.0.1")),
    ] {
        let error = check(config).await.expect_err(what).to_string();
        assert!(error.contains("certificate"), "{what}: {error}");
        assert!(!error.contains("guest:guest"), "{what}: {error}");
    }
    let plain = format!("amqp://guest:guest@localhost:{port}");
    check(RabbitMqConfig::new(&[plain])).await.expect_err("a node that speaks TLS alone");
}
