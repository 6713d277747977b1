//! Where the RabbitMQ is, who we are there, and what our queues are called.

use lapin::{
    tcp::OwnedTLSConfig,
    uri::{AMQPScheme, AMQPUri},
};
use std::{fmt, fs, io, path::Path};
use url::{Host, Url};

/// What the names of queues begin with, if nothing else is said.
pub const PREFIX_DEFAULT: &str = "piecework";

/// Longest prefix: what follows it must fit in a queue's name, too.
const PREFIX_BYTES_MAX: usize = 50;

/// How often the two sides of a connection show that they are there, unless the URL says otherwise. After two such times of
/// silence the connection is given up.
const HEARTBEAT_SECS: u16 = 10;

/// Largest file of a password that is read.
const PASSWORD_BYTES_MAX: usize = 4096;

/// How RabbitMQ is reached. Shows no password.
#[derive(Clone)]
pub struct RabbitMqConfig {
    /// One for each node; the first that answers is used.
    uris: Vec<AMQPUri>,
    prefix: String,
    /// Certificates of authorities to trust instead of the system's, as PEM.
    authorities: Option<String>,
}

/// What is wrong with how RabbitMQ is to be reached. Says nothing that may be a password.
#[derive(Debug, thiserror::Error)]
pub enum RabbitMqConfigError {
    /// The URL can't be understood.
    #[error("the broker's URL can't be used: {0}; wanted is amqp://USER@HOST:PORT/VHOST or amqps://…")]
    Url(String),
    /// The password is in the command line.
    #[error(
        "on a command line everybody on this machine can see the broker's password: put it into a file and use \
             --broker-password-file, or put the URL into PIECEWORK_BROKER"
    )]
    VisiblePassword,
    /// There is no URL.
    #[error("no broker is named")]
    NoUrl,
    /// The prefix can't be used.
    #[error("a broker prefix has 1 to {PREFIX_BYTES_MAX} letters, digits, `-`, `_` and `.`")]
    Prefix,
    /// A file can't be used.
    #[error("can't read {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl RabbitMqConfig {
    /// Takes URLs apart, one for each node of a cluster: `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://…` for TLS. Without
    /// a user it is `guest`, without a vhost `/`.
    ///
    /// # Errors
    /// If there is none, or one is none.
    pub fn new<U: AsRef<str>>(urls: &[U]) -> Result<Self, RabbitMqConfigError> {
        let uris = urls.iter().map(|url| parse(url.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if uris.is_empty() {
            return Err(RabbitMqConfigError::NoUrl);
        }
        Ok(Self { uris, prefix: PREFIX_DEFAULT.to_owned(), authorities: None })
    }

    /// Another prefix of all names, so that several installations can share a vhost.
    ///
    /// # Errors
    /// If it has other characters than letters, digits, `-`, `_` and `.`, or too many.
    pub fn with_prefix(mut self, prefix: &str) -> Result<Self, RabbitMqConfigError> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(is_fine) {
            return Err(RabbitMqConfigError::Prefix);
        }
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }

    /// The password, from the first line of a file.
    ///
    /// # Errors
    /// If the file can't be read, or is none of a password.
    pub fn with_password_file(mut self, path: &Path) -> Result<Self, RabbitMqConfigError> {
        let text = read(path)?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() || text.len() > PASSWORD_BYTES_MAX {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its first line is to be a password");
            return Err(RabbitMqConfigError::File { path: path.display().to_string(), source });
        }
        for uri in &mut self.uris {
            password.clone_into(&mut uri.authority.userinfo.password);
        }
        Ok(self)
    }

    /// Trusts these authorities (PEM) instead of the system's, for `amqps`.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn with_authorities(mut self, path: &Path) -> Result<Self, RabbitMqConfigError> {
        self.authorities = Some(read(path)?);
        Ok(self)
    }

    /// What the names of all queues begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn uris(&self) -> &[AMQPUri] {
        &self.uris
    }

    pub(super) fn tls(&self) -> OwnedTLSConfig {
        OwnedTLSConfig { identity: None, cert_chain: self.authorities.clone() }
    }
}

fn parse(url: &str) -> Result<AMQPUri, RabbitMqConfigError> {
    let wrong = |why: &str| RabbitMqConfigError::Url(why.to_owned());
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "amqp" | "amqps") {
        return Err(wrong("it does not begin with amqp:// or amqps://"));
    }
    let mut uri: AMQPUri = url.parse().map_err(|_| wrong("its query or its path is malformed"))?;
    uri.authority.host = match parsed.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err(wrong("it names no host")),
    };
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    if uri.vhost.contains('/') && uri.vhost != "/" {
        return Err(wrong("a `/` within a vhost is written %2f"));
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECS);
    Ok(uri)
}

fn read(path: &Path) -> Result<String, RabbitMqConfigError> {
    fs::read_to_string(path)
        .map_err(|source| RabbitMqConfigError::File { path: path.display().to_string(), source })
}

/// Whether a URL has a password in it, which others could see on a command line.
#[must_use]
pub fn has_password(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.password().is_some())
}

/// `amqps://piecework@mq.example:5671/jobs`, several with commas between them.
impl fmt::Display for RabbitMqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.uris.iter().map(shown).collect();
        f.write_str(&all.join(","))
    }
}

/// A URL without its password.
pub(super) fn shown(uri: &AMQPUri) -> String {
    let scheme = match uri.scheme {
        AMQPScheme::AMQP => "amqp",
        AMQPScheme::AMQPS => "amqps",
    };
    let authority = &uri.authority;
    let host =
        if authority.host.contains(':') { format!("[{}]", authority.host) } else { authority.host.clone() };
    let vhost = if uri.vhost == "/" { "%2f" } else { &uri.vhost };
    format!("{scheme}://{}@{host}:{}/{vhost}", authority.userinfo.username, authority.port)
}

impl fmt::Debug for RabbitMqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RabbitMqConfig({self}, prefix {})", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Result<String, String> {
        RabbitMqConfig::new(&[url]).map(|config| config.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_understood_and_shown_without_their_password() {
        for (url, expected) in [
            ("amqp://mq.example", "amqp://guest@mq.example:5672/%2f"),
            ("amqp://mq.example/", "amqp://guest@mq.example:5672/%2f"),
            ("amqps://ann:s3cret@10.0.0.7/jobs", "amqps://ann@10.0.0.7:5671/jobs"),
            ("amqp://ann:s3cret@[::1]:5673/%2f?heartbeat=3", "amqp://ann@[::1]:5673/%2f"),
        ] {
            assert_eq!(shown(url).as_deref(), Ok(expected));
        }
        let config = RabbitMqConfig::new(&["amqp://ann:s3cret@h/v"]).expect("a URL");
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.uris()[0].authority.userinfo.password, "s3cret");
        assert_eq!(config.uris()[0].query.heartbeat, Some(HEARTBEAT_SECS));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_its_password() {
        for url in [
            "",
            "mq.example",
            "http://ann:s3cret@mq.example",
            "amqp://",
            "amqp:///jobs",
            "amqp://ann:s3cret@h:99999/",
            "amqp://ann:s3cret@h/a/b",
            "amqp://ann:s3cret@h/?heartbeat=often",
        ] {
            let error = shown(url).expect_err(url);
            assert!(
                error.contains("amqp://USER@HOST:PORT/VHOST") && !error.contains("s3cret"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn a_prefix_has_plain_characters() {
        let config = || RabbitMqConfig::new(&["amqp://h"]).expect("a URL");
        assert_eq!(config().prefix(), PREFIX_DEFAULT);
        assert_eq!(
            config().with_prefix("team-a.jobs").map(|c| c.prefix).ok().as_deref(),
            Some("team-a.jobs")
        );
        for wrong in ["", "a b", "ü", "a/b", &"x".repeat(PREFIX_BYTES_MAX + 1)] {
            assert!(config().with_prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_can_come_from_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        let config = || RabbitMqConfig::new(&["amqp://ann@h"]).expect("a URL");
        fs::write(&file, "s3cret\n").expect("a file");
        let password = config()
            .with_password_file(&file)
            .map(|config| config.uris[0].authority.userinfo.password.clone());
        assert_eq!(password.ok().as_deref(), Some("s3cret"));
        fs::write(&file, "\n").expect("a file");
        assert!(config().with_password_file(&file).is_err());
        assert!(config().with_password_file(&dir.path().join("none")).is_err());
    }
}
