//! What the program tells of itself: lines on stderr, as many as `PIECEWORK_LOG` asks for.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged.
const FILTER_VARIABLE: &str = "PIECEWORK_LOG";

/// What is logged if `PIECEWORK_LOG` says nothing. What befalls a connection to RabbitMQ is told by whoever uses it.
const FILTER_DEFAULT: &str = "info,lapin=off";

/// Starts logging. To be called once, by a program, never by a library.
pub fn start() {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}
