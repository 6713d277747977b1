//! What all services share: the driver, the store, the bulk bytes, and the end of it all.

use super::{limits, status};
use crate::{
    broker::Brokers,
    domain::{Project, ProjectId},
    driver::Handle,
    output::Outputs,
    queues::Queues,
    reassemble::Reassembler,
    store::Store,
    tls::Tls,
};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

/// Shared by all services. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The one that owns the core.
    pub driver: Handle,
    /// What carries TODO.
    pub brokers: Brokers,
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Bulk bytes.
    pub outputs: Outputs,
    /// Named queues for anybody's messages.
    pub queues: Queues,
    /// Results.
    pub reassembler: Reassembler,
    /// For agents and clients on other hosts, if there are to be any.
    pub tls: Option<Tls>,
    /// Places for calls of those who are nobody.
    pub strangers: Arc<Semaphore>,
    /// How long attempts stay with an agent that is not heard from.
    pub lease: Duration,
    /// When this coordinator started.
    pub started: Instant,
    /// Cancelled when the coordinator stops: streams end then.
    pub stop: CancellationToken,
    /// What must end before the store is closed.
    pub tasks: TaskTracker,
}

/// A stream that is the answer to a call.
pub(super) type Answer<T> = BoxStream<'static, Result<T, Status>>;

impl Context {
    /// The project that a client names by number or name. A number wins over a name of digits.
    pub(super) async fn project(&self, name: &str) -> Result<Project, Status> {
        if name.is_empty() {
            return Err(status::bad_field("project", "missing: name a project by its number or name"));
        }
        if let Ok(id) = name.parse()
            && let Some(project) = self.store.project(ProjectId(id)).await.map_err(status::store)?
        {
            return Ok(project);
        }
        let named = self.store.project_named(name).await.map_err(status::store)?;
        named.ok_or_else(|| {
            // Cut and escaped: it came from outside, and may be anything.
            let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            Status::not_found(format!(
                "there is no project `{shown}`: `piecework ls -a` lists those that there are"
            ))
        })
    }

    /// The project with this number, which is known to be there.
    pub(super) async fn known_project(&self, id: ProjectId) -> Result<Project, Status> {
        let project = self.store.project(id).await.map_err(status::store)?;
        project.ok_or_else(|| Status::not_found(format!("there is no project {id}")))
    }

    /// How often agents are to be heard.
    pub(super) fn heartbeat(&self) -> Duration {
        (self.lease / limits::HEARTBEATS_PER_LEASE).clamp(limits::HEARTBEAT_MIN, limits::HEARTBEAT_MAX)
    }

    /// Waits for a peer's message, but not for ever, and not longer than the coordinator runs.
    pub(super) async fn before<T>(
        &self,
        wait: Duration,
        what: &str,
        message: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            message = message => message,
            () = self.stop.cancelled() => Err(status::stopping()),
            () = tokio::time::sleep(wait) => {
                Err(Status::deadline_exceeded(format!("{what} did not come within {} s", wait.as_secs())))
            }
        }
    }

    /// Ends an answer when the coordinator stops, so that it does not hold it up.
    pub(super) fn until_stopped<T: Send + 'static>(
        &self,
        answer: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answer<T> {
        let state = Some((answer.boxed(), self.stop.clone()));
        stream::unfold(state, |state| async move {
            let (mut answer, stop) = state?;
            tokio::select! {
                biased;
                () = stop.cancelled() => Some((Err(status::stopping()), None)),
                next = answer.next() => next.map(|next| (next, Some((answer, stop)))),
            }
        })
        .boxed()
    }
}
