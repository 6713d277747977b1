//! The embedded broker's messages: in `queues.db`, delivered in order, held in memory. After a restart all that was not
//! acknowledged waits again.

mod lanes;
mod rows;

pub(super) use lanes::{Lanes, NextExpiry};
pub(super) use rows::{oldest_rows, remove_rows};

use super::{
    carrier::{Carrier, Depth, QueueKey, Receipt, Taken},
    database::{Database, Job, job},
    error::QueueError,
    limits::Bounds,
    message::{DeleteIf, Message, Nack},
};
use crate::store::sqlite::SUBMISSION_RESERVE_BYTES;
use async_trait::async_trait;
use lanes::{Answer, Waiter};
use rows::Chunk;
use std::time::{Duration, Instant};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// How much is removed at a time, so that others get their turn.
const CHUNK: Chunk = Chunk { messages: 1000, bytes: 32 * 1024 * 1024 };

/// How long it is waited until what has expired is put back, before that is asked for again.
const EXPIRE_AGAIN: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Embedded {
    database: Database,
    bounds: Bounds,
    expiring: JoinHandle<()>,
}

impl Embedded {
    pub(super) fn new(database: Database, next: watch::Receiver<NextExpiry>, bounds: Bounds) -> Self {
        let expiring = tokio::spawn(expire(database.downgrade(), next));
        Self { database, bounds, expiring }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.expiring.abort();
    }
}

/// Puts back what was not acknowledged in time, when it is.
async fn expire(jobs: mpsc::WeakSender<Job>, mut next: watch::Receiver<NextExpiry>) {
    loop {
        let at = *next.borrow_and_update();
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = next.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = due => {
                let Some(jobs) = jobs.upgrade() else { return };
                let (reply, _) = oneshot::channel();
                // Without room, it is asked again below.
                let _ = jobs.try_send(job(|desk| { desk.lanes.expire(Instant::now()); Ok(()) }, reply));
                drop(jobs);
                let _ = timeout(EXPIRE_AGAIN, next.changed()).await;
            }
        }
    }
}

#[async_trait]
impl Carrier for Embedded {
    async fn make(&self, queue: &QueueKey) -> Result<(), QueueError> {
        let id = queue.id;
        self.database
            .run(move |desk| {
                desk.lanes.make(id);
                Ok(())
            })
            .await
    }

    async fn depth(&self, queue: &QueueKey) -> Result<Depth, QueueError> {
        let id = queue.id;
        Ok(self.database.run(move |desk| Ok(desk.lanes.depth(id))).await?.unwrap_or_default())
    }

    async fn send(&self, queue: &QueueKey, messages: Vec<Message>) -> Result<(), QueueError> {
        let (QueueKey { id, name }, bounds) = (queue.clone(), self.bounds);
        let full = move |why| QueueError::Full { name: name.to_string(), why };
        let name = queue.name.clone();
        self.database
            .run(move |desk| {
                let Some((in_it, bytes)) = desk.lanes.filling(id) else {
                    return Err(QueueError::NotFound(name.to_string()));
                };
                let more: usize = messages.iter().map(Message::size).sum();
                if in_it + messages.len() as u64 > bounds.queue_messages_max {
                    let max = bounds.queue_messages_max;
                    return Err(full(format!("it has {in_it} messages, and may have {max}")));
                }
                if bytes + more as u64 > bounds.queue_bytes_max {
                    let max = bounds.queue_bytes_max;
                    return Err(full(format!("it has {bytes} bytes, and may have {max}")));
                }
                if desk.free_bytes().is_some_and(|free| free < SUBMISSION_RESERVE_BYTES) {
                    return Err(full(
                        "the coordinator's disk is: free some space, then try again".to_owned(),
                    ));
                }
                let (connection, lanes) = desk.writing()?;
                Ok(lanes.add(connection, id, &messages)?)
            })
            .await
    }

    async fn take(
        &self,
        queue: &QueueKey,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Taken>, QueueError> {
        let (answer, answered) = oneshot::channel();
        let (id, waits) = (queue.id, !wait.is_zero());
        let mut taking = Taking { carrier: self, queue, answered };
        self.database
            .run(move |desk| {
                desk.lanes.wait(id, Waiter { max, waits, visibility, answer });
                Ok(())
            })
            .await?;
        if waits {
            if let Ok(answer) = timeout(wait, &mut taking.answered).await {
                return answer.map_err(|_| closed())?;
            }
            // It may have come in this moment.
            taking.answered.close();
            taking.answered.try_recv().unwrap_or(Ok(Vec::new()))
        } else {
            (&mut taking.answered).await.map_err(|_| closed())?
        }
    }

    async fn ack(&self, queue: &QueueKey, receipts: Vec<Receipt>) -> Result<Vec<Receipt>, QueueError> {
        let id = queue.id;
        self.database
            .run(move |desk| {
                let (connection, lanes) = desk.writing()?;
                lanes.ack(connection, id, receipts)
            })
            .await
    }

    async fn nack(
        &self,
        queue: &QueueKey,
        receipts: Vec<Receipt>,
        how: Nack,
    ) -> Result<Vec<Receipt>, QueueError> {
        let id = queue.id;
        self.database
            .run(move |desk| match how {
                Nack::Requeue => Ok(desk.lanes.give_back(id, receipts)),
                Nack::Extend(visibility) => desk.lanes.extend(id, receipts, visibility, Instant::now()),
            })
            .await
    }

    fn abandon(&self, queue: &QueueKey, receipts: Vec<Receipt>) {
        let id = queue.id;
        // Without room, they are back when their time is over.
        self.database.run_aside(move |desk| {
            desk.lanes.give_back(id, receipts);
            Ok(())
        });
    }

    async fn peek(&self, queue: &QueueKey, max: usize) -> Result<Vec<Message>, QueueError> {
        let id = queue.id;
        self.database
            .run(move |desk| {
                let (connection, lanes) = desk.reading();
                lanes.peek(connection, id, max)
            })
            .await
    }

    async fn purge(&self, queue: &QueueKey) -> Result<u64, QueueError> {
        let id = queue.id;
        let last = self.database.run(move |desk| Ok(desk.lanes.last_seq())).await?;
        let mut removed = 0;
        loop {
            let purge = self.database.run(move |desk| {
                let (connection, lanes) = desk.writing()?;
                lanes.purge(connection, id, last, CHUNK)
            });
            match purge.await? {
                0 => return Ok(removed),
                some => removed += some,
            }
        }
    }

    async fn delete(&self, queue: &QueueKey, conditions: DeleteIf) -> Result<u64, QueueError> {
        let id = queue.id;
        let removed = self.database.run(move |desk| desk.lanes.close(id, conditions)).await?;
        loop {
            let remove = self.database.run(move |desk| {
                let connection = desk.write()?;
                Ok(rows::remove_range(connection, id, 0, i64::MAX, CHUNK)?)
            });
            if let (0, _) = remove.await? {
                return Ok(removed);
            }
        }
    }

    async fn system_queues(&self) -> Result<Vec<(String, Depth)>, QueueError> {
        Ok(Vec::new())
    }

    async fn peek_system(&self, name: &str, _: usize) -> Result<Vec<Message>, QueueError> {
        Err(QueueError::NotFound(name.to_owned()))
    }
}

fn closed() -> QueueError {
    QueueError::Unavailable("the coordinator is stopping".to_owned())
}

/// Somebody who waits. When they go, what has come for them is in the queue again.
struct Taking<'a> {
    carrier: &'a Embedded,
    queue: &'a QueueKey,
    answered: oneshot::Receiver<Answer>,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Ok(taken)) = self.answered.try_recv()
            && !taken.is_empty()
        {
            self.carrier.abandon(self.queue, taken.iter().map(|taken| taken.receipt).collect());
        }
    }
}
