//! What the engine's errors mean: it refused, or it is not there.

use bollard::errors::Error;
use std::path::PathBuf;

/// Why there is no Docker runtime. For people; says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the socket.
    #[error("no Docker engine answers at {socket}: {message}; start it, or choose the process runtime", socket = .socket.display())]
    NoEngine {
        /// Where it was looked for.
        socket: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// DOCKER_HOST names another host.
    #[error(
        "DOCKER_HOST is `{0}`, but an agent works only with the engine of its own host: set it to unix://PATH, or unset it"
    )]
    Remote(String),
    /// The data directory can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Whether the engine is there and said no; otherwise it could not be asked, or did not answer.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. })
}

/// Whether the engine has no such thing.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Whether it is busy with the same thing.
pub(super) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 409, .. })
}

/// The engine's own words, or what lies beneath.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        Error::RequestTimeoutError => "it took too long".into(),
        Error::SocketNotFoundError(_) => "there is no such socket".into(),
        _ => {
            // The innermost cause says what happened; those above it name the library's layers.
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            cause.to_string()
        }
    }
}
