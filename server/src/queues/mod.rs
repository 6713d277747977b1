//! Queues as a service: named queues for anybody's messages, beside those that carry tasks.
//!
//! ```text
//!  service ──▶ Queues ──▶ Registry: which queues there are      ──▶ queues.db
//!                 └─────▶ Carrier: their messages   embedded    ──▶ queues.db
//!                                                   RabbitMQ    ──▶ PREFIX.queue.NAME
//! ```
//!
//! The registry is the truth about names, with either broker: RabbitMQ can't be asked for them. A message is delivered at least once: it
//! comes again if it is not acknowledged in time, or if nobody knows whether it was.

mod carrier;
mod database;
mod embedded;
mod error;
pub mod limits;
mod message;
mod moving;
mod name;
mod rabbitmq;
mod rate;
mod registry;

pub use error::{NAME_RULE, QueueError};
pub use message::{
    AckMode, Created, DeleteIf, Headers, Message, Nack, NewMessage, Page, QueueInfo, Receive, Received,
};
pub use name::QueueName;

use crate::{
    broker::rabbitmq::{PREFIX_DEFAULT, RabbitMqConfig},
    store::StoreError,
};
use carrier::{Carrier, Depth, Receipt};
use database::Database;
use embedded::Embedded;
use futures_util::{StreamExt, stream};
use limits::{
    BATCH_MAX, Bounds, HELD_MAX, LIST_MAX, RECEIPT_BYTES_MAX, VISIBILITY_MAX, VISIBILITY_MIN, WAIT_MAX,
};
use rabbitmq::RabbitMqCarrier;
use registry::{Entry, Place, Registry};
use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::Semaphore, task::JoinSet};

/// Of how many queues the carrier is asked at a time.
const ASKED_MAX: usize = 16;

/// For how long what is acknowledged as it is received is held until that is done.
const AUTO_VISIBILITY: Duration = Duration::from_secs(60);

/// All queues. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    carrier: Arc<dyn Carrier>,
    bounds: Bounds,
    /// What the names of the system's queues begin with.
    system: String,
    /// Places for those who wait.
    waits: Arc<Semaphore>,
    /// Different in each process, so that no two messages have one id.
    process: u64,
    sent: AtomicU64,
    /// For creating and deleting, one at a time.
    changes: tokio::sync::Mutex<()>,
    /// Moves messages to where they are to be.
    _moving: JoinSet<()>,
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").field("bounds", &self.shared.bounds).finish_non_exhaustive()
    }
}

impl Queues {
    /// Opens the queues of an installation: their database is at `path`. With a broker, messages are in RabbitMQ; what is in the
    /// database is moved there.
    ///
    /// # Errors
    /// If the database can't be used, or a newer version wrote it.
    pub async fn open(
        path: &Path,
        bounds: Bounds,
        broker: Option<RabbitMqConfig>,
    ) -> Result<Self, QueueError> {
        let path = path.to_owned();
        let process = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let opening = move || Database::open(&path, process, bounds.held_max);
        let (database, next) =
            tokio::task::spawn_blocking(opening).await.map_err(|_| StoreError::Closed)??;
        let place = if broker.is_some() { Place::RabbitMq } else { Place::Embedded };
        let registry = Registry::load(database.clone(), place).await?;
        let misplaced = registry.misplaced();
        let prefix = broker.as_ref().map_or(PREFIX_DEFAULT, RabbitMqConfig::prefix);
        let system = format!("{prefix}.");
        let mut moving = JoinSet::new();
        let carrier: Arc<dyn Carrier> = match broker {
            Some(config) => {
                let carrier = RabbitMqCarrier::new(config, process, bounds);
                if !misplaced.is_empty() {
                    moving.spawn(moving::to_rabbitmq(database, carrier.inner.clone(), misplaced));
                }
                Arc::new(carrier)
            }
            None => {
                if !misplaced.is_empty() {
                    let many = misplaced.len();
                    tracing::warn!(
                        many,
                        "the messages of some queues are in RabbitMQ: without --broker they can't be used"
                    );
                }
                Arc::new(Embedded::new(database, next, bounds))
            }
        };
        let shared = Shared {
            registry,
            carrier,
            bounds,
            system,
            waits: Arc::new(Semaphore::new(bounds.waits_max)),
            process,
            sent: AtomicU64::new(1),
            changes: tokio::sync::Mutex::new(()),
            _moving: moving,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a queue, unless it is there.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], [`QueueError::System`], [`QueueError::TooMany`]; or if the broker or the database fails, as with all
    /// that follow.
    pub async fn create(&self, name: &str) -> Result<Created, QueueError> {
        let shared = &self.shared;
        let name = self.own_name(name)?;
        let _changes = shared.changes.lock().await;
        if let Some(entry) = shared.registry.get(&name) {
            self.usable(&entry).await?;
            shared.carrier.make(&entry.key).await?;
            return Ok(Created { queue: self.info(&entry).await, is_new: false });
        }
        if shared.registry.len() >= shared.bounds.queues_max {
            let max = shared.bounds.queues_max;
            return Err(QueueError::TooMany(format!("there are {max} queues already: delete some first")));
        }
        let entry = shared.registry.add(name).await?;
        if let Err(error) = shared.carrier.make(&entry.key).await {
            shared.registry.remove(&entry).await?;
            return Err(error);
        }
        Ok(Created { queue: self.info(&entry).await, is_new: true })
    }

    /// What is known of a queue, also of one of the system's.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], [`QueueError::NotFound`].
    pub async fn get(&self, name: &str) -> Result<QueueInfo, QueueError> {
        if self.is_system(name) {
            let all = self.shared.carrier.system_queues().await?;
            let found = all.into_iter().find(|(found, _)| found == name);
            let (name, depth) = found.ok_or_else(|| QueueError::NotFound(shown(name)))?;
            return Ok(system_info(name, depth));
        }
        let entry = self.entry(name)?;
        Ok(self.info(&entry).await)
    }

    /// Queues by name, the system's among them: those behind `after`, at most `limit` and no more than [`LIST_MAX`].
    ///
    /// # Errors
    /// If the database fails. A broker that does not answer is told in [`QueueInfo::trouble`].
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page, QueueError> {
        let limit = limit.clamp(1, LIST_MAX);
        let is_behind = |name: &str| after.is_none_or(|after| name > after);
        let entries = self.shared.registry.after(after, limit + 1);
        let infos = entries.into_iter().map(|entry| async move { self.info(&entry).await });
        let asked = stream::iter(infos).buffered(ASKED_MAX);
        let mut queues: Vec<_> = asked.collect().await;
        // Without an answer they are not known, and what stands beside them says why.
        let system = self.shared.carrier.system_queues().await.unwrap_or_default();
        queues.extend(
            system
                .into_iter()
                .filter(|(name, _)| is_behind(name))
                .map(|(name, depth)| system_info(name, depth)),
        );
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        let has_more = queues.len() > limit;
        queues.truncate(limit);
        let next = queues.last().filter(|_| has_more).map(|last| last.name.clone());
        Ok(Page { queues, next })
    }

    /// Puts messages into a queue, in this order, and returns their ids. They are durable then. None of them is in it if this
    /// fails; but if it fails with [`QueueError::Unavailable`], nobody knows.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], [`QueueError::System`], [`QueueError::NotFound`], [`QueueError::Full`].
    pub async fn send(&self, name: &str, messages: Vec<NewMessage>) -> Result<Vec<String>, QueueError> {
        let entry = self.entry(name)?;
        message::check_batch(&messages)?;
        self.usable(&entry).await?;
        let sent_millis = now_millis();
        let many = messages.len();
        let first = self.shared.sent.fetch_add(many as u64, Ordering::Relaxed);
        let messages: Vec<_> = (first..)
            .zip(messages)
            .map(|(number, NewMessage { body, content_type, headers })| Message {
                id: format!("{:016x}-{number:x}", self.shared.process),
                body,
                content_type,
                headers,
                sent_millis,
                redeliveries: 0,
            })
            .collect();
        let ids = messages.iter().map(|message| message.id.clone()).collect();
        self.shared.carrier.send(&entry.key, messages).await?;
        entry.came_in.count(many);
        Ok(ids)
    }

    /// Takes messages out of a queue, oldest first. Returns none if none came in time.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], [`QueueError::System`], [`QueueError::NotFound`], [`QueueError::TooMany`].
    pub async fn receive(&self, name: &str, receive: Receive) -> Result<Vec<Received>, QueueError> {
        let entry = self.entry(name)?;
        let Receive { max, wait, ack } = receive;
        check_max(max)?;
        if wait > WAIT_MAX {
            return Err(QueueError::invalid("wait", format!("at most {} s", WAIT_MAX.as_secs())));
        }
        let visibility = match ack {
            AckMode::Auto => AUTO_VISIBILITY,
            AckMode::Manual { visibility } => visibility,
        };
        check_visibility("visibility", visibility)?;
        self.usable(&entry).await?;
        let _place = match wait.is_zero() {
            true => None,
            false => Some(self.shared.waits.clone().try_acquire_owned().map_err(|_| {
                let max = self.shared.bounds.waits_max;
                QueueError::TooMany(format!("{max} calls wait for messages already: try again later"))
            })?),
        };
        let taken = self.shared.carrier.take(&entry.key, max, wait, visibility).await?;
        if ack == AckMode::Auto && !taken.is_empty() {
            let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt).collect();
            let gone = match self.shared.carrier.ack(&entry.key, receipts.clone()).await {
                Ok(gone) => gone,
                Err(error) => {
                    self.shared.carrier.abandon(&entry.key, receipts);
                    return Err(error);
                }
            };
            let received: Vec<_> = taken
                .into_iter()
                // They are in the queue again, for somebody else.
                .filter(|taken| !gone.contains(&taken.receipt))
                .map(|taken| Received { message: taken.message, receipt: String::new() })
                .collect();
            entry.went_out.count(received.len());
            return Ok(received);
        }
        Ok(taken
            .into_iter()
            .map(|taken| Received { message: taken.message, receipt: taken.receipt.to_string() })
            .collect())
    }

    /// Removes received messages for good; returns how many.
    ///
    /// # Errors
    /// [`QueueError::UnknownReceipt`] if some are not held (any more); all others are removed then. [`QueueError::Invalid`],
    /// [`QueueError::System`], [`QueueError::NotFound`].
    pub async fn ack<R: AsRef<str>>(&self, name: &str, receipts: &[R]) -> Result<u32, QueueError> {
        let entry = self.entry(name)?;
        let Receipts { known, mut unknown } = check_receipts(receipts)?;
        self.usable(&entry).await?;
        let all = known.len();
        let gone = self.shared.carrier.ack(&entry.key, known).await?;
        let settled = all - gone.len();
        entry.went_out.count(settled);
        unknown.extend(gone.iter().map(ToString::to_string));
        settle(settled, unknown)
    }

    /// Gives received messages back, or prolongs the time for which they are held; returns how many.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn nack<R: AsRef<str>>(
        &self,
        name: &str,
        receipts: &[R],
        how: Nack,
    ) -> Result<u32, QueueError> {
        let entry = self.entry(name)?;
        let Receipts { known, mut unknown } = check_receipts(receipts)?;
        if let Nack::Extend(visibility) = how {
            check_visibility("extend", visibility)?;
        }
        self.usable(&entry).await?;
        let all = known.len();
        let gone = self.shared.carrier.nack(&entry.key, known, how).await?;
        unknown.extend(gone.iter().map(ToString::to_string));
        settle(all - gone.len(), unknown)
    }

    /// Shows the oldest messages that wait in a queue, also in one of the system's, and leaves them there.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], [`QueueError::NotFound`].
    pub async fn peek(&self, name: &str, max: usize) -> Result<Vec<Message>, QueueError> {
        check_max(max)?;
        if self.is_system(name) {
            return self.shared.carrier.peek_system(name, max).await;
        }
        let entry = self.entry(name)?;
        self.usable(&entry).await?;
        self.shared.carrier.peek(&entry.key, max).await
    }

    /// Removes all messages that wait in a queue; returns how many. Those that are received and not yet acknowledged stay.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], [`QueueError::System`], [`QueueError::NotFound`].
    pub async fn purge(&self, name: &str) -> Result<u64, QueueError> {
        let entry = self.entry(name)?;
        self.usable(&entry).await?;
        self.shared.carrier.purge(&entry.key).await
    }

    /// Removes a queue with all that is in it; returns how many messages that were.
    ///
    /// # Errors
    /// [`QueueError::Precondition`] if a condition does not hold. [`QueueError::Invalid`], [`QueueError::System`],
    /// [`QueueError::NotFound`].
    pub async fn delete(&self, name: &str, conditions: DeleteIf) -> Result<u64, QueueError> {
        let _changes = self.shared.changes.lock().await;
        let entry = self.entry(name)?;
        self.usable(&entry).await?;
        let removed = self.shared.carrier.delete(&entry.key, conditions).await?;
        self.shared.registry.remove(&entry).await?;
        Ok(removed)
    }

    /// A queue that anybody may use.
    fn entry(&self, name: &str) -> Result<Arc<Entry>, QueueError> {
        let name = self.own_name(name)?;
        self.shared.registry.get(&name).ok_or_else(|| QueueError::NotFound(name.to_string()))
    }

    /// The name of a queue that anybody may use.
    fn own_name(&self, name: &str) -> Result<QueueName, QueueError> {
        if self.is_system(name) { Err(QueueError::System(shown(name))) } else { name.parse() }
    }

    /// Whether a name is the system's. A queue that was made when the prefix was another one is not.
    fn is_system(&self, name: &str) -> bool {
        let is_known = || name.parse().is_ok_and(|name| self.shared.registry.get(&name).is_some());
        name.starts_with(&self.shared.system) && !is_known()
    }

    /// Waits until the messages of a queue are where they are to be.
    async fn usable(&self, entry: &Entry) -> Result<(), QueueError> {
        entry.is_here().await
    }

    async fn info(&self, entry: &Entry) -> QueueInfo {
        let depth = match entry.trouble() {
            None => self.shared.carrier.depth(&entry.key).await,
            Some(error) => Err(error),
        };
        let (Depth { ready, unacked, consumers }, trouble) = match depth {
            Ok(depth) => (depth, None),
            Err(error) => (Depth::default(), Some(error.to_string())),
        };
        QueueInfo {
            name: entry.key.name.to_string(),
            ready,
            unacked,
            consumers,
            in_per_sec: entry.came_in.per_sec(),
            out_per_sec: entry.went_out.per_sec(),
            created_millis: entry.created_millis,
            system: false,
            trouble,
        }
    }
}

fn system_info(name: String, depth: Depth) -> QueueInfo {
    let Depth { ready, unacked, consumers } = depth;
    QueueInfo {
        name,
        ready,
        unacked,
        consumers,
        in_per_sec: 0.0,
        out_per_sec: 0.0,
        created_millis: 0,
        system: true,
        trouble: None,
    }
}

fn check_max(max: usize) -> Result<(), QueueError> {
    if (1..=BATCH_MAX).contains(&max) {
        Ok(())
    } else {
        Err(QueueError::invalid("max", format!("1 to {BATCH_MAX}, not {max}")))
    }
}

fn check_visibility(field: &str, visibility: Duration) -> Result<(), QueueError> {
    const _: () = assert!(AUTO_VISIBILITY.as_secs() <= VISIBILITY_MAX.as_secs());
    const _: () = assert!(VISIBILITY_MAX.as_secs() <= HELD_MAX.as_secs());
    if (VISIBILITY_MIN..=VISIBILITY_MAX).contains(&visibility) {
        return Ok(());
    }
    let (min, max) = (VISIBILITY_MIN.as_millis(), VISIBILITY_MAX.as_millis());
    Err(QueueError::invalid(field, format!("{min} to {max} ms, not {}", visibility.as_millis())))
}

/// Receipts as they came: those that may be ours, and those that can't be.
struct Receipts {
    known: Vec<Receipt>,
    unknown: Vec<String>,
}

fn check_receipts<R: AsRef<str>>(receipts: &[R]) -> Result<Receipts, QueueError> {
    if receipts.is_empty() || receipts.len() > BATCH_MAX {
        return Err(QueueError::invalid("receipts", format!("1 to {BATCH_MAX}, not {}", receipts.len())));
    }
    let (mut known, mut unknown) = (Vec::with_capacity(receipts.len()), Vec::new());
    for receipt in receipts.iter().map(AsRef::as_ref) {
        match receipt.parse() {
            Ok(receipt) if !known.contains(&receipt) => known.push(receipt),
            // Once is enough.
            Ok(_) => {}
            Err(_) if receipt.len() > RECEIPT_BYTES_MAX => unknown.push("(too long for one)".to_owned()),
            Err(_) => unknown.push(shown(receipt)),
        }
    }
    Ok(Receipts { known, unknown })
}

fn settle(settled: usize, unknown: Vec<String>) -> Result<u32, QueueError> {
    let settled = u32::try_from(settled).unwrap_or(u32::MAX);
    if unknown.is_empty() { Ok(settled) } else { Err(QueueError::UnknownReceipt { unknown, settled }) }
}

/// Cut and escaped: it came from outside, and may be anything.
fn shown(text: &str) -> String {
    text.chars().take(limits::NAME_BYTES_MAX).flat_map(char::escape_debug).collect()
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
