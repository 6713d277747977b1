//! `queues.db` and the one thread that owns it: it takes all jobs that wait, does them in one transaction, and answers when
//! that is on the disk. What it knows of the queues in memory is dropped when a transaction fails, and read anew.

use super::{
    embedded::{Lanes, NextExpiry},
    error::QueueError,
};
use crate::store::{
    StoreError, disk,
    sqlite::{bring_up, tune},
};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Instant,
};
use tokio::sync::{mpsc, oneshot, watch};

/// How many jobs may wait for the thread; whoever comes next waits for room.
const JOBS_MAX: usize = 256;

/// How many jobs are done in one transaction.
const GROUP_MAX: usize = 64;

/// How much of the database is kept in memory.
const CACHE_KIB: i64 = 16 * 1024;

/// The log is cut back to this length once it was copied into the database.
const LOG_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// Each takes a database from the version of its place to the next. Never change one that was released: add one.
const MIGRATIONS: &[&str] = &[INITIAL];

/// - `queues.place` says where the messages are, see [`Place`](super::registry::Place). Numbers are never used again, as messages
///   name them.
/// - `messages` are those of the embedded broker, in the order of `seq`. The body comes last, so that the rest can be read without.
const INITIAL: &str = "
CREATE TABLE queues (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL UNIQUE,
    place          INTEGER NOT NULL,
    created_millis INTEGER NOT NULL
) STRICT;

CREATE TABLE messages (
    seq          INTEGER PRIMARY KEY,
    queue        INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    id           TEXT NOT NULL,
    sent_millis  INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    headers      TEXT NOT NULL,
    body         BLOB NOT NULL
) STRICT;
CREATE INDEX messages_by_queue ON messages (queue, seq, size);
";

pub(super) type Reply = Box<dyn FnOnce(Option<&StoreError>) + Send>;
pub(super) type Job = Box<dyn FnOnce(&mut Desk) -> Reply + Send>;

/// The way to the thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Database {
    // In this order: the thread ends when nobody can send it anything.
    jobs: mpsc::Sender<Job>,
    _thread: Arc<Thread>,
}

/// The thread. Whoever drops the last way to it waits until it has done what it was given.
struct Thread(Mutex<Option<JoinHandle<()>>>);

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // If it panicked, it has said so itself.
            let _ = thread.join();
        }
    }
}

impl Database {
    /// Opens the file, and makes it if it is missing. Blocks for some milliseconds. `process` is in all receipts.
    pub(super) fn open(
        path: &Path,
        process: u64,
        held_max: usize,
    ) -> Result<(Self, watch::Receiver<NextExpiry>), StoreError> {
        let mut desk = Desk::open(path, process, held_max)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(JOBS_MAX);
        let (next, next_expiry) = watch::channel(None);
        let thread = std::thread::Builder::new()
            .name("queues".into())
            .spawn(move || {
                while let Some(first) = waiting.blocking_recv() {
                    desk.turn(first, &mut waiting);
                    next.send_if_modified(|next| {
                        let found = desk.lanes.next_expiry();
                        std::mem::replace(next, found) != found
                    });
                }
            })
            .map_err(|_| StoreError::Closed)?;
        Ok((Self { jobs, _thread: Arc::new(Thread(Mutex::new(Some(thread)))) }, next_expiry))
    }

    /// Does something there. It is done even if the caller no longer waits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(work, reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Does something there that nobody waits for, unless there is no room for it.
    pub(super) fn run_aside(&self, work: impl FnOnce(&mut Desk) -> Result<(), QueueError> + Send + 'static) {
        let (reply, _) = oneshot::channel();
        let _ = self.jobs.try_send(job(work, reply));
    }

    /// A way that does not keep the thread alive.
    pub(super) fn downgrade(&self) -> mpsc::WeakSender<Job> {
        self.jobs.downgrade()
    }
}

/// Makes a job of some work.
pub(super) fn job<T: Send + 'static>(
    work: impl FnOnce(&mut Desk) -> Result<T, QueueError> + Send + 'static,
    reply: oneshot::Sender<Result<T, QueueError>>,
) -> Job {
    Box::new(move |desk| {
        let done = match work(desk) {
            Err(QueueError::Store(error)) => Err(desk.fail(error)),
            done => done,
        };
        Box::new(move |failed| {
            // The caller may have gone.
            let _ = reply.send(match failed {
                Some(error) => Err(again(error)),
                None => done,
            });
        })
    })
}

/// The same error for each of those whose transaction failed.
fn again(error: &StoreError) -> QueueError {
    match error {
        StoreError::Full => StoreError::Full.into(),
        _ => QueueError::Unavailable(
            "the queues' database failed; the coordinator's log has the cause".to_owned(),
        ),
    }
}

/// What the thread owns.
pub(super) struct Desk {
    connection: Connection,
    directory: PathBuf,
    /// Whether a transaction is under way.
    is_writing: bool,
    /// Why it can't go on.
    failed: Option<StoreError>,
    pub(super) lanes: Lanes,
}

impl Desk {
    fn open(path: &Path, process: u64, held_max: usize) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        tune(&connection)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        bring_up(&mut connection, MIGRATIONS)?;
        // Of a queue that was deleted while the program ended.
        connection.execute("DELETE FROM messages WHERE queue NOT IN (SELECT id FROM queues)", [])?;
        let lanes = Lanes::load(&connection, process, held_max)?;
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { connection, directory, is_writing: false, failed: None, lanes })
    }

    /// For reading.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// For writing: what is written is all or nothing with what else is written in this turn.
    pub(super) fn write(&mut self) -> Result<&Connection, StoreError> {
        if !self.is_writing {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            self.is_writing = true;
        }
        Ok(&self.connection)
    }

    /// For reading, with the lanes.
    pub(super) fn reading(&mut self) -> (&Connection, &mut Lanes) {
        (&self.connection, &mut self.lanes)
    }

    /// For writing, with the lanes.
    pub(super) fn writing(&mut self) -> Result<(&Connection, &mut Lanes), StoreError> {
        self.write()?;
        Ok((&self.connection, &mut self.lanes))
    }

    /// What the file system has left for the file.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        disk::free_bytes(&self.directory)
    }

    /// Nothing of this turn can be kept.
    fn fail(&mut self, error: StoreError) -> QueueError {
        let answer = again(&error);
        self.failed.get_or_insert(error);
        answer
    }

    /// Does the first job and those that wait behind it, and answers.
    fn turn(&mut self, first: Job, waiting: &mut mpsc::Receiver<Job>) {
        let mut replies = vec![first(self)];
        while replies.len() < GROUP_MAX
            && self.failed.is_none()
            && let Ok(job) = waiting.try_recv()
        {
            replies.push(job(self));
        }
        if std::mem::take(&mut self.is_writing) && self.failed.is_none() {
            self.failed = self.connection.execute_batch("COMMIT").err().map(StoreError::from);
        }
        let failed = self.failed.take().map(explain);
        if let Some(error) = &failed {
            tracing::error!(%error, "the queues' database failed; all that is delivered comes again");
            self.recover();
        }
        for reply in replies {
            reply(failed.as_ref());
        }
        self.lanes.serve(&self.connection, Instant::now());
    }

    /// Goes back to what is on the disk.
    fn recover(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the queues' database can't be rolled back");
        }
        if let Err(error) = self.lanes.reload(&self.connection) {
            // As it was before: what is in memory and not on the disk is found missing when it is read.
            tracing::error!(%error, "the queues' database can't be read");
        }
    }
}

/// A full disk shows in several ways.
fn explain(error: StoreError) -> StoreError {
    match &error {
        StoreError::Database(rusqlite::Error::SqliteFailure(cause, _))
            if cause.code == ErrorCode::DiskFull =>
        {
            StoreError::Full
        }
        _ => error,
    }
}
