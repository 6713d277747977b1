//! The options of the `piecework-server` program: flags, and `PIECEWORK_*` variables.

mod broker;

pub use broker::BrokerOptions;

use crate::{
    boot::{CRASHES_MAX_DEFAULT, LEASE_DEFAULT, ListenConfig, ServerConfig},
    broker::rabbitmq::RabbitMqConfigError,
    tls::{AGENT_LIFE_DEFAULT, CertificateFiles},
};
use clap::Parser;
use piecework_proto::address::{listen_address, web_origin};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Shortest lease: below, an agent that is merely busy would lose its attempts.
const LEASE_SECS_MIN: u64 = 1;

/// Longest lease: a day.
const LEASE_SECS_MAX: u64 = 24 * 3600;

/// Most losses that a task may be allowed: more is as good as no limit.
const CRASHES_MAX_MAX: i64 = 1_000_000;

/// The coordinator of Piecework: owns projects and queues, assigns attempts, records results.
///
/// It listens on a Unix socket that only its owner can open, and with --listen also on TCP. SIGTERM and SIGINT stop it gracefully; a second one at once.
/// The environment variable PIECEWORK_LOG says how much is logged to stderr, such as `info` or `piecework_server=debug`.
///
/// Exit codes: 0 stopped by a signal; 1 ended because it could not go on; 2 wrong options; 3 could not start; 130 stopped
/// at once by a second signal.
#[derive(Debug, Parser)]
#[command(name = "piecework-server", version, about, long_about)]
pub struct Options {
    /// Directory of the store, the output and the lock; made if it is missing.
    #[arg(long, env = "PIECEWORK_DATA", value_name = "DIR")]
    pub data: PathBuf,
    /// Where to listen; `piecework.sock` in the data directory if not given.
    #[arg(long, env = "PIECEWORK_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How long attempts stay with an agent that is not heard from, in seconds.
    #[arg(
        long,
        env = "PIECEWORK_LEASE_SECS",
        value_name = "SECONDS",
        default_value_t = LEASE_DEFAULT.as_secs(),
        value_parser = clap::value_parser!(u64).range(LEASE_SECS_MIN..=LEASE_SECS_MAX)
    )]
    pub lease_secs: u64,
    /// How many attempts of one task may be lost, with their worker, engine or agent, before the task fails.
    #[arg(
        long,
        env = "PIECEWORK_CRASHES_MAX",
        value_name = "NUMBER",
        default_value_t = CRASHES_MAX_DEFAULT,
        value_parser = clap::value_parser!(u32).range(0..=CRASHES_MAX_MAX)
    )]
    pub crashes_max: u32,
    /// Also listen on this IP address and port, for agents and clients of other hosts; with TLS from the first byte.
    ///
    /// Agents join with a token from `piecework agents join-token`; clients need one from `piecework tokens create`.
    #[arg(long, env = "PIECEWORK_LISTEN", value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub listen: Option<SocketAddr>,
    /// A name or address under which other hosts know this one, for the coordinator's certificate; may be given again, or several
    /// with commas between them.
    #[arg(
        long = "tls-name",
        env = "PIECEWORK_TLS_NAMES",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "listen"
    )]
    pub tls_names: Vec<String>,
    /// Your own certificate, with those that it is signed by behind it (PEM), instead of one that the coordinator makes.
    ///
    /// It is read anew when it changes. The last certificate of the file must stay the same: tokens and agents know the
    /// coordinator by it.
    #[arg(long, env = "PIECEWORK_TLS_CERT", value_name = "FILE", requires = "listen", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of your own certificate (PEM).
    #[arg(long, env = "PIECEWORK_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// How long an agent's certificate is good, in hours. Agents renew theirs in time by themselves.
    #[arg(
        long,
        env = "PIECEWORK_AGENT_CERT_HOURS",
        value_name = "HOURS",
        default_value_t = AGENT_LIFE_DEFAULT.as_secs() / 3600,
        value_parser = clap::value_parser!(u64).range(1..=24 * 3650)
    )]
    pub agent_cert_hours: u64,
    /// The origin of web pages that may use the queues over HTTP, such as `https://app.example`, or `*` for all; may be given again, or
    /// several with commas between them.
    #[arg(
        long = "cors-origin",
        env = "PIECEWORK_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = web_origin,
        requires = "listen"
    )]
    pub cors_origins: Vec<String>,
    /// Which broker carries TODO.
    #[command(flatten)]
    pub broker: BrokerOptions,
}

impl TryFrom<Options> for ServerConfig {
    type Error = RabbitMqConfigError;

    fn try_from(options: Options) -> Result<Self, Self::Error> {
        let Options {
            data,
            socket,
            lease_secs,
            crashes_max,
            listen,
            tls_names,
            tls_cert,
            tls_key,
            agent_cert_hours,
            cors_origins,
            broker,
        } = options;
        let listen = listen.map(|address| ListenConfig {
            address,
            names: tls_names,
            certificate: tls_cert.zip(tls_key).map(|(chain, key)| CertificateFiles { chain, key }),
            agent_life: Duration::from_secs(agent_cert_hours * 3600),
            cors_origins,
        });
        let broker = broker.config(std::env::args())?;
        Ok(Self { data, socket, lease: Duration::from_secs(lease_secs), crashes_max, listen, broker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_limit_of_losses_can_be_raised() {
        let parse = |more: &[&str]| {
            let options = Options::try_parse_from(["piecework-server", "--data", "d"].iter().chain(more));
            options.ok().and_then(|options| Some(ServerConfig::try_from(options).ok()?.crashes_max))
        };
        assert_eq!(parse(&[]), Some(CRASHES_MAX_DEFAULT));
        assert_eq!(parse(&["--crashes-max", "100"]), Some(100));
        assert_eq!(parse(&["--crashes-max", "-1"]), None);
    }

    #[test]
    fn a_lease_has_bounds() {
        let parse = |secs| Options::try_parse_from(["piecework-server", "--data", "d", "--lease-secs", secs]);
        assert!(parse("0").is_err());
        assert!(parse("86401").is_err());
        assert_eq!(
            parse("30").ok().and_then(|options| Some(ServerConfig::try_from(options).ok()?.lease)),
            Some(Duration::from_secs(30))
        );
    }
}
