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
mod link;
mod message;
mod publisher;
mod state;
mod topology;

pub use config::{PREFIX_DEFAULT, RabbitMqConfig, RabbitMqConfigError, has_password};
pub use link::RabbitMqError;

use super::{Arrived, Broker, Specs};
use crate::{
    coordinator::Dispatch,
    domain::{Phase, ProjectSpec},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use link::Link;
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
use topology::{Labels, Use, dead_name, todo_name};

/// How long a coordinator that starts waits for a RabbitMQ that does not answer, before it goes on without.
const START_MAX: Duration = Duration::from_secs(15);

/// How long to wait before a connection is dialled again: longer each time, up to the second.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(5);

/// After a connection that lasted for this long, the first wait is the shortest again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

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
            match check(&config).await {
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
        tasks.spawn(keep(shared.clone(), Side::Publisher));
        tasks.spawn(keep(shared.clone(), Side::Consumer));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
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

/// Sees whether it can be used: dials it, and makes the queues that are there always.
async fn check(config: &RabbitMqConfig) -> Result<(), RabbitMqError> {
    let link = Link::open(config, "check").await?;
    let channel = link.channel().await?;
    let prefix = config.prefix();
    for (name, what) in [(todo_name(prefix, &Labels::new()), Use::Todo), (dead_name(prefix), Use::Dead)] {
        link.within(topology::declare(&channel, &name, what)).await?;
    }
    link.close().await;
    Ok(())
}

fn waits() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(REDIAL_MIN)
        .with_max_delay(REDIAL_MAX)
        .with_jitter()
        .without_max_times()
}

/// Keeps one side connected.
async fn keep(shared: Arc<Shared>, side: Side) {
    let mut backoff = waits().build();
    let purpose = match side {
        Side::Publisher => "publisher",
        Side::Consumer => "consumer",
    };
    for number in 1.. {
        let ended = match Link::open(&shared.config, purpose).await {
            Ok(link) => {
                shared.tell(side, None);
                let since = Instant::now();
                let ended = match side {
                    Side::Publisher => publisher::run(&shared, &link).await,
                    Side::Consumer => consumer::run(&shared, &link, number).await,
                };
                if side == Side::Publisher {
                    shared.state().publisher_gone();
                    shared.to_driver.notify_one();
                }
                if since.elapsed() >= GOOD_CONNECTION {
                    backoff = waits().build();
                }
                ended
            }
            Err(error) => error,
        };
        shared.tell(side, Some(ended.to_string()));
        tokio::time::sleep(backoff.next().unwrap_or(REDIAL_MAX)).await;
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
