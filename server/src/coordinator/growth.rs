//! Open projects: their tasks are added while they run, until one day they are closed.
//!
//! ```text
//!            AddTasks             AddTasks that ends it, or no new task for a while
//!  Running ───────────▶ Running ───────────────────────────────────────────────────▶ Running, closed ─▶ as any project
//!   open                 open, with more tasks
//! ```
//!
//! The core sees numbers alone: the tasks themselves are staged in the store before. A project whose tasks have all ended stays
//! as it is until it is closed.

use super::{Coordinator, Effects, Planted, Reply, ReplyId};
use crate::{
    domain::{ItemSource, ProjectId, ProjectSpec},
    store::Write,
};
use std::time::Duration;

/// What an open project has beyond others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    /// After how long without a new task it is closed.
    idle: Option<Duration>,
    /// When it got its last one, or was taken in.
    since: Duration,
}

impl Growth {
    /// None if the project is not to grow.
    pub(super) fn of(spec: &ProjectSpec) -> Option<Self> {
        let ItemSource::Open { idle_millis } = spec.items else { return None };
        Some(Self { idle: idle_millis.map(Duration::from_millis), since: Duration::ZERO })
    }

    /// The wait for the next task begins.
    pub(super) fn waits_from(&mut self, now: Duration) {
        self.since = now;
    }

    /// How long it is still waited for.
    fn left(self, now: Duration) -> Option<Duration> {
        Some((self.since + self.idle?).saturating_sub(now))
    }

    /// What is waited for when all tasks have ended.
    pub(super) fn in_words(self, now: Duration) -> String {
        let Some(left) = self.left(now) else {
            return "tasks to be added, or the word that no more follow".to_owned();
        };
        format!("tasks to be added: if none is within {}, no more are taken", at_most(left))
    }
}

/// A time in one unit, rounded up: what is said again and again is to change seldom.
fn at_most(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = time.as_secs();
    let (unit, name) = match seconds {
        0..HOUR => (MINUTE, "minute"),
        HOUR..DAY => (HOUR, "hour"),
        _ => (DAY, "day"),
    };
    let count = seconds / unit + 1;
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

impl Coordinator {
    /// Tasks were staged for a project: it has so many now, and perhaps gets no more.
    pub(super) fn add_tasks(
        &mut self,
        id: ProjectId,
        tasks: u32,
        end: bool,
        reply: ReplyId,
        fx: &mut Effects,
    ) {
        let now = self.now;
        let Some(project) = self.projects.get(&id) else {
            fx.replies.push((reply, Reply::NotOpen));
            return;
        };
        let (is_open, is_news) = (project.growth.is_some(), tasks > project.total);
        // What was staged early may have come in with what was staged late.
        if !is_open && (is_news || end) {
            fx.replies.push((reply, Reply::NotOpen));
            return;
        }
        if is_news {
            fx.writes.push(Write::AddTasks { project: id, tasks });
            fx.changed.insert(id);
            self.update_project(id, |project| project.grow(tasks, now));
        }
        fx.replies.push((reply, Reply::Done));
        if end {
            self.close(id, fx);
        }
    }

    /// Closes projects that nobody has added to for too long.
    pub(super) fn close_idle(&mut self, fx: &mut Effects) {
        if self.limits.has(Planted::IdleNeverEnds) {
            return;
        }
        let now = self.now;
        let is_over = |growth: Growth| growth.left(now).is_some_and(|left| left.is_zero());
        let over = self.projects.values().filter(|project| project.growth.is_some_and(is_over));
        let over: Vec<_> = over.map(|project| project.id).collect();
        for id in over {
            self.close(id, fx);
        }
    }

    fn close(&mut self, id: ProjectId, fx: &mut Effects) {
        fx.writes.push(Write::Close { project: id });
        fx.changed.insert(id);
        self.update_project(id, |project| project.growth = None);
        self.go_on(id, fx);
    }
}
