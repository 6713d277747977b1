//! Keeps a connection for a purpose: dialled again, for as long as this program runs.

use super::{
    config::RabbitMqConfig,
    link::{ANSWER_MAX, Link, RabbitMqError},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use std::{pin::pin, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// How long to wait before a connection is dialled again: longer each time, up to the second.
const REDIAL_MIN: Duration = Duration::from_millis(100);
pub(super) const REDIAL_MAX: Duration = Duration::from_secs(5);

/// After a connection that lasted for this long, the first wait is the shortest again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// How often it is looked whether RabbitMQ takes no publications.
const BLOCKED_EVERY: Duration = Duration::from_secs(1);

/// What is done over connections, one after the other.
pub(crate) trait Session: Send {
    /// What for, for the list of connections that RabbitMQ shows.
    fn purpose(&self) -> &'static str;

    /// How it is with it: why it can't be done, or that it is well.
    fn tell(&self, trouble: Option<String>);

    /// Does it until the connection fails, and says why.
    fn run(&mut self, link: &Link) -> impl Future<Output = RabbitMqError> + Send;
}

/// Runs a session over one connection after the other, for ever.
pub(crate) async fn keep(config: RabbitMqConfig, mut session: impl Session) {
    let mut backoff = waits().build();
    loop {
        let ended = match Link::open(&config, session.purpose()).await {
            Ok(link) => {
                session.tell(None);
                let since = Instant::now();
                let ended = session.run(&link).await;
                if since.elapsed() >= GOOD_CONNECTION {
                    backoff = waits().build();
                }
                ended
            }
            Err(error) => error,
        };
        session.tell(Some(ended.to_string()));
        tokio::time::sleep(backoff.next().unwrap_or(REDIAL_MAX)).await;
    }
}

pub(super) fn waits() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(REDIAL_MIN)
        .with_max_delay(REDIAL_MAX)
        .with_jitter()
        .without_max_times()
}

/// How long it is waited for RabbitMQ to take publications: not for ever, but for as long as it says that it lacks memory or
/// disk.
pub(super) struct Patience<'a> {
    link: &'a Link,
    tell: &'a (dyn Fn(Option<String>) + Sync),
    ticks: Interval,
    heard: Instant,
}

impl<'a> Patience<'a> {
    /// Tells what it is waited for.
    pub(super) fn new(link: &'a Link, tell: &'a (dyn Fn(Option<String>) + Sync)) -> Self {
        let mut ticks = interval(BLOCKED_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { link, tell, ticks, heard: Instant::now() }
    }

    /// It has answered, or has nothing to answer.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Comes every second, for [`Self::look`].
    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// Looks how it is; gives up if it is silent while it should answer.
    pub(super) fn look(&mut self, is_asked: bool) -> Result<(), RabbitMqError> {
        let blocked = self.link.is_blocked();
        let words =
            || format!("RabbitMQ at {} takes no messages for now: it lacks memory or disk", self.link.node());
        (self.tell)(blocked.then(words));
        if blocked || !is_asked {
            self.heard();
        }
        if self.heard.elapsed() > ANSWER_MAX { Err(self.link.silent()) } else { Ok(()) }
    }

    /// Waits for what depends on it.
    pub(super) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T, RabbitMqError> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return Ok(done),
                _ = self.ticks.tick() => self.look(true)?,
            }
        }
    }
}
