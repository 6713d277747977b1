//! DONE: all that is recorded, published to an exchange of the broker, for whoever binds a queue of its own.
//!
//! ```text
//!  store ── what lies behind the cursor ──▶ exchange ── confirmed ──▶ cursor moves on, durably
//! ```
//!
//! The outbox is the store itself: results are recorded in an order, and a cursor tells how far they were published. So nothing
//! of it stands in the way of a record, and nothing is lost; after a crash the last batch comes again, under the same ids.
//! Nobody here reads DONE, so nothing depends on it.

mod message;

use crate::{
    broker::rabbitmq::{Exchange, Link, RabbitMqConfig, RabbitMqError, Session, keep},
    domain::CoordinatorEpoch,
    driver::Handle,
    pace::Pace,
    store::{FeedCursor, Store, StoreError},
};
use std::{convert::Infallible, future, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Most messages of one batch. Each batch moves the cursor once.
const BATCH_MAX: u32 = 1000;

/// How far apart batches are while many changes call for them.
const BATCH_EVERY: Duration = Duration::from_millis(20);

/// How many batches may come at once before they are many.
const BATCHES_AT_ONCE: u32 = 8;

/// How long to wait before a failed store is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Publishes what is recorded, for as long as it is polled.
pub async fn publish(config: RabbitMqConfig, store: Arc<dyn Store>, driver: Handle) {
    let (epoch, changes) = (driver.epoch(), driver.all_changes());
    let cursor = loop {
        match store.open_feed(epoch).await {
            Ok(cursor) => break cursor,
            Err(error) => pause(&error).await,
        }
    };
    let exchange = format!("{}.done", config.prefix());
    keep(config, Feed { store, epoch, changes, cursor, exchange }).await;
}

async fn pause(error: &StoreError) {
    tracing::warn!(%error, "results are not published for now");
    tokio::time::sleep(STORE_PAUSE).await;
}

struct Feed {
    store: Arc<dyn Store>,
    epoch: CoordinatorEpoch,
    changes: watch::Receiver<u64>,
    /// Up to here all is published, though perhaps not noted.
    cursor: FeedCursor,
    exchange: String,
}

impl Session for Feed {
    fn purpose(&self) -> &'static str {
        "done"
    }

    fn tell(&self, trouble: Option<String>) {
        if let Some(trouble) = trouble {
            tracing::warn!("results are not published for now: {trouble}");
        }
    }

    async fn run(&mut self, link: &Link) -> RabbitMqError {
        let Err(error) = self.publish(link).await;
        error
    }
}

impl Feed {
    async fn publish(&mut self, link: &Link) -> Result<Infallible, RabbitMqError> {
        let mut exchange = Exchange::open(link, &self.exchange).await?;
        let mut pace = Pace::new(BATCH_EVERY, BATCHES_AT_ONCE);
        loop {
            self.changes.borrow_and_update();
            let (recorded, to) = match self.store.recorded(self.cursor, BATCH_MAX).await {
                Ok(found) => found,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            };
            if recorded.is_empty() {
                if link.while_open(self.changes.changed()).await?.is_err() {
                    // Nothing is recorded any more.
                    future::pending::<()>().await;
                }
                continue;
            }
            exchange.publish(&recorded).await?;
            self.cursor = to;
            while let Err(error) = self.store.move_feed(self.epoch, to).await {
                pause(&error).await;
            }
            if let Some(at) = pace.next(Instant::now()) {
                tokio::time::sleep_until(at).await;
            }
        }
    }
}
