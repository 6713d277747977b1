//! Boot as a list: lock the data directory, open the outbox, choose the runtime, adopt or sweep what is left over,
//! dial the coordinator, and stop in the reverse order.

use crate::runtime::RuntimeKind;
use std::{collections::BTreeMap, path::PathBuf};

/// Which runtime to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Docker if an engine answers, else plain processes. For the one-machine mode.
    Auto,
    /// Docker.
    Docker,
    /// Plain child processes, with the same init.
    Process,
    /// Scripted endings, for tests.
    Scripted,
}

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Holds the outbox, sockets of workers and the lock; made with mode 0700 if missing.
    pub data: PathBuf,
    /// The coordinator's socket.
    pub server: PathBuf,
    /// Its name; none means the host's.
    pub name: Option<String>,
    /// How many attempts at a time; none means one for each processor.
    pub slots: Option<u32>,
    /// Its runtime.
    pub runtime: RuntimeChoice,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Why an agent did not start. For people; says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent holds the data directory.
    #[error("another agent is running on {}", .0.display())]
    Locked(PathBuf),
    /// A path can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime asked for can't be used.
    #[error("{0}")]
    Runtime(String),
    /// The outbox can't be opened.
    #[error("the outbox in {path} can't be opened: {message}", path = .path.display())]
    Outbox {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    runtime: RuntimeKind,
}

impl Agent {
    /// Starts one. Returns when it is trying to reach the coordinator.
    ///
    /// # Errors
    /// If its data directory or its runtime can't be used.
    pub async fn start(config: AgentConfig) -> Result<Self, StartError> {
        let _ = config;
        unimplemented!()
    }

    /// The runtime in use. With [`RuntimeChoice::Auto`], tells what was chosen.
    #[must_use]
    pub fn runtime(&self) -> RuntimeKind {
        self.runtime
    }

    /// With [`RuntimeChoice::Auto`] and no Docker: why not, in one line.
    #[must_use]
    pub fn why_not_docker(&self) -> Option<&str> {
        None
    }

    /// Stops it: running attempts are killed and handed back, their workers are removed.
    pub async fn shutdown(self) {}
}
