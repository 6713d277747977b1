//! DONE's cursor, and what lies behind it, in SQLite.

use super::{
    SqliteStore,
    encoding::{integer, phase, read_outcome, read_output, read_unsigned, read_usage},
    reads::Reads,
    writer::Writer,
};
use crate::{
    domain::{CoordinatorEpoch, Generation, OutputBody, ProjectId, TaskKey},
    store::{AttemptRow, Feed, FeedCursor, RESULTS_INLINE_BYTES, Recorded, RecordedResult, StoreError},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::VecDeque;

#[async_trait]
impl Feed for SqliteStore {
    async fn open_feed(&self, epoch: CoordinatorEpoch) -> Result<FeedCursor, StoreError> {
        self.write(move |writer| writer.open_feed(epoch)).await
    }

    async fn recorded(
        &self,
        after: FeedCursor,
        limit: u32,
    ) -> Result<(Vec<Recorded>, FeedCursor), StoreError> {
        self.read(move |reads| reads.recorded(after, limit)).await
    }

    async fn move_feed(&self, epoch: CoordinatorEpoch, to: FeedCursor) -> Result<(), StoreError> {
        self.write(move |writer| writer.move_feed(epoch, to)).await
    }
}

impl Writer {
    /// As [`Feed::open_feed`].
    ///
    /// # Errors
    /// If another coordinator has taken over, or the database fails.
    pub fn open_feed(&mut self, epoch: CoordinatorEpoch) -> Result<FeedCursor, StoreError> {
        self.fenced(epoch, |connection| {
            let known = connection
                .prepare_cached("SELECT result, ended FROM feed")?
                .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
                .optional()?;
            if let Some((result, end)) = known {
                return Ok(FeedCursor { result: result.unsigned_abs(), end: end.unsigned_abs() });
            }
            let last = |sql: &str| -> Result<u64, StoreError> {
                Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
            };
            let cursor = FeedCursor {
                result: last("SELECT coalesce(max(seq), 0) FROM attempts")?,
                end: last("SELECT coalesce(max(number), 0) FROM ends")?,
            };
            keep(connection, cursor)?;
            Ok(cursor)
        })
    }

    /// As [`Feed::move_feed`].
    ///
    /// # Errors
    /// See [`Writer::open_feed`].
    pub fn move_feed(&mut self, epoch: CoordinatorEpoch, to: FeedCursor) -> Result<(), StoreError> {
        self.fenced(epoch, |connection| keep(connection, to))
    }
}

fn keep(connection: &Connection, cursor: FeedCursor) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO feed (one, result, ended) VALUES (1, ?1, ?2)")?
        .execute(params![integer(cursor.result), integer(cursor.end)])?;
    Ok(())
}

/// A project has ended: it comes in DONE after all results that were recorded before.
pub(super) fn end(connection: &Connection, project: ProjectId) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO ends (project, after_seq) VALUES (?1, (SELECT coalesce(max(seq), 0) FROM attempts))",
        )?
        .execute([integer(project.0)])?;
    Ok(())
}

/// The end of a project, before it is told.
struct End {
    number: u64,
    project: ProjectId,
    /// It comes after the results up to this number.
    after: u64,
}

impl Reads<'_> {
    /// As [`Feed::recorded`].
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn recorded(self, after: FeedCursor, limit: u32) -> Result<(Vec<Recorded>, FeedCursor), StoreError> {
        // The ends first: then the results that come before them can all be seen.
        let mut ends: VecDeque<End> = self
            .all(
                "SELECT number, project, after_seq FROM ends WHERE number > ?1 ORDER BY number LIMIT ?2",
                params![integer(after.end), limit],
                |row| {
                    let project = ProjectId(read_unsigned(row, 1)?);
                    Ok(End { number: read_unsigned(row, 0)?, project, after: read_unsigned(row, 2)? })
                },
            )?
            .into();
        let (results, is_all) = self.recorded_results(after.result, limit)?;
        let (mut recorded, mut cursor) = (Vec::with_capacity(results.len()), after);
        for result in results {
            self.ends_before(result.attempt.seq, &mut ends, &mut recorded, &mut cursor)?;
            cursor.result = result.attempt.seq;
            recorded.push(Recorded::Result(Box::new(result)));
        }
        // With more results to come, only the ends that none of these precedes.
        let before = if is_all { u64::MAX } else { cursor.result + 1 };
        self.ends_before(before, &mut ends, &mut recorded, &mut cursor)?;
        Ok((recorded, cursor))
    }

    fn ends_before(
        self,
        seq: u64,
        ends: &mut VecDeque<End>,
        recorded: &mut Vec<Recorded>,
        cursor: &mut FeedCursor,
    ) -> Result<(), StoreError> {
        while let Some(End { number, project, .. }) = ends.pop_front_if(|end| end.after < seq) {
            cursor.end = number;
            if let Some(project) = self.project(project)? {
                recorded.push(Recorded::End { number, project: Box::new(project) });
            }
        }
        Ok(())
    }

    /// Results after a number, and whether these are all that there are.
    fn recorded_results(self, seq: u64, limit: u32) -> Result<(Vec<RecordedResult>, bool), StoreError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT t.seq, t.project, t.phase, t.idx, t.attempt, coalesce(a.name, ''), t.outcome, t.code, t.message,
                 t.wall_micros, t.user_micros, t.system_micros, t.peak_bytes,
                 coalesce(r.oom_kills, 0), coalesce(r.pids_refused, 0), t.ended_millis,
                 t.stdout_length, t.stdout_sha256, t.stdout, t.stderr_length, t.stderr_sha256, t.stderr,
                 p.name, p.generation,
                 CASE t.phase WHEN 1 THEN
                     (SELECT key FROM client_keys k WHERE k.project = t.project AND k.idx = t.idx) END
             FROM attempts t JOIN projects p ON p.id = t.project LEFT JOIN agents a ON a.id = t.agent
             LEFT JOIN refusals r ON r.project = t.project AND r.phase = t.phase AND r.idx = t.idx AND r.attempt = t.attempt
             WHERE t.seq > ?1 AND t.recorded ORDER BY t.seq LIMIT ?2",
        )?;
        let mut rows = statement.query(params![integer(seq), limit])?;
        let (mut results, mut inline_bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let result = read_result(row)?;
            for output in [&result.stdout, &result.stderr] {
                if let OutputBody::Inline(bytes) = &output.body {
                    inline_bytes += bytes.len();
                }
            }
            results.push(result);
            if inline_bytes >= RESULTS_INLINE_BYTES {
                return Ok((results, false));
            }
        }
        let is_all = results.len() < limit as usize;
        Ok((results, is_all))
    }
}

fn read_result(row: &Row<'_>) -> Result<RecordedResult, StoreError> {
    let project = ProjectId(read_unsigned(row, 1)?);
    let (stdout, stderr) = (read_output(row, 16, 17, 18)?, read_output(row, 19, 20, 21)?);
    Ok(RecordedResult {
        project_name: row.get(22)?,
        generation: Generation(row.get(23)?),
        client_key: row.get(24)?,
        attempt: AttemptRow {
            seq: read_unsigned(row, 0)?,
            key: TaskKey { project, phase: phase(row.get(2)?)?, index: row.get(3)? }.attempt(row.get(4)?),
            agent: row.get(5)?,
            outcome: read_outcome(row, 6)?,
            recorded: true,
            usage: read_usage(row, 9)?,
            stdout_bytes: stdout.length,
            stderr_bytes: stderr.length,
            ended_millis: row.get(15)?,
        },
        stdout,
        stderr,
    })
}
