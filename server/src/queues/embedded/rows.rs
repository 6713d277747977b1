//! Rows of the embedded broker's messages.

use crate::queues::{
    limits::BATCH_BYTES_MAX,
    message::{Headers, Message},
};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// How much is removed in one transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) messages: usize,
    pub(super) bytes: u64,
}

/// What is in a queue.
pub(super) struct Count {
    pub(super) queue: i64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

const COLUMNS: &str = "seq, id, sent_millis, content_type, headers, body";

/// Of all queues, also the empty ones.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Vec<Count>> {
    let mut counts = connection.prepare(
        "SELECT q.id, count(m.seq), ifnull(sum(m.size), 0) FROM queues q LEFT JOIN messages m ON m.queue = q.id
         GROUP BY q.id",
    )?;
    let counts = counts.query_map([], |row| {
        let (messages, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(Count { queue: row.get(0)?, messages: messages.unsigned_abs(), bytes: bytes.unsigned_abs() })
    })?;
    counts.collect()
}

/// The highest number in use; 0 if there is none.
pub(super) fn last_seq(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT ifnull(max(seq), 0) FROM messages", [], |row| row.get(0))
}

pub(super) fn insert(
    connection: &Connection,
    seq: i64,
    queue: i64,
    message: &Message,
) -> rusqlite::Result<()> {
    // Texts can always be written.
    let headers = serde_json::to_string(&message.headers).unwrap_or_default();
    let size = i64::try_from(message.size()).unwrap_or(i64::MAX);
    let Message { id, body, content_type, sent_millis, .. } = message;
    connection
        .prepare_cached(
            "INSERT INTO messages (seq, queue, size, id, sent_millis, content_type, headers, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![seq, queue, size, id, sent_millis, content_type, headers, &body[..]])?;
    Ok(())
}

pub(super) fn read(connection: &Connection, seq: i64) -> rusqlite::Result<Option<Message>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM messages WHERE seq = ?1"))?
        .query_row([seq], message)
        .optional()
}

/// Reads what is behind a row, oldest first, for as long as it is taken.
pub(super) fn read_behind(
    connection: &Connection,
    queue: i64,
    seq: i64,
    max: usize,
    mut take: impl FnMut(i64, Message) -> bool,
) -> rusqlite::Result<()> {
    let mut behind = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM messages WHERE queue = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"
    ))?;
    let mut rows = behind.query(params![queue, seq, i64::try_from(max).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        if !take(row.get(0)?, message(row)?) {
            break;
        }
    }
    Ok(())
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    let headers: Headers = serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default();
    Ok(Message {
        id: row.get(1)?,
        body: Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
        content_type: row.get(3)?,
        headers,
        sent_millis: row.get(2)?,
        redeliveries: 0,
    })
}

pub(super) fn size(connection: &Connection, seq: i64) -> rusqlite::Result<u64> {
    let size: Option<i64> = connection
        .prepare_cached("SELECT size FROM messages WHERE seq = ?1")?
        .query_row([seq], |row| row.get(0))
        .optional()?;
    Ok(size.unwrap_or_default().unsigned_abs())
}

pub(super) fn remove(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM messages WHERE seq = ?1")?.execute([seq])?;
    Ok(())
}

/// Removes the first rows behind one, up to another and no more than a chunk; returns how many, and their bytes.
pub(super) fn remove_range(
    connection: &Connection,
    queue: i64,
    behind: i64,
    last: i64,
    chunk: Chunk,
) -> rusqlite::Result<(u64, u64)> {
    let mut sizes = connection.prepare_cached(
        "SELECT seq, size FROM messages WHERE queue = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
    )?;
    let limit = i64::try_from(chunk.messages).unwrap_or(i64::MAX);
    let mut rows = sizes.query(params![queue, behind, last, limit])?;
    let (mut many, mut bytes, mut until) = (0, 0, behind);
    while let Some(row) = rows.next()? {
        until = row.get(0)?;
        many += 1;
        bytes += row.get::<_, i64>(1)?.unsigned_abs();
        if bytes >= chunk.bytes {
            break;
        }
    }
    connection
        .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND seq > ?2 AND seq <= ?3")?
        .execute(params![queue, behind, until])?;
    Ok((many, bytes))
}

/// The oldest of a queue, with their numbers; as many as fit into a call.
pub(in crate::queues) fn oldest_rows(
    connection: &Connection,
    queue: i64,
    max: usize,
) -> rusqlite::Result<Vec<(i64, Message)>> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    read_behind(connection, queue, 0, max, |seq, message| {
        bytes += message.size();
        let takes = found.is_empty() || bytes <= BATCH_BYTES_MAX;
        if takes {
            found.push((seq, message));
        }
        takes
    })?;
    Ok(found)
}

/// Removes these.
pub(in crate::queues) fn remove_rows(connection: &Connection, numbers: &[i64]) -> rusqlite::Result<()> {
    numbers.iter().try_for_each(|&seq| remove(connection, seq))
}
