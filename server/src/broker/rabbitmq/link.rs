//! One connection to a RabbitMQ, to whichever of its nodes answers first.

use super::config::{RabbitMqConfig, shown};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, protocol::AMQPErrorKind, uri::AMQPUri};
use std::{pin::pin, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long one node may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long RabbitMQ may take to answer what is asked on an open connection.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether a connection is still there, while nothing is asked on it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why RabbitMQ can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RabbitMqError {
    /// It answers, and refuses: a wrong password, say, or a queue that was made otherwise.
    #[error("RabbitMQ at {node} refuses: {why}")]
    Refused {
        /// Which node.
        node: String,
        /// Why.
        why: String,
    },
    /// It is not there, or no longer.
    #[error("RabbitMQ at {node} can't be reached: {why}")]
    Unreachable {
        /// Which node.
        node: String,
        /// Why.
        why: String,
    },
}

impl RabbitMqError {
    /// Whether it is the same after any wait.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A connection.
pub(crate) struct Link {
    connection: Connection,
    node: String,
}

impl Link {
    /// Tries each node once.
    pub(crate) async fn open(config: &RabbitMqConfig, purpose: &str) -> Result<Self, RabbitMqError> {
        let mut last = None;
        for uri in config.uris() {
            match connect(config, uri, purpose).await {
                Ok(link) => return Ok(link),
                Err(error) => {
                    tracing::debug!(%error, purpose, "a node was tried in vain");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| RabbitMqError::Unreachable {
            node: config.to_string(),
            why: "no node is named".to_owned(),
        }))
    }

    pub(crate) async fn channel(&self) -> Result<Channel, RabbitMqError> {
        self.within(self.connection.create_channel()).await
    }

    /// Whether RabbitMQ takes no publications for now, as it lacks memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Waits for an answer.
    pub(crate) async fn within<T>(
        &self,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, RabbitMqError> {
        match timeout(ANSWER_MAX, answer).await {
            Ok(answer) => answer.map_err(|error| self.error(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// As [`Self::within`], of something that may not be there; none if it is not. The channel is closed then.
    pub(crate) async fn find<T>(
        &self,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<Option<T>, RabbitMqError> {
        match timeout(ANSWER_MAX, answer).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if is_missing(&error) => Ok(None),
            Ok(Err(error)) => Err(self.error(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Waits for something that is not the connection's, as long as that lasts.
    pub(crate) async fn while_open<T>(&self, something: impl Future<Output = T>) -> Result<T, RabbitMqError> {
        let mut something = pin!(something);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut something => return Ok(done),
                _ = looks.tick() => {
                    if !self.is_open() {
                        return Err(self.closed("the connection"));
                    }
                }
            }
        }
    }

    /// It has closed something that is needed.
    pub(crate) fn closed(&self, what: &str) -> RabbitMqError {
        let why = format!("{what} was closed");
        RabbitMqError::Unreachable { node: self.node.clone(), why }
    }

    pub(crate) fn error(&self, error: &lapin::Error) -> RabbitMqError {
        told(&self.node, error)
    }

    /// It did not answer in time.
    pub(crate) fn silent(&self) -> RabbitMqError {
        let why = format!("it has not answered for {} s", ANSWER_MAX.as_secs());
        RabbitMqError::Unreachable { node: self.node.clone(), why }
    }

    /// Ends the connection in peace, if there is time for it.
    pub(super) async fn close(self) {
        let _ = timeout(CONNECT_MAX, self.connection.close(200, "stopping".into())).await;
    }
}

async fn connect(config: &RabbitMqConfig, uri: &AMQPUri, purpose: &str) -> Result<Link, RabbitMqError> {
    let node = shown(uri);
    let name = format!("{} {purpose}", config.prefix());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime().map_err(|error| told(&node, &error))?;
    let connecting = Connection::connect_uri_with_config(uri.clone(), properties, config.tls(), runtime);
    match timeout(CONNECT_MAX, connecting).await {
        Ok(Ok(connection)) => Ok(Link { connection, node }),
        Ok(Err(error)) => Err(told(&node, &error)),
        Err(_) => Err(RabbitMqError::Unreachable {
            node,
            why: format!("it has not answered within {} s", CONNECT_MAX.as_secs()),
        }),
    }
}

/// What RabbitMQ refuses it says in words of the protocol; else it is the network. Neither has a password in it.
fn told(node: &str, error: &lapin::Error) -> RabbitMqError {
    let node = node.to_owned();
    match error.kind() {
        ErrorKind::ProtocolError(fault) if is_refusal(fault.kind()) => {
            RabbitMqError::Refused { node, why: fault.get_message().to_string() }
        }
        _ => RabbitMqError::Unreachable { node, why: error.to_string() },
    }
}

fn is_missing(error: &lapin::Error) -> bool {
    use lapin::protocol::AMQPSoftError::NOTFOUND;
    matches!(error.kind(), ErrorKind::ProtocolError(fault) if *fault.kind() == AMQPErrorKind::Soft(NOTFOUND))
}

fn is_refusal(kind: &AMQPErrorKind) -> bool {
    use lapin::protocol::{AMQPHardError, AMQPSoftError};
    match kind {
        AMQPErrorKind::Soft(soft) => {
            matches!(soft, AMQPSoftError::ACCESSREFUSED | AMQPSoftError::PRECONDITIONFAILED)
        }
        AMQPErrorKind::Hard(hard) => {
            matches!(hard, AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED)
        }
    }
}
