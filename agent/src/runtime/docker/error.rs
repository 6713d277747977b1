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

/// What registries and engines say when an image is not to be had, on whatever host and however often it is asked for, in
/// small letters. All else may be the host's trouble: its network, its disk, a registry that is away.
const NOT_TO_BE_HAD: [&str; 10] = [
    "not found",
    "manifest unknown",
    "name unknown",
    "no matching manifest",
    "does not exist",
    "access denied",
    "unauthorized",
    "authentication required",
    "authorization failed",
    // A name server's last word. One that is away or out of order says something else.
    "no such host",
];

/// What a build says when it failed for want of something that the host lacks, in small letters. All else is the build's own
/// fault.
const LACKING: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// Whether a pull failed for the image's sake, so that another host would meet the same.
pub(super) fn is_not_to_be_had(error: &Error) -> bool {
    let says_so = || {
        let words = words(error).to_lowercase();
        NOT_TO_BE_HAD.iter().any(|reason| words.contains(reason))
    };
    match error {
        Error::DockerResponseServerError { status_code: 400 | 401 | 403 | 404, .. } => true,
        error => is_refusal(error) && says_so(),
    }
}

/// Whether a build failed for the host's sake.
pub(super) fn is_lacking(error: &Error) -> bool {
    let words = words(error).to_lowercase();
    LACKING.iter().any(|reason| words.contains(reason))
}

/// Whether the engine can't do what it would else.
pub(super) fn is_in_trouble(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 500.., .. })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.into() }
    }

    fn in_stream(error: &str) -> Error {
        Error::DockerStreamError { error: error.into() }
    }

    #[test]
    fn what_another_host_would_meet_too_is_not_to_be_had() {
        let errors = [
            answer(400, "invalid reference format"),
            answer(
                404,
                "pull access denied for nobody/nothing, repository does not exist or may require 'docker login'",
            ),
            answer(500, "manifest for debian:nothing not found: manifest unknown: manifest unknown"),
            answer(
                500,
                "Head \"https://registry.example/v2/a/manifests/latest\": unauthorized: authentication required",
            ),
            in_stream(
                "failed to resolve reference \"docker.io/library/debian:nothing\": docker.io/library/debian:nothing: not found",
            ),
            answer(
                500,
                "Get \"https://registry.invalid/v2/\": dial tcp: lookup registry.invalid on 10.0.0.1:53: no such host",
            ),
            in_stream("no matching manifest for linux/arm64/v8 in the manifest list entries"),
            in_stream(
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            ),
        ];
        for error in errors {
            assert!(is_not_to_be_had(&error), "{error}");
        }
    }

    #[test]
    fn the_troubles_of_a_host_say_nothing_of_an_image() {
        let errors = [
            answer(
                500,
                "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: server misbehaving",
            ),
            answer(
                500,
                "Get \"https://registry-1.docker.io/v2/\": net/http: request canceled while waiting for connection (Client.Timeout exceeded)",
            ),
            answer(429, "toomanyrequests: You have reached your pull rate limit"),
            answer(502, "Bad Gateway"),
            in_stream("failed to register layer: write /usr/lib/libc.so: no space left on device"),
            in_stream("dial tcp 10.0.0.1:443: connect: connection refused"),
            in_stream("it took longer than 3600 s"),
            Error::RequestTimeoutError,
        ];
        for error in errors {
            assert!(!is_not_to_be_had(&error), "{error}");
        }
        assert!(is_lacking(&in_stream("write /var/lib/docker/tmp/x: no space left on device")));
        assert!(!is_lacking(&in_stream("The command '/bin/sh -c false' returned a non-zero code: 1")));
    }
}
