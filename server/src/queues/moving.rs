//! Moves what is in the database to RabbitMQ, when a coordinator starts with one. A message is removed here once it is confirmed there:
//! if that is interrupted some are in both places and are delivered twice, with the same id; none is lost.

use super::{
    carrier::QueueKey,
    database::Database,
    embedded::{oldest_rows, remove_rows},
    error::QueueError,
    rabbitmq::RabbitMq,
    registry::{Entry, Place},
};
use std::{sync::Arc, time::Duration};

/// How many messages are moved at a time.
const GROUP_MAX: usize = 200;

/// How long to wait before a move that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Moves queues, one after the other. Those that can't be moved are tried again for as long as it takes.
pub(super) async fn to_rabbitmq(database: Database, rabbitmq: Arc<RabbitMq>, mut queues: Vec<Arc<Entry>>) {
    tracing::info!(many = queues.len(), "the messages of queues are moved to RabbitMQ");
    while !queues.is_empty() {
        let mut left = Vec::new();
        for entry in queues {
            match move_one(&database, &rabbitmq, &entry.key).await {
                Ok(many) => {
                    tracing::info!(queue = entry.key.name.as_str(), many, "messages were moved to RabbitMQ");
                    entry.has_moved();
                }
                Err(error) => {
                    let queue = entry.key.name.as_str();
                    tracing::warn!(queue, %error, "messages can't be moved to RabbitMQ; trying again");
                    left.push(entry);
                }
            }
        }
        queues = left;
        if !queues.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn move_one(database: &Database, rabbitmq: &RabbitMq, queue: &QueueKey) -> Result<usize, QueueError> {
    rabbitmq.declare(queue).await?;
    let id = queue.id;
    let mut moved = 0;
    loop {
        let rows = database.run(move |desk| Ok(oldest_rows(desk.connection(), id, GROUP_MAX)?)).await?;
        let (numbers, messages): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        if messages.is_empty() {
            break;
        }
        rabbitmq.publish(queue, &messages).await?;
        moved += messages.len();
        database.run(move |desk| Ok(remove_rows(desk.write()?, &numbers)?)).await?;
    }
    database
        .run(move |desk| {
            desk.write()?
                .prepare_cached("UPDATE queues SET place = ?2 WHERE id = ?1")?
                .execute([id, Place::RabbitMq as i64])?;
            Ok(())
        })
        .await?;
    Ok(moved)
}
