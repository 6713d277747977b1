//! The connections: one for sending, as RabbitMQ stops reading from those who send when it lacks memory or disk, and one for
//! all else. Dialled when they are needed.

use crate::{
    broker::rabbitmq::{Link, RabbitMqConfig, RabbitMqError},
    queues::error::QueueError,
};
use lapin::{Channel, options::ConfirmSelectOptions};
use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, MutexGuard};

/// For how long it is not dialled again after that has failed.
const DIAL_PAUSE: Duration = Duration::from_secs(1);

/// How many channels are for questions. One of them is closed when something is not there.
const ASIDES: usize = 4;

/// A connection that is there when it is needed.
pub(super) struct Line<T> {
    purpose: &'static str,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Option<Arc<T>>,
    failed: Option<(Instant, QueueError)>,
}

/// What is done over a connection.
pub(super) trait Over: Sized {
    async fn set_up(link: Link) -> Result<Self, RabbitMqError>;

    fn is_open(&self) -> bool;
}

impl<T: Over> Line<T> {
    pub(super) fn new(purpose: &'static str) -> Self {
        Self { purpose, state: Mutex::new(State { current: None, failed: None }) }
    }

    /// The connection; a new one if there is none.
    pub(super) async fn get(&self, config: &RabbitMqConfig) -> Result<Arc<T>, QueueError> {
        let mut state = self.state.lock().await;
        if let Some(current) = state.current.as_ref().filter(|current| current.is_open()) {
            return Ok(current.clone());
        }
        state.current = None;
        if let Some((at, error)) = &state.failed
            && at.elapsed() < DIAL_PAUSE
        {
            return Err(error.again());
        }
        let dialled = async { T::set_up(Link::open(config, self.purpose).await?).await };
        match dialled.await {
            Ok(fresh) => {
                state.failed = None;
                Ok(state.current.insert(Arc::new(fresh)).clone())
            }
            Err(error) => {
                let error = told(error);
                let again = error.again();
                state.failed = Some((Instant::now(), error));
                Err(again)
            }
        }
    }
}

/// What went wrong, for who uses queues.
pub(super) fn told(error: RabbitMqError) -> QueueError {
    match error {
        RabbitMqError::Refused { .. } => QueueError::Precondition(error.to_string()),
        RabbitMqError::Unreachable { .. } => QueueError::Unavailable(error.to_string()),
    }
}

/// For sending: a channel on which each message is confirmed.
pub(super) struct Sending {
    pub(super) link: Link,
    pub(super) channel: Channel,
}

impl Over for Sending {
    async fn set_up(link: Link) -> Result<Self, RabbitMqError> {
        let channel = link.channel().await?;
        link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { link, channel })
    }

    fn is_open(&self) -> bool {
        self.link.is_open() && self.channel.status().connected()
    }
}

/// For receiving, and for questions.
pub(super) struct Receiving {
    pub(super) link: Link,
    /// Channels for deliveries that nobody uses now, but for what is held. What fails on one does not touch the others.
    idle: std::sync::Mutex<Vec<Channel>>,
    asides: [Mutex<Channel>; ASIDES],
    subscriptions: AtomicU64,
}

impl Over for Receiving {
    async fn set_up(link: Link) -> Result<Self, RabbitMqError> {
        let mut asides = Vec::with_capacity(ASIDES);
        for _ in 0..ASIDES {
            asides.push(Mutex::new(link.channel().await?));
        }
        let asides = asides.try_into().map_err(|_| link.closed("a channel"))?;
        Ok(Self { link, idle: std::sync::Mutex::default(), asides, subscriptions: AtomicU64::new(0) })
    }

    fn is_open(&self) -> bool {
        self.link.is_open()
    }
}

impl Receiving {
    /// A channel for deliveries, for oneself until it is put back. One that is not is closed, once nothing is held on it. There are
    /// no more than calls that fetch or wait at the same time.
    pub(super) async fn desk(&self) -> Result<Channel, QueueError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_) => {}
                None => return self.link.channel().await.map_err(told),
            }
        }
    }

    /// It can be used by others.
    pub(super) fn put_back(&self, channel: Channel) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
    }

    /// A channel for questions about a queue.
    pub(super) async fn aside(&self, queue: i64) -> Result<MutexGuard<'_, Channel>, QueueError> {
        let nth = usize::try_from(queue.unsigned_abs()).unwrap_or_default() % ASIDES;
        let mut channel = self.asides[nth].lock().await;
        if !channel.status().connected() {
            *channel = self.link.channel().await.map_err(told)?;
        }
        Ok(channel)
    }

    /// A name for another subscription.
    pub(super) fn subscription(&self) -> String {
        format!("piecework-queue-{}", self.subscriptions.fetch_add(1, Ordering::Relaxed))
    }
}
