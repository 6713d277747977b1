//! The inbox: tasks that any program puts into a queue of the broker, on their way into open projects.
//!
//! ```text
//!  queue ─▶ take all that wait ─▶ read, gather by project ─▶ intake ─▶ durable ─▶ acknowledge
//!                                   └─ refused: dead letters, with the reason ──────▲
//! ```
//!
//! A message that is not acknowledged comes again; the keys of its tasks are known then, so it changes nothing. What fails for a
//! while (a full disk) is tried again until it goes well, in the order of the queue; what is wrong is put aside.

mod message;

use crate::{
    broker::rabbitmq::{Inbox, Letter, Link, RabbitMqConfig, RabbitMqError, Session, keep},
    domain::{NewTask, ProjectId},
    intake::{Intake, IntakeError, TASKS_AT_ONCE_MAX},
    store::{Store, StoreError},
};
use backon::{ExponentialBuilder, Retryable};
#[cfg(test)]
pub(crate) use message::Addition;
use message::{Order, ProjectRef};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// How long it is waited before something that fails for a while is tried again: longer each time, up to the second.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// How often it is tried again before the messages are given back to the queue, and taken anew.
const TRIES_MAX: usize = 20;

/// Adds what is in the inbox, for as long as it is polled.
pub async fn take(config: RabbitMqConfig, store: Arc<dyn Store>, intake: Intake) {
    let prefix = config.prefix().to_owned();
    keep(config, Taking { store, intake, prefix }).await;
}

struct Taking {
    store: Arc<dyn Store>,
    intake: Intake,
    prefix: String,
}

impl Session for Taking {
    fn purpose(&self) -> &'static str {
        "inbox"
    }

    fn tell(&self, trouble: Option<String>) {
        if let Some(trouble) = trouble {
            tracing::warn!("nothing is taken from the inbox for now: {trouble}");
        }
    }

    async fn run(&mut self, link: &Link) -> RabbitMqError {
        let Err(error) = self.take(link).await;
        error
    }
}

/// Tasks for one project from messages that follow each other.
struct Group<'l> {
    project: ProjectRef,
    tasks: Vec<NewTask>,
    end: bool,
    /// The messages, and how many tasks are from each.
    from: Vec<(&'l Letter, usize)>,
}

impl<'l> Group<'l> {
    fn new(letter: &'l Letter, order: Order) -> Self {
        let Order { project, tasks, end } = order;
        let from = vec![(letter, tasks.len())];
        Self { project, tasks, end, from }
    }

    /// Whether this order can be done together with those before it.
    fn takes(&self, order: &Order) -> bool {
        !self.end
            && self.project == order.project
            && self.tasks.len() + order.tasks.len() <= TASKS_AT_ONCE_MAX
    }

    fn push(&mut self, letter: &'l Letter, order: Order) {
        self.from.push((letter, order.tasks.len()));
        self.tasks.extend(order.tasks);
        self.end = order.end;
    }

    /// One for each message.
    fn split(self) -> impl Iterator<Item = Self> {
        let Self { project, tasks, end, from } = self;
        let (count, mut tasks) = (from.len(), tasks.into_iter());
        from.into_iter().enumerate().map(move |(nth, (letter, len))| Group {
            project: project.clone(),
            tasks: tasks.by_ref().take(len).collect(),
            end: end && nth + 1 == count,
            from: vec![(letter, len)],
        })
    }
}

/// Why nothing was added.
enum Failure {
    /// It is to be tried again.
    Passing(String),
    /// It never will.
    Final(String),
}

impl From<IntakeError> for Failure {
    fn from(error: IntakeError) -> Self {
        if error.is_passing() {
            return Self::Passing(error.to_string());
        }
        Self::Final(match error {
            IntakeError::Item { nth, problems } => {
                let of =
                    |field: &str| field.split_once(']').map_or(String::new(), |(_, rest)| rest.to_owned());
                let problems: Vec<_> = problems
                    .all()
                    .iter()
                    .map(|problem| format!("tasks[{nth}]{}: {}", of(&problem.field), problem.kind))
                    .collect();
                problems.join("; ")
            }
            error => error.to_string(),
        })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        IntakeError::from(error).into()
    }
}

impl Taking {
    async fn take(&self, link: &Link) -> Result<Infallible, RabbitMqError> {
        let mut inbox = Inbox::open(link, &self.prefix).await?;
        loop {
            let letters = inbox.take().await?;
            let mut groups: Vec<Group<'_>> = Vec::new();
            for letter in &letters {
                match message::read(letter.body()) {
                    Ok(order) => match groups.last_mut() {
                        Some(group) if group.takes(&order) => group.push(letter, order),
                        _ => groups.push(Group::new(letter, order)),
                    },
                    Err(why) => inbox.refuse(letter, &why).await?,
                }
            }
            for group in groups {
                self.add(&inbox, group).await?;
            }
            if let Some(last) = letters.last() {
                inbox.accept(last).await?;
            }
        }
    }

    /// Adds a group as a whole; if it is refused, each of its messages by itself.
    async fn add(&self, inbox: &Inbox<'_>, group: Group<'_>) -> Result<(), RabbitMqError> {
        let Err(why) = self.try_add(inbox, &group).await? else { return Ok(()) };
        if let [(letter, _)] = *group.from {
            return inbox.refuse(letter, &why).await;
        }
        for one in group.split() {
            if let Err(why) = self.try_add(inbox, &one).await?
                && let [(letter, _)] = *one.from
            {
                inbox.refuse(letter, &why).await?;
            }
        }
        Ok(())
    }

    /// Adds tasks; what fails for a while is tried again. Gives back why they are refused.
    async fn try_add(
        &self,
        inbox: &Inbox<'_>,
        group: &Group<'_>,
    ) -> Result<Result<(), String>, RabbitMqError> {
        let once = || async {
            let project = self.project(&group.project).await?;
            self.intake.add(project, group.tasks.clone(), group.end).await?;
            Ok(())
        };
        let waits = ExponentialBuilder::default()
            .with_min_delay(AGAIN_MIN)
            .with_max_delay(AGAIN_MAX)
            .with_max_times(TRIES_MAX);
        let added = once
            .retry(waits)
            .when(|failure| matches!(failure, Failure::Passing(_)))
            .notify(|failure, _| {
                if let Failure::Passing(why) = failure {
                    tracing::warn!("tasks of the inbox wait: {why}");
                }
            })
            .await;
        match added {
            Ok(()) => Ok(Ok(())),
            Err(Failure::Final(why)) => Ok(Err(why)),
            Err(Failure::Passing(_)) => Err(inbox.give_back()),
        }
    }

    async fn project(&self, named: &ProjectRef) -> Result<ProjectId, Failure> {
        let found = match named {
            ProjectRef::Number(id) => self.store.project(ProjectId(*id)).await?,
            ProjectRef::Name(name) => self.store.project_named(name).await?,
        };
        found.map(|project| project.id).ok_or_else(|| {
            Failure::Final(match named {
                ProjectRef::Number(id) => format!("there is no project {id}"),
                ProjectRef::Name(name) => format!("there is no project named {:?}", cut(name)),
            })
        })
    }
}

/// The beginning of a text that may be anything.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
