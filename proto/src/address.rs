//! Where a coordinator listens, as people write it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// The port of a coordinator that listens on TCP, if nothing else is said.
pub const PORT_DEFAULT: u16 = 7437;

/// Where a coordinator listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket on this machine.
    Socket(PathBuf),
    /// TCP, with TLS from the first byte.
    Tls {
        /// A name or an IP address, the latter without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("an address is missing: give the path of a socket, or https://HOST:PORT")]
    Empty,
    /// A scheme without TLS, or one that is none of ours.
    #[error("{0}:// is not spoken here: give the path of a socket, or https://HOST:PORT")]
    Scheme(String),
    /// A host and a port without a scheme.
    #[error("{0:?} looks like a host and a port: write https://{0}")]
    NoScheme(String),
    /// The host is missing or can't be one.
    #[error("{0:?} is no host: write https://HOST:PORT, with an IPv6 address in brackets")]
    Host(String),
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is no port: it is a number from 1 to 65535")]
    Port(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` and `unix:/run/x` are the same.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(AddressError::Empty) } else { Ok(Self::Socket(path.into())) };
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme {
                "https" => tls(rest.strip_suffix('/').unwrap_or(rest)),
                _ => Err(AddressError::Scheme(scheme.to_owned())),
            };
        }
        match text.rsplit_once(':') {
            _ if text.is_empty() => Err(AddressError::Empty),
            Some((host, port)) if !host.is_empty() && !text.contains('/') && port.parse::<u16>().is_ok() => {
                Err(AddressError::NoScheme(text.to_owned()))
            }
            _ => Ok(Self::Socket(text.into())),
        }
    }
}

fn tls(text: &str) -> Result<Address, AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let no_host = || AddressError::Host(text.to_owned());
            let (host, after) = rest.split_once(']').ok_or_else(no_host)?;
            host.parse::<Ipv6Addr>().map_err(|_| no_host())?;
            (host, after.strip_prefix(':').or((after.is_empty()).then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    if !is_name(host) && host.parse::<IpAddr>().is_err() {
        return Err(AddressError::Host(host.to_owned()));
    }
    let port = match port {
        Some("") => PORT_DEFAULT,
        Some(port) => match port.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(AddressError::Port(port.to_owned())),
        },
        None => return Err(AddressError::Host(text.to_owned())),
    };
    Ok(Address::Tls { host: host.to_owned(), port })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tls { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

/// Where to listen: an IP address with a port, or without one, which means [`PORT_DEFAULT`].
///
/// # Errors
/// If it is none.
pub fn listen_address(text: &str) -> Result<SocketAddr, ListenError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let ip = text.parse().map_err(|_| ListenError(text.to_owned()))?;
    Ok(SocketAddr::new(ip, PORT_DEFAULT))
}

/// Nothing that can be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IP address with a port, such as 0.0.0.0:7437 or [::]:7437")]
pub struct ListenError(String);

/// The origin of web pages, as browsers name it: scheme, host and port in lower case, and no path; or `*` for any.
///
/// # Errors
/// If it is none.
pub fn web_origin(text: &str) -> Result<String, OriginError> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let origin = text.to_ascii_lowercase();
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_fine =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    match host {
        Some(host) if !host.is_empty() && host.bytes().all(is_fine) => Ok(origin),
        _ => Err(OriginError(text.to_owned())),
    }
}

/// No origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin of web pages, such as https://app.example or http://localhost:8080 (without a path), nor `*`"
)]
pub struct OriginError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = match text.parse::<Address>() {
            Ok(address @ Address::Socket(_)) => format!("socket {address}"),
            Ok(address) => address.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn paths_are_sockets() {
        check("/run/p.sock", "socket /run/p.sock");
        check("unix:/run/p.sock", "socket /run/p.sock");
        check("unix:///run/p.sock", "socket /run/p.sock");
        check("data/p.sock", "socket data/p.sock");
        check("./a:1", "socket ./a:1");
    }

    #[test]
    fn https_is_tls_with_a_port_of_ours() {
        check("https://10.0.0.1", "https://10.0.0.1:7437");
        check("https://build-1.example:99/", "https://build-1.example:99");
        check("https://[fe80::1]:99", "https://[fe80::1]:99");
        check("https://[::1]", "https://[::1]:7437");
    }

    #[test]
    fn what_is_neither_is_told() {
        check("", "error: an address is missing: give the path of a socket, or https://HOST:PORT");
        check(
            "http://x:1",
            "error: http:// is not spoken here: give the path of a socket, or https://HOST:PORT",
        );
        check(
            "10.0.0.1:99",
            "error: \"10.0.0.1:99\" looks like a host and a port: write https://10.0.0.1:99",
        );
        check("https://x:0", "error: \"0\" is no port: it is a number from 1 to 65535");
        for wrong in
            ["https://", "https://a b", "https://[::1", "https://[::1]x", "https://[x]:1", "https://a/b"]
        {
            assert!(matches!(wrong.parse::<Address>(), Err(AddressError::Host(_))), "{wrong}");
        }
    }

    #[test]
    fn what_is_listened_on_is_an_ip_address() {
        assert_eq!(listen_address("10.0.0.1").map(|address| address.port()), Ok(PORT_DEFAULT));
        assert_eq!(listen_address("[::]:1").map(|address| address.port()), Ok(1));
        assert!(listen_address("example.org:1").is_err());
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for (text, expected) in [
            ("*", Some("*")),
            ("https://App.example", Some("https://app.example")),
            ("http://localhost:8080", Some("http://localhost:8080")),
            ("http://[::1]:1", Some("http://[::1]:1")),
            ("https://app.example/", None),
            ("app.example", None),
            ("https://", None),
            ("https://a b", None),
            ("ftp://a", None),
        ] {
            assert_eq!(web_origin(text).ok().as_deref(), expected, "{text}");
        }
    }
}
