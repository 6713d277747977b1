//! Why a measurement has no figures.

use crate::client::ClientError;
use std::{io, path::PathBuf};

/// Why a measurement has no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A call to the coordinator failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file can't be used.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program of this machine failed.
    #[error("`{command}` {why}")]
    Command {
        /// The command.
        command: String,
        /// How it failed.
        why: String,
    },
    /// The bare store, which submission is compared to, failed.
    #[error("the bare SQLite loop: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The bare program, which the way through RabbitMQ is compared to, failed.
    #[error("the bare RabbitMQ program: {0}")]
    RabbitMq(#[from] lapin::Error),
    /// The coordinator or the agent can't go on.
    #[error("the {what} {why}{log}")]
    Part {
        /// Which.
        what: &'static str,
        /// How it failed.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// Something took too long.
    #[error("{what} took longer than {secs} s")]
    TooLong {
        /// What.
        what: String,
        /// Longer than that.
        secs: u64,
    },
    /// What came back is not what it must be, so its figure would mean nothing.
    #[error("the result is wrong: {0}")]
    Wrong(String),
    /// A thread of this program broke down.
    #[error("{0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl BenchError {
    /// For `map_err` of what is done to a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
