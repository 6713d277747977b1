//! Boot as a list: lock the data directory, open the store, fold the core, serve, and stop in the reverse order.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What a coordinator is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Holds the store, the output and the lock; made with mode 0700 if missing.
    pub data: PathBuf,
    /// Where to listen; none means `piecework.sock` in the data directory.
    pub socket: Option<PathBuf>,
    /// How long attempts stay with an agent that is not heard from.
    pub lease: Duration,
}

/// Why a coordinator did not start. For people; says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another coordinator holds the data directory.
    #[error("another coordinator is running on {}", .0.display())]
    Locked(PathBuf),
    /// A path can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The socket's path does not fit in an address.
    #[error("the socket path {} is longer than {max} bytes: choose a shorter data directory or socket", .path.display())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// A running coordinator.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
}

impl Server {
    /// Starts one, and returns when it accepts connections.
    ///
    /// # Errors
    /// If the data directory, the store or the socket can't be used.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        let _ = config;
        unimplemented!()
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until it ends by itself, which it does only when it can't go on; says why.
    pub async fn failed(&mut self) -> String {
        std::future::pending().await
    }

    /// Stops it: no more requests, what was answered is durable, the socket is gone.
    pub async fn shutdown(self) {}
}
