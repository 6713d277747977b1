//! TODO in RabbitMQ: a quorum queue for all tasks that ask for the same labels.
//!
//! ```text
//!  driver ── publish ──▶ State ── waiting ──▶ publisher ──▶ queue ──▶ consumer ── arrived ──▶ State ── take ──▶ driver
//!    └───── ack, after the claim is durable ──▶ acks ───────────────────▶ consumer ──▶ RabbitMQ
//! ```
//!
//! Publisher and consumer are tasks with a connection each, dialled again for ever. The driver never waits for them. What may
//! be lost (not confirmed when the connection fails, returned, in a queue that was deleted or that is found empty) is told to
//! the core, which publishes it again under another number; what then turns up twice is stale.

mod config;
mod consumer;
mod dead;
mod exchange;
mod inbox;
mod keep;
mod link;
mod message;
mod publisher;
mod state;
mod topology;

pub use config::{PREFIX_DEFAULT, RabbitMqConfig, RabbitMqConfigError, has_password};
pub(crate) use dead::put_aside;
pub use dead::{Chosen, DEAD_LETTERS_MAX, DeadLetter, Treatment};
pub(crate) use exchange::{Exchange, Publication};
pub(crate) use inbox::{Inbox, Letter};
pub(crate) use keep::{Session, keep};
pub(crate) use link::Link;
pub use link::RabbitMqError;
pub(crate) use message::PERSISTENT;
pub(crate) use topology::{DELIVERIES_MAX, system_queues};

use super::{Arrived, Broker, Specs};
use crate::{
    coordinator::Dispatch,
    domain::{Phase, ProjectSpec},
};
use backon::BackoffBuilder;
use keep::{REDIAL_MAX, waits};
use state::{Side, State};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use topology::{Labels, Use, dead_name, done_name, inbox_name, todo_name};

/// How long a coordinator that starts waits for a RabbitMQ that does not answer, before it goes on without.
const START_MAX: Duration = Duration::from_secs(15);

/// A RabbitMQ in use. When the last one of its clones is gone, its connections end.
#[derive(Clone)]
pub struct RabbitMq {
    shared: Arc<Shared>,
    _tasks: Arc<JoinSet<()>>,
}

/// What the driver shares with the two tasks.
struct Shared {
    config: RabbitMqConfig,
    /// Different in each process, so that no two publish as one.
    process: String,
    reigns: AtomicU64,
    state: Mutex<State>,
    to_driver: Notify,
    to_publisher: Notify,
    to_consumer: Notify,
}

impl Shared {
    /// Held for a moment only.
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done with it leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a side is, and tells the log what is new.
    fn tell(&self, side: Side, trouble: Option<String>) {
        let is_new = self.state().set_trouble(side, trouble.clone());
        match trouble {
            Some(trouble) if is_new => tracing::warn!(?side, "{trouble}"),
            None if is_new => tracing::info!(?side, "RabbitMQ is well again"),
            _ => {}
        }
    }
}

impl RabbitMq {
    /// Starts using it. One that does not answer is waited for for some seconds, and then tried for as long as this lives.
    ///
    /// # Errors
    /// If it refuses: a wrong password, no such vhost, a queue that was made otherwise.
    pub async fn start(config: RabbitMqConfig) -> Result<Self, RabbitMqError> {
        let until = Instant::now() + START_MAX;
        let mut waits = waits().build();
        loop {
            match Self::check(&config).await {
                Ok(()) => break,
                Err(error) if error.is_final() => return Err(error),
                Err(error) if Instant::now() >= until => {
                    tracing::warn!("{error}; nothing is given to agents until it can be");
                    break;
                }
                Err(error) => tracing::debug!("{error}; trying again"),
            }
            tokio::time::sleep(waits.next().unwrap_or(REDIAL_MAX)).await;
        }
        let state = Mutex::new(State::new(config.prefix()));
        let process = format!("{:016x}", getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
        let shared = Arc::new(Shared {
            config,
            process,
            reigns: AtomicU64::new(0),
            state,
            to_driver: Notify::new(),
            to_publisher: Notify::new(),
            to_consumer: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(keep(shared.config.clone(), Publishing(shared.clone())));
        tasks.spawn(keep(shared.config.clone(), Consuming { shared: shared.clone(), connections: 0 }));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
    }

    /// Sees whether it can be used: dials it, and makes what is there always.
    ///
    /// # Errors
    /// If it can't be reached, or refuses.
    pub async fn check(config: &RabbitMqConfig) -> Result<(), RabbitMqError> {
        let link = Link::open(config, "check").await?;
        let channel = link.channel().await?;
        let prefix = config.prefix();
        let todo = todo_name(prefix, &Labels::new());
        for (name, what) in
            [(todo, Use::Todo), (inbox_name(prefix), Use::Inbox), (dead_name(prefix), Use::Dead)]
        {
            link.within(topology::declare(&channel, &name, what)).await?;
        }
        link.within(topology::declare_exchange(&channel, &done_name(prefix))).await?;
        link.close().await;
        Ok(())
    }

    /// How it is reached.
    #[must_use]
    pub fn config(&self) -> &RabbitMqConfig {
        &self.shared.config
    }

    /// The messages that were refused, oldest first: at most so many, and no more than [`DEAD_LETTERS_MAX`].
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetter>, RabbitMqError> {
        dead::list(self.config(), limit).await
    }

    /// Replays or drops messages that were refused; returns how many.
    ///
    /// # Errors
    /// If it can't be asked. Some of it may be done then.
    pub async fn treat(&self, chosen: &Chosen, treatment: Treatment) -> Result<u32, RabbitMqError> {
        dead::treat(self.config(), chosen, treatment).await
    }

    /// TODO for a newly folded core.
    pub(super) fn open(&self) -> RabbitTodo {
        let reign = self.shared.reigns.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.state().open(format!("{}.{reign}", self.shared.process).into());
        self.shared.to_consumer.notify_one();
        RabbitTodo { shared: self.shared.clone() }
    }

    /// Waits until there may be something to take.
    pub(super) async fn arrived(&self) {
        self.shared.to_driver.notified().await;
    }

    /// Why nothing can be published or delivered for now, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.state().trouble()
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RabbitMq({:?})", self.shared.config)
    }
}

/// Tasks on their way to their queues.
struct Publishing(Arc<Shared>);

impl Session for Publishing {
    fn purpose(&self) -> &'static str {
        "publisher"
    }

    fn tell(&self, trouble: Option<String>) {
        self.0.tell(Side::Publisher, trouble);
    }

    async fn run(&mut self, link: &Link) -> RabbitMqError {
        let ended = publisher::run(&self.0, link).await;
        self.0.state().publisher_gone();
        self.0.to_driver.notify_one();
        ended
    }
}

/// Tasks on their way from their queues.
struct Consuming {
    shared: Arc<Shared>,
    connections: u64,
}

impl Session for Consuming {
    fn purpose(&self) -> &'static str {
        "consumer"
    }

    fn tell(&self, trouble: Option<String>) {
        self.shared.tell(Side::Consumer, trouble);
    }

    async fn run(&mut self, link: &Link) -> RabbitMqError {
        self.connections += 1;
        consumer::run(&self.shared, link, self.connections).await
    }
}

/// TODO of one core.
pub(super) struct RabbitTodo {
    shared: Arc<Shared>,
}

impl Broker for RabbitTodo {
    fn is_view(&self) -> bool {
        false
    }

    fn publish(&mut self, dispatches: Vec<Dispatch>, specs: &Specs) {
        let none = Labels::new();
        let mut state = self.shared.state();
        for dispatch in dispatches {
            let spec = specs.get(&dispatch.task.project);
            let labels = spec.and_then(|spec| labels_of(spec, dispatch.task.phase)).unwrap_or(&none);
            state.publish(dispatch, labels);
        }
        drop(state);
        self.shared.to_publisher.notify_one();
        self.shared.to_consumer.notify_one();
    }

    fn prefetch(&mut self, deliveries_max: u32) {
        self.shared.state().set_prefetch(deliveries_max);
        self.shared.to_consumer.notify_one();
    }

    fn ack(&mut self, dispatches: &[Dispatch]) {
        if !dispatches.is_empty() {
            self.shared.state().ack(dispatches);
            self.shared.to_consumer.notify_one();
        }
    }

    fn take(&mut self) -> Arrived {
        self.shared.state().take()
    }
}

/// What a task of this phase asks of an agent.
fn labels_of(spec: &ProjectSpec, phase: Phase) -> Option<&Labels> {
    spec.task_of(phase).map(|task| &task.requires)
}
