//! The embedded store: SQLite in WAL mode, commits with synchronous=FULL, one writer thread doing group commit, and a few
//! read-only connections for readers.

mod access;
mod apply;
mod encoding;
mod feed;
mod growth;
mod reads;
mod schema;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use reads::Reads;
pub(crate) use schema::bring_up;
pub(crate) use writer::tune;
pub use writer::{SUBMISSION_RESERVE_BYTES, Writer};

use super::{
    AttemptRow, Begun, Committed, ResultRow, Snapshot, Staging, Store, StoreError, TaskFilter, TaskRow, Write,
};
use crate::domain::{
    AgentId, AttemptKey, CoordinatorEpoch, Generation, Item, NewTask, Output, Phase, Project, ProjectId,
    TaskKey,
};
use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How many requests may wait for the writer; whoever comes next waits for room.
const WRITER_QUEUE_MAX: usize = 256;
/// How many connections read at a time.
const READERS_MAX: usize = 4;

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// The store over one database file. Dropping it waits until the writer has done what it was given.
#[derive(Debug)]
pub struct SqliteStore {
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
}

/// Read-only connections: as many as there are permits, opened when they are first needed.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteStore {
    /// Opens a database file, and makes it if it is missing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// If it can't be used, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut writer = Writer::open(path)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(WRITER_QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                while let Some(job) = waiting.blocking_recv() {
                    job(&mut writer);
                }
            })
            .map_err(|_| StoreError::Closed)?;
        let readers = Readers {
            path: path.to_owned(),
            permits: Arc::new(Semaphore::new(READERS_MAX)),
            idle: Mutex::new(Vec::with_capacity(READERS_MAX)),
        };
        Ok(Self { jobs: Some(jobs), writer: Some(thread), readers: Arc::new(readers) })
    }

    /// Runs on the writer thread. What was accepted is done even if the caller no longer waits.
    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // The caller may have gone.
            let _ = reply.send(job(writer));
        });
        self.jobs.as_ref().ok_or(StoreError::Closed)?.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs on a connection of its own, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(Reads<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit =
            Arc::clone(&self.readers.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let readers = Arc::clone(&self.readers);
        let reading = tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let found = query(Reads::on(&connection));
            readers.put_back(connection);
            drop(permit);
            found
        });
        reading.await.map_err(|_| StoreError::Closed)?
    }
}

impl Readers {
    fn take(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        tune(&connection)?;
        Ok(connection)
    }

    fn put_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so itself.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn open_epoch(&self) -> Result<CoordinatorEpoch, StoreError> {
        self.write(Writer::open_epoch).await
    }

    async fn load(&self) -> Result<Snapshot, StoreError> {
        self.write(Writer::load).await
    }

    async fn commit(&self, epoch: CoordinatorEpoch, writes: Vec<Write>) -> Result<Committed, StoreError> {
        self.write(move |writer| writer.commit(epoch, &writes)).await
    }

    async fn begin_submission(&self, key: &str) -> Result<Begun, StoreError> {
        let key = key.to_owned();
        self.write(move |writer| writer.begin_submission(&key)).await
    }

    async fn put_items(&self, project: ProjectId, first: u32, items: Vec<Item>) -> Result<(), StoreError> {
        self.write(move |writer| writer.put_items(project, first, &items)).await
    }

    async fn stage_tasks(&self, project: ProjectId, tasks: Vec<NewTask>) -> Result<Staging, StoreError> {
        self.write(move |writer| writer.stage_tasks(project, &tasks)).await
    }

    async fn abandon_submission(&self, project: ProjectId) -> Result<(), StoreError> {
        self.write(move |writer| writer.abandon_submission(project)).await
    }

    async fn put_result(
        &self,
        project: ProjectId,
        generation: Generation,
        result: Output,
    ) -> Result<(), StoreError> {
        self.write(move |writer| writer.put_result(project, generation, &result)).await
    }

    async fn result(&self, project: ProjectId, generation: Generation) -> Result<Option<Output>, StoreError> {
        self.read(move |reads| reads.result(project, generation)).await
    }

    async fn project(&self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        self.read(move |reads| reads.project(id)).await
    }

    async fn project_named(&self, name: &str) -> Result<Option<Project>, StoreError> {
        let name = name.to_owned();
        self.read(move |reads| reads.project_named(&name)).await
    }

    async fn projects(
        &self,
        active_only: bool,
        before: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<Project>, StoreError> {
        self.read(move |reads| reads.projects(active_only, before, limit)).await
    }

    async fn tasks(&self, project: ProjectId, filter: TaskFilter) -> Result<Vec<TaskRow>, StoreError> {
        self.read(move |reads| reads.tasks(project, &filter)).await
    }

    async fn attempts(&self, task: TaskKey) -> Result<Vec<AttemptRow>, StoreError> {
        self.read(move |reads| reads.attempts(task)).await
    }

    async fn project_and_attempts(
        &self,
        project: ProjectId,
        seq: u64,
        limit: u32,
    ) -> Result<Option<(Project, Vec<AttemptRow>)>, StoreError> {
        self.read(move |reads| {
            let Some(found) = reads.project(project)? else { return Ok(None) };
            Ok(Some((found, reads.attempts_after(project, seq, limit)?)))
        })
        .await
    }

    async fn results(
        &self,
        project: ProjectId,
        phase: Phase,
        first: u32,
        limit: u32,
    ) -> Result<Vec<ResultRow>, StoreError> {
        self.read(move |reads| reads.results(project, phase, first, limit)).await
    }

    async fn project_and_results(
        &self,
        project: ProjectId,
        phase: Phase,
        first: u32,
        limit: u32,
    ) -> Result<Option<(Project, Vec<ResultRow>)>, StoreError> {
        self.read(move |reads| {
            let Some(found) = reads.project(project)? else { return Ok(None) };
            Ok(Some((found, reads.results(project, phase, first, limit)?)))
        })
        .await
    }

    async fn outputs(&self, attempt: AttemptKey) -> Result<Option<(Output, Output)>, StoreError> {
        self.read(move |reads| reads.outputs(attempt)).await
    }

    async fn current_owner(&self, attempt: AttemptKey) -> Result<Option<AgentId>, StoreError> {
        self.read(move |reads| reads.current_owner(attempt)).await
    }
}
