//! The control stream: dialled, pumped both ways, dialled again.

use super::{Backoff, ConnectError, Coordinator, Lines};
use crate::{
    supervisor::{ConnectionId, FromCoordinator, Input},
    wire::Incoming,
};
use piecework_proto::v1::{self, agent_session_client::AgentSessionClient};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

/// A connection that lasted as long as this is tried again at once when it ends, in seconds.
const GOOD_CONNECTION_SECS: u64 = 5;

/// How long the coordinator may take to end a stream that the agent has ended, in milliseconds.
const FAREWELL_MILLIS: u64 = 1000;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    #[error("the coordinator ended the session: {}", .0.message())]
    Refused(#[from] Status),
    #[error("the coordinator closed the connection")]
    ByCoordinator,
    #[error("the agent closed the connection")]
    ByAgent,
    #[error("the coordinator sent what can't be understood: {0}")]
    Nonsense(#[from] crate::wire::WireError),
    #[error("the agent is stopping")]
    Stopping,
}

/// Dials the coordinator, for ever.
#[derive(Debug)]
pub struct Dialer {
    coordinator: Coordinator,
    lines: Lines,
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
    sent_away: watch::Sender<Option<String>>,
    /// How often the coordinator wants to hear from the agent, in milliseconds, as it said last.
    heartbeat_millis: AtomicU64,
}

impl Dialer {
    /// One that has not begun. After `stop`, an open stream may end in peace, and none is opened any more. `sent_away` is told
    /// why the coordinator wants this agent no more.
    #[must_use]
    pub const fn new(
        coordinator: Coordinator,
        lines: Lines,
        inputs: mpsc::Sender<Input>,
        stop: CancellationToken,
        sent_away: watch::Sender<Option<String>>,
    ) -> Self {
        let heartbeat_millis = AtomicU64::new(u64::MAX);
        Self { coordinator, lines, inputs, stop, sent_away, heartbeat_millis }
    }

    /// Runs until it is stopped.
    pub async fn run(self) {
        let mut backoff = Backoff::new();
        let mut was_up = true;
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let (ended, is_up) = match self.coordinator.connect().await {
                Ok(client) => (self.stream(client).await, true),
                Err(error) => (error.into(), false),
            };
            match ended {
                Ended::Stopping | Ended::ByAgent => tracing::debug!(%ended),
                // It may be the first to end the stream over which everything was handed back.
                _ if self.stop.is_cancelled() => tracing::debug!(%ended),
                Ended::Refused(status) if status.code() == Code::PermissionDenied => {
                    self.sent_away.send_replace(Some(status.message().to_owned()));
                    // What this means for the process is for its owner to say, who stops it.
                    self.stop.cancelled().await;
                }
                // Said once, and not at each try.
                _ if was_up => tracing::warn!("{ended}; dialling again until it answers"),
                _ => tracing::debug!(%ended, "still dialling"),
            }
            was_up = is_up;
            if began.elapsed() >= Duration::from_secs(GOOD_CONNECTION_SECS) {
                backoff = Backoff::new();
            }
            // A lease is some heartbeats long: waiting for longer than one could lose attempts to a short outage.
            let longest = Duration::from_millis(self.heartbeat_millis.load(Ordering::Relaxed));
            tokio::select! {
                () = backoff.wait_at_most(longest) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// One stream, from its announcement to its end.
    async fn stream(&self, client: AgentSessionClient<Channel>) -> Ended {
        let (connection, messages, closed) = self.lines.open();
        // The coordinator may wait for Hello before it answers anything: the core has to hear of the stream first.
        if self.inputs.send(Input::Connected(connection)).await.is_err() {
            return Ended::Stopping;
        }
        let pump = self.pump(client, connection, messages);
        let ended = tokio::select! {
            ended = pump => ended,
            () = closed.cancelled() => Ended::ByAgent,
            () = self.farewell() => Ended::Stopping,
        };
        self.lines.close(connection);
        // Without a driver nobody needs to know.
        let _ = self.inputs.send(Input::Disconnected(connection)).await;
        ended
    }

    async fn pump(
        &self,
        mut client: AgentSessionClient<Channel>,
        connection: ConnectionId,
        messages: mpsc::Receiver<v1::AgentMessage>,
    ) -> Ended {
        let mut stream = match client.session(ReceiverStream::new(messages)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.into(),
        };
        let mut incoming = Incoming::default();
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::ByCoordinator,
                Err(status) => return status.into(),
            };
            let (seq, message) = match incoming.message(message) {
                Ok(parsed) => parsed,
                Err(error) => return error.into(),
            };
            if let FromCoordinator::Welcome { heartbeat, .. } = &message {
                let millis = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX);
                self.heartbeat_millis.store(millis, Ordering::Relaxed);
            }
            if self.inputs.send(Input::FromCoordinator { connection, seq, message }).await.is_err() {
                return Ended::Stopping;
            }
        }
    }

    /// After the stop, the coordinator has a moment to take what was sent last, and to end the stream itself.
    async fn farewell(&self) {
        self.stop.cancelled().await;
        self.lines.end();
        tokio::time::sleep(Duration::from_millis(FAREWELL_MILLIS)).await;
    }
}
