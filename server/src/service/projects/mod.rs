//! Projects: submit, add to, look at, watch, cancel, and read the results.

mod add;
mod follow;
mod logs;
mod submit;

use super::{
    Context,
    context::Answer,
    limits::{ATTEMPTS_SHOWN_MAX, LIST_DEFAULT, LIST_MAX, MESSAGE_BYTES_GOAL},
    status,
};
use crate::{
    domain::{ProjectId, TaskKey},
    reassemble,
    store::TaskFilter,
    watch::{self, Event, WatchError, Watcher},
    wire,
};
use futures_util::stream;
use piecework_proto::v1::{self as pb, projects_server::Projects, watch_event};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

pub(super) struct ProjectsService {
    context: Context,
}

impl ProjectsService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Projects for ProjectsService {
    async fn submit(
        &self,
        request: Request<Streaming<pb::SubmitRequest>>,
    ) -> Result<Response<pb::SubmitResponse>, Status> {
        submit::submit(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Result<Response<pb::ListProjectsResponse>, Status> {
        let pb::ListProjectsRequest { active_only, limit, before_id } = request.into_inner();
        let before = (before_id > 0).then_some(ProjectId(before_id));
        let limit = list_limit(limit)?;
        let mut found =
            self.context.store.projects(active_only, before, limit + 1).await.map_err(status::store)?;
        let mut more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let mut projects = Vec::new();
        let mut room = MESSAGE_BYTES_GOAL;
        for project in &found {
            let project = wire::project_to_proto(project);
            if !take(&mut room, &project, projects.is_empty()) {
                more = true;
                break;
            }
            projects.push(project);
        }
        Ok(Response::new(pb::ListProjectsResponse { projects, more }))
    }

    async fn get(&self, request: Request<pb::GetProjectRequest>) -> Result<Response<pb::Project>, Status> {
        let project = self.context.project(&request.into_inner().project).await?;
        let mut answer = wire::project_to_proto(&project);
        if !project.state.is_ended() {
            // The store knows the rest, also while the driver recovers.
            answer.waiting = self.context.driver.waiting(project.id).await.ok().flatten().unwrap_or_default();
        }
        Ok(Response::new(answer))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let pb::ListTasksRequest { project, states, after, limit, with_attempts } = request.into_inner();
        let states = wire::task_states(&states).map_err(status::wire)?;
        let after = match after {
            None => None,
            Some(after) => {
                let phase = wire::phase("after.phase", after.phase).map_err(status::wire)?;
                let phase = phase.ok_or_else(|| status::bad_field("after.phase", "missing"))?;
                Some((phase, after.index))
            }
        };
        let limit = list_limit(limit)?;
        let project = self.context.project(&project).await?;
        let store = &self.context.store;
        let filter = TaskFilter { states, after, limit: limit + 1 };
        let mut rows = store.tasks(project.id, filter).await.map_err(status::store)?;
        let mut more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let mut tasks = Vec::new();
        let mut room = MESSAGE_BYTES_GOAL;
        for row in rows {
            let mut attempts = Vec::new();
            if with_attempts {
                attempts = store.attempts(row.key).await.map_err(status::store)?;
                attempts.drain(..attempts.len().saturating_sub(ATTEMPTS_SHOWN_MAX));
            }
            let task = wire::task_to_proto(&project, row, &attempts);
            if !take(&mut room, &task, tasks.is_empty()) {
                more = true;
                break;
            }
            tasks.push(task);
        }
        Ok(Response::new(pb::ListTasksResponse { tasks, more }))
    }

    async fn add_tasks(
        &self,
        request: Request<pb::AddTasksRequest>,
    ) -> Result<Response<pb::AddTasksResponse>, Status> {
        add::add(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelProjectRequest>,
    ) -> Result<Response<pb::Project>, Status> {
        let project = self.context.project(&request.into_inner().project).await?;
        // False means that it has ended already, and then there is nothing to do.
        self.context.driver.cancel(project.id).await.map_err(status::driver)?;
        let project = self.context.known_project(project.id).await?;
        Ok(Response::new(wire::project_to_proto(&project)))
    }

    type WatchStream = Answer<pb::WatchEvent>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let pb::WatchRequest { project, cursor } = request.into_inner();
        let cursor = cursor
            .parse()
            .map_err(|error: watch::CursorError| status::bad_field("cursor", error.to_string()))?;
        let project = self.context.project(&project).await?;
        let changes = self.context.driver.changes(project.id);
        let watcher = Watcher::new(self.context.store.clone(), changes, project.id, cursor);
        let events = stream::try_unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await.map_err(watch_status)?;
            Ok(event.map(|(cursor, event)| (event_to_proto(cursor, event), watcher)))
        });
        Ok(Response::new(self.context.until_stopped(events)))
    }

    type ResultsStream = Answer<pb::ResultsChunk>;

    async fn results(
        &self,
        request: Request<pb::ResultsRequest>,
    ) -> Result<Response<Self::ResultsStream>, Status> {
        let pb::ResultsRequest { project, cursor, no_wait } = request.into_inner();
        let parse = |error: reassemble::CursorError| status::bad_field("cursor", error.to_string());
        let parsed: reassemble::Cursor = cursor.parse().map_err(parse)?;
        let project = self.context.project(&project).await?;
        let changes = self.context.driver.changes(project.id);
        let results = self.context.reassembler.results(project.id, parsed, changes, !no_wait);
        let chunks = stream::try_unfold(Some((results, cursor)), move |state| async move {
            let Some((mut results, cursor)) = state else { return Ok(None) };
            if let Some(part) = results.next().await.map_err(status::reassemble)? {
                let cursor = part.cursor.to_string();
                let chunk = pb::ResultsChunk { cursor: cursor.clone(), data: part.bytes, end: None };
                return Ok(Some((chunk, Some((results, cursor)))));
            }
            let end = results.into_project().as_ref().map(wire::project_to_proto);
            Ok(Some((pb::ResultsChunk { cursor, data: bytes::Bytes::new(), end }, None)))
        });
        Ok(Response::new(self.context.until_stopped(chunks)))
    }

    type LogsStream = Answer<pb::LogsChunk>;

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let answer = logs::logs(&self.context, request.into_inner()).await?;
        Ok(Response::new(self.context.until_stopped(answer)))
    }
}

/// How many rows to return.
fn list_limit(limit: u32) -> Result<u32, Status> {
    match limit {
        0 => Ok(LIST_DEFAULT),
        1..=LIST_MAX => Ok(limit),
        _ => Err(status::bad_field("limit", format!("at most {LIST_MAX}, not {limit}"))),
    }
}

/// Whether another row fits into the answer; the first one always does.
fn take(room: &mut usize, row: &impl Message, first: bool) -> bool {
    let bytes = row.encoded_len();
    let fits = first || bytes <= *room;
    *room = room.saturating_sub(bytes);
    fits
}

fn event_to_proto(cursor: watch::Cursor, event: Event) -> pb::WatchEvent {
    let event = match event {
        Event::Project(project) => watch_event::Event::Project(wire::project_to_proto(&project)),
        Event::Ended(attempts) => {
            let attempts = attempts.iter().map(wire::attempt_ended_to_proto).collect();
            watch_event::Event::AttemptsEnded(pb::AttemptsEnded { attempts })
        }
    };
    pb::WatchEvent { cursor: cursor.to_string(), event: Some(event) }
}

fn watch_status(error: WatchError) -> Status {
    match error {
        WatchError::NoProject(_) => Status::not_found(error.to_string()),
        WatchError::Generation { .. } => {
            status::bad_field("cursor", format!("{error}: start again with an empty cursor"))
        }
        WatchError::Stopping => status::stopping(),
        WatchError::Store(error) => status::store(error),
    }
}

/// For messages to people.
fn task_name(key: TaskKey) -> String {
    match key.phase {
        crate::domain::Phase::Task => format!("task {} of project {}", key.index, key.project),
        phase => format!("the {phase} task of project {}", key.project),
    }
}
