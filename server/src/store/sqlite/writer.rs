//! The one connection that writes, without async: the store's writer thread owns one, and the deterministic simulation
//! drives one in memory.

use super::{
    apply::{self, Batch},
    encoding::{SUBMITTING, integer, output_columns, project_state_code},
    reads::Reads,
    schema, snapshot,
};
use crate::{
    domain::{CoordinatorEpoch, Generation, Item, Output, ProjectId, ProjectState},
    store::{Begun, Committed, Snapshot, StoreError, Write, disk},
};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// New submissions are refused while the disk has less than this free, so that work under way can still be recorded.
pub const SUBMISSION_RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// With less than this free, a failed write is taken for a full disk.
const NOTHING_LEFT_BYTES: u64 = 1024 * 1024;
/// How many statements a connection keeps prepared; more than there are.
const STATEMENTS_MAX: usize = 64;
/// How long a connection waits for another process, such as a person's `sqlite3`.
const BUSY_MILLIS: u64 = 10_000;
/// How much of the database the writer keeps in memory.
const CACHE_KIB: i64 = 64 * 1024;
/// How long the log grows before it is copied into the database: four times the default, as most pages that a batch
/// changes are changed again by the next.
const LOG_PAGES: i64 = 4000;
/// The log is cut back to this length once it was copied into the database.
const LOG_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// The connection that writes.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    /// The directory that fills up; none in memory.
    directory: Option<PathBuf>,
    /// The mode of synchronisation that is set.
    synchronous: &'static str,
}

impl Writer {
    /// Opens a database file, and makes it if it is missing.
    ///
    /// # Errors
    /// If it can't be used, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // The one thread that owns it needs no lock.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
        Self::prepare(connection, path.parent().map(Path::to_owned))
    }

    /// Opens an empty database in memory.
    ///
    /// # Errors
    /// If the database fails.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory()?, None)
    }

    fn prepare(mut connection: Connection, directory: Option<PathBuf>) -> Result<Self, StoreError> {
        tune(&connection)?;
        connection.pragma_update(None, "foreign_keys", false)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        schema::migrate(&mut connection)?;
        Ok(Self { connection, directory, synchronous: "FULL" })
    }

    /// The questions of readers.
    #[must_use]
    pub fn reads(&self) -> Reads<'_> {
        Reads::on(&self.connection)
    }

    /// As [`Store::open_epoch`](crate::store::Store::open_epoch).
    ///
    /// # Errors
    /// If the database fails; so for all that follow.
    pub fn open_epoch(&mut self) -> Result<CoordinatorEpoch, StoreError> {
        self.transaction(|connection| {
            connection.execute(
                "DELETE FROM items WHERE project IN (SELECT id FROM projects WHERE state = ?1)",
                [SUBMITTING],
            )?;
            connection
                .execute("DELETE FROM projects WHERE state BETWEEN 0 AND 3 AND state = ?1", [SUBMITTING])?;
            connection.execute("UPDATE meta SET epoch = epoch + 1", [])?;
            stored_epoch(connection)
        })
    }

    /// As [`Store::load`](crate::store::Store::load).
    ///
    /// # Errors
    /// See [`Writer::open_epoch`].
    pub fn load(&mut self) -> Result<Snapshot, StoreError> {
        self.transaction(snapshot::load)
    }

    /// As [`Store::commit`](crate::store::Store::commit).
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`], or see [`Writer::open_epoch`].
    pub fn commit(&mut self, epoch: CoordinatorEpoch, writes: &[Write]) -> Result<Committed, StoreError> {
        self.fenced(epoch, |connection| {
            let mut batch = Batch::new(connection, now_millis());
            for write in writes {
                batch.apply(write)?;
            }
            batch.finish()
        })
    }

    /// As [`Store::begin_submission`](crate::store::Store::begin_submission).
    ///
    /// # Errors
    /// [`StoreError::Full`] if the disk is nearly full, or see [`Writer::open_epoch`].
    pub fn begin_submission(&mut self, key: &str) -> Result<Begun, StoreError> {
        let known: Option<(u64, i64)> = self
            .connection
            .prepare_cached("SELECT id, state FROM projects WHERE submission_key = ?1 AND ?1 <> ''")?
            .query_row([key], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))
            .optional()?;
        match known {
            Some((_, SUBMITTING)) => return Ok(Begun::UnderWay),
            Some((id, _)) => {
                let project = self.reads().project(ProjectId(id))?;
                let project =
                    project.ok_or_else(|| StoreError::Damaged(format!("project {id} has no progress")))?;
                return Ok(Begun::Existing(Box::new(project)));
            }
            None => {}
        }
        self.keep_reserve()?;
        self.prelude(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO projects (state, submission_key, created_millis) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![SUBMITTING, (!key.is_empty()).then_some(key), now_millis()])?;
            Ok(Begun::New(ProjectId(connection.last_insert_rowid().unsigned_abs())))
        })
    }

    /// As [`Store::put_items`](crate::store::Store::put_items).
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the project takes no items, [`StoreError::Full`] if the disk is nearly full, or see
    /// [`Writer::open_epoch`].
    pub fn put_items(&mut self, project: ProjectId, first: u32, items: &[Item]) -> Result<(), StoreError> {
        self.keep_reserve()?;
        self.prelude(|connection| {
            let state: Option<i64> = connection
                .prepare_cached("SELECT state FROM projects WHERE id = ?1")?
                .query_row([integer(project.0)], |row| row.get(0))
                .optional()?;
            if !state.is_some_and(|state| {
                state == SUBMITTING || state == project_state_code(ProjectState::Splitting)
            }) {
                return Err(StoreError::Conflict(format!("project {project} takes no items now")));
            }
            apply::put_items(connection, project, first, items)
        })
    }

    /// As [`Store::abandon_submission`](crate::store::Store::abandon_submission).
    ///
    /// # Errors
    /// See [`Writer::open_epoch`].
    pub fn abandon_submission(&mut self, project: ProjectId) -> Result<(), StoreError> {
        self.prelude(|connection| {
            let removed = connection
                .prepare_cached("DELETE FROM projects WHERE id = ?1 AND state = ?2")?
                .execute(params![integer(project.0), SUBMITTING])?;
            if removed == 1 {
                connection
                    .prepare_cached("DELETE FROM items WHERE project = ?1")?
                    .execute([integer(project.0)])?;
            }
            Ok(())
        })
    }

    /// As [`Store::put_result`](crate::store::Store::put_result).
    ///
    /// # Errors
    /// See [`Writer::open_epoch`].
    pub fn put_result(
        &mut self,
        project: ProjectId,
        generation: Generation,
        result: &Output,
    ) -> Result<(), StoreError> {
        self.prelude(|connection| {
            let (length, sha256, bytes) = output_columns(result);
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO results (project, generation, length, sha256, bytes)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![integer(project.0), generation.0, length, sha256, bytes])?;
            Ok(())
        })
    }

    /// A [`Self::transaction`] of the coordinator that has this epoch.
    pub(super) fn fenced<T>(
        &mut self,
        epoch: CoordinatorEpoch,
        run: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transaction(|connection| {
            let found = stored_epoch(connection)?;
            if found != epoch {
                return Err(StoreError::Fenced { found, ours: epoch });
            }
            run(connection)
        })
    }

    /// All or nothing, and durable once it has returned well.
    pub(super) fn transaction<T>(
        &mut self,
        run: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.synchronise("FULL")?;
        self.all_or_nothing(run)
    }

    fn all_or_nothing<T>(
        &mut self,
        run: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let done = (|| {
            let transaction = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })();
        done.map_err(|error| self.explain(error))
    }

    /// All or nothing, and durable no later than the next [`Self::transaction`], without which it is worth nothing: a
    /// submission before its project is created, a task before it is added, a result before its project has ended. The log is one, so that one
    /// synchronisation of the disk does for both.
    pub(super) fn prelude<T>(
        &mut self,
        run: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.synchronise("NORMAL")?;
        self.all_or_nothing(run)
    }

    /// Whether commits from here on wait for the disk.
    fn synchronise(&mut self, how: &'static str) -> Result<(), StoreError> {
        if self.synchronous != how {
            self.connection.pragma_update(None, "synchronous", how)?;
            self.synchronous = how;
        }
        Ok(())
    }

    /// As if the disk had no more room.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }

    #[cfg(test)]
    pub(super) fn raw(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    pub(super) fn keep_reserve(&self) -> Result<(), StoreError> {
        let enough = self.free_bytes().is_none_or(|free| free >= SUBMISSION_RESERVE_BYTES);
        if enough { Ok(()) } else { Err(StoreError::Full) }
    }

    /// What the file system has left; none if there is none, or it does not tell.
    fn free_bytes(&self) -> Option<u64> {
        disk::free_bytes(self.directory.as_deref()?)
    }

    /// A full disk shows in several ways: as itself, or as a write, sync or truncate that failed.
    fn explain(&self, error: StoreError) -> StoreError {
        let StoreError::Database(rusqlite::Error::SqliteFailure(cause, _)) = &error else { return error };
        match cause.code {
            ErrorCode::DiskFull => StoreError::Full,
            ErrorCode::SystemIoFailure if self.free_bytes().is_some_and(|free| free < NOTHING_LEFT_BYTES) => {
                StoreError::Full
            }
            _ => error,
        }
    }
}

/// What every connection has.
pub(crate) fn tune(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(Duration::from_millis(BUSY_MILLIS))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

fn stored_epoch(connection: &Connection) -> Result<CoordinatorEpoch, StoreError> {
    let epoch: i64 = connection.prepare_cached("SELECT epoch FROM meta")?.query_row([], |row| row.get(0))?;
    Ok(CoordinatorEpoch(epoch.unsigned_abs()))
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
