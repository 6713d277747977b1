//! Streams that follow a project to its end: they reconnect with their cursor, so that nothing is missed or repeated when
//! the coordinator restarts.
//!
//! ```text
//!  Idle ──call──▶ Open ──message──▶ Open      (the cursor moves on, patience starts anew)
//!    ▲              │ broken, or ended before the project
//!    └──backoff─────┘ until patience ends ──▶ ClientError::Lost
//! ```

use super::{Client, ClientError, is_passing};
use piecework_proto::v1;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Waits between tries to connect.
const WAIT_FIRST: Duration = Duration::from_millis(50);
const WAIT_LONGEST: Duration = Duration::from_secs(2);

/// What the two streams share: how long the coordinator has been away, and what was said of it.
#[derive(Debug)]
struct Reconnect {
    patience: Duration,
    lost_since: Option<Instant>,
    wait: Duration,
}

impl Reconnect {
    const fn new(patience: Duration) -> Self {
        Self { patience, lost_since: None, wait: WAIT_FIRST }
    }

    fn succeeded(&mut self, client: &Client) {
        client.is_back();
        *self = Self::new(self.patience);
    }

    /// Waits before the next try; fails when patience has ended.
    async fn failed(&mut self, client: &Client, status: Status) -> Result<(), ClientError> {
        if !is_passing(&status) {
            return Err(status.into());
        }
        let now = Instant::now();
        let lost_since = *self.lost_since.get_or_insert(now);
        if now.duration_since(lost_since) >= self.patience {
            return Err(ClientError::Lost { patience: self.patience, status: Box::new(status) });
        }
        // A coordinator that restarts at once is not worth a word.
        if self.wait > WAIT_FIRST {
            client.is_away();
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(WAIT_LONGEST);
        Ok(())
    }
}

/// A stream that ended before the project did: its coordinator is going away.
fn cut_short() -> Status {
    Status::unavailable("the coordinator closed the stream")
}

/// What happens in a project, until it ends.
#[derive(Debug)]
pub struct WatchStream {
    client: Client,
    project: String,
    cursor: String,
    stream: Option<Streaming<v1::WatchEvent>>,
    reconnect: Reconnect,
    /// The stream's last event carried the ended project. It may have been the first too, with attempts still to come.
    may_end: bool,
    ended: bool,
}

/// The result of a project, until it ends.
#[derive(Debug)]
pub struct ResultsStream {
    client: Client,
    project: String,
    cursor: String,
    no_wait: bool,
    stream: Option<Streaming<v1::ResultsChunk>>,
    reconnect: Reconnect,
    ended: bool,
}

impl Client {
    /// Follows a project, by its number: a name could mean a newer project after a while.
    #[must_use]
    pub fn watch(&self, project: u64) -> WatchStream {
        WatchStream {
            client: self.clone(),
            project: project.to_string(),
            cursor: String::new(),
            stream: None,
            reconnect: Reconnect::new(self.patience),
            may_end: false,
            ended: false,
        }
    }

    /// Reads a project's result, by its number.
    #[must_use]
    pub fn results(&self, project: u64, no_wait: bool) -> ResultsStream {
        ResultsStream {
            client: self.clone(),
            project: project.to_string(),
            cursor: String::new(),
            no_wait,
            stream: None,
            reconnect: Reconnect::new(self.patience),
            ended: false,
        }
    }
}

impl WatchStream {
    /// The next event; none after the last, which carries the ended project.
    ///
    /// # Errors
    /// If the coordinator refuses, or is away for too long.
    pub async fn next(&mut self) -> Result<Option<v1::WatchEvent>, ClientError> {
        while !self.ended {
            match self.try_next().await {
                Ok(Some(event)) => {
                    self.reconnect.succeeded(&self.client);
                    if !event.cursor.is_empty() {
                        self.cursor.clone_from(&event.cursor);
                    }
                    self.may_end = matches!(&event.event, Some(v1::watch_event::Event::Project(project)) if has_ended(project));
                    return Ok(Some(event));
                }
                Ok(None) => self.ended = true,
                Err(status) => {
                    self.stream = None;
                    self.may_end = false;
                    self.reconnect.failed(&self.client, status).await?;
                }
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Option<v1::WatchEvent>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = v1::WatchRequest { project: self.project.clone(), cursor: self.cursor.clone() };
                none.insert(self.client.projects.clone().watch(request).await?.into_inner())
            }
        };
        match stream.message().await? {
            None if !self.may_end => Err(cut_short()),
            event => Ok(event),
        }
    }
}

impl ResultsStream {
    /// The next bytes; none after the chunk that carries the project.
    ///
    /// # Errors
    /// If the coordinator refuses, or is away for too long.
    pub async fn next(&mut self) -> Result<Option<v1::ResultsChunk>, ClientError> {
        while !self.ended {
            match self.try_next().await {
                Ok(chunk) => {
                    self.reconnect.succeeded(&self.client);
                    if !chunk.cursor.is_empty() {
                        self.cursor.clone_from(&chunk.cursor);
                    }
                    self.ended = chunk.end.is_some();
                    return Ok(Some(chunk));
                }
                Err(status) => {
                    self.stream = None;
                    self.reconnect.failed(&self.client, status).await?;
                }
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<v1::ResultsChunk, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let request = v1::ResultsRequest {
                    project: self.project.clone(),
                    cursor: self.cursor.clone(),
                    no_wait: self.no_wait,
                };
                none.insert(self.client.projects.clone().results(request).await?.into_inner())
            }
        };
        stream.message().await?.ok_or_else(cut_short)
    }
}

/// Whether nothing will change in a project any more.
#[must_use]
pub fn has_ended(project: &v1::Project) -> bool {
    use v1::ProjectState::{Cancelled, Failed, Succeeded};
    matches!(project.state(), Succeeded | Failed | Cancelled)
}
