//! Which queues there are, and where the messages of each are.

use super::{
    carrier::QueueKey,
    database::{Database, Desk},
    error::QueueError,
    name::QueueName,
    now_millis,
    rate::Rate,
};
use rusqlite::{Connection, params};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// How long a call waits for messages that are on their way to RabbitMQ.
const MOVE_MAX: Duration = Duration::from_secs(5);

/// Where the messages of a queue are. As it is stored: never change a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In `queues.db`.
    Embedded = 0,
    /// In RabbitMQ.
    RabbitMq = 1,
}

/// A queue that is there.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: QueueKey,
    pub(super) created_millis: i64,
    /// Messages that were sent.
    pub(super) came_in: Rate,
    /// Messages that were acknowledged.
    pub(super) went_out: Rate,
    /// Where its messages are, and where they are to be.
    place: watch::Sender<Place>,
    wanted: Place,
}

impl Entry {
    /// Where its messages are.
    pub(super) fn place(&self) -> Place {
        *self.place.borrow()
    }

    /// Its messages are where they are to be.
    pub(super) fn has_moved(&self) {
        self.place.send_replace(self.wanted);
    }

    /// Why it can't be used for now, if so.
    pub(super) fn trouble(&self) -> Option<QueueError> {
        let name = &self.key.name;
        match (self.place(), self.wanted) {
            (Place::Embedded, Place::RabbitMq) => Some(QueueError::Unavailable(format!(
                "the messages of queue `{name}` are being moved to RabbitMQ: try again later"
            ))),
            (Place::RabbitMq, Place::Embedded) => Some(QueueError::Precondition(format!(
                "the messages of queue `{name}` are in RabbitMQ: start the coordinator with --broker to use it, or to delete it"
            ))),
            _ => None,
        }
    }

    /// Waits until its messages are where they are to be, but not for ever.
    pub(super) async fn is_here(&self) -> Result<(), QueueError> {
        if self.wanted == Place::RabbitMq && self.place() != self.wanted {
            let mut place = self.place.subscribe();
            // What it is then is looked at below.
            let _ = timeout(MOVE_MAX, place.wait_for(|place| *place == self.wanted)).await;
        }
        self.trouble().map_or(Ok(()), Err)
    }
}

/// All names, in memory and in the database.
pub(super) struct Registry {
    database: Database,
    wanted: Place,
    entries: RwLock<BTreeMap<QueueName, Arc<Entry>>>,
}

impl Registry {
    /// Reads all.
    pub(super) async fn load(database: Database, wanted: Place) -> Result<Self, QueueError> {
        let rows = database.run(|desk| Ok(load(desk.connection())?)).await?;
        let entries = rows
            .into_iter()
            .filter_map(|Row { id, name, place, created_millis }| {
                // Only names that can be named are ever stored.
                let name: QueueName = name.parse().ok()?;
                let key = QueueKey { id, name: name.clone() };
                Some((name, Arc::new(entry(key, created_millis, place, wanted))))
            })
            .collect();
        Ok(Self { database, wanted, entries: RwLock::new(entries) })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn get(&self, name: &QueueName) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Those behind a name, in order.
    pub(super) fn after(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let behind =
            entries.values().skip_while(|entry| after.is_some_and(|after| entry.key.name.as_str() <= after));
        behind.take(limit).cloned().collect()
    }

    /// Those whose messages are not where they are to be.
    pub(super) fn misplaced(&self) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().filter(|entry| entry.place() != self.wanted).cloned().collect()
    }

    /// Adds a name that is not there.
    pub(super) async fn add(&self, name: QueueName) -> Result<Arc<Entry>, QueueError> {
        let created_millis = now_millis();
        let (text, place) = (name.clone(), self.wanted);
        let id = self.database.run(move |desk| add(desk, text.as_str(), place, created_millis)).await?;
        let key = QueueKey { id, name: name.clone() };
        let entry = Arc::new(entry(key, created_millis, self.wanted, self.wanted));
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(name, entry.clone());
        Ok(entry)
    }

    pub(super) async fn remove(&self, entry: &Entry) -> Result<(), QueueError> {
        let id = entry.key.id;
        self.database
            .run(move |desk| {
                desk.write()?.prepare_cached("DELETE FROM queues WHERE id = ?1")?.execute([id])?;
                Ok(())
            })
            .await?;
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&entry.key.name);
        Ok(())
    }
}

struct Row {
    id: i64,
    name: String,
    place: Place,
    created_millis: i64,
}

fn load(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut rows = connection.prepare("SELECT id, name, place, created_millis FROM queues")?;
    let rows = rows.query_map([], |row| {
        let place =
            if row.get::<_, i64>(2)? == Place::Embedded as i64 { Place::Embedded } else { Place::RabbitMq };
        Ok(Row { id: row.get(0)?, name: row.get(1)?, place, created_millis: row.get(3)? })
    })?;
    rows.collect()
}

fn add(desk: &mut Desk, name: &str, place: Place, created_millis: i64) -> Result<i64, QueueError> {
    let connection = desk.write()?;
    connection
        .prepare_cached("INSERT INTO queues (name, place, created_millis) VALUES (?1, ?2, ?3)")?
        .execute(params![name, place as i64, created_millis])?;
    Ok(connection.last_insert_rowid())
}

fn entry(key: QueueKey, created_millis: i64, place: Place, wanted: Place) -> Entry {
    let (came_in, went_out) = (Rate::default(), Rate::default());
    Entry { key, created_millis, came_in, went_out, place: watch::Sender::new(place), wanted }
}
