//! What happens in a project, as a stream with a cursor.
//!
//! ```text
//!  subscribe ─▶ read ─▶ something new? ─yes─▶ yield it ─▶ read again
//!                ▲             └─no──▶ wait for a change ──┐
//!                └────────────────────────────────────────┘
//! ```
//!
//! A watcher is pulled: nothing is read before the last event was taken, and nothing is kept for a reader but its place.
//! So a slow reader slows nobody but itself, and a watcher that comes back with its cursor misses and repeats nothing.

use crate::{
    domain::{Generation, Project, ProjectId, ProjectState, TaskCounts},
    pace::Pace,
    store::{AttemptRow, Store, StoreError},
};
use std::{fmt, num::ParseIntError, str::FromStr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Most attempts in one event.
pub const ATTEMPTS_MAX: u32 = 500;

/// Shortest pause between two events that tell of nothing but other counts.
const COUNTS_PAUSE: Duration = Duration::from_millis(100);

/// How far apart reads are while many changes call for them: one serves many.
const READ_EVERY: Duration = Duration::from_millis(20);

/// How many reads may come at once before they are many.
const READS_AT_ONCE: u32 = 8;

/// Where a watcher stands: all attempts recorded up to this place were told. Its text form is `generation.seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The generation in which it was given.
    pub generation: Generation,
    /// The place in the order of recording.
    pub seq: u64,
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It has not two parts.
    #[error("a watch cursor has the form generation.seq")]
    Form,
    /// A part is no number.
    #[error("a watch cursor has the form generation.seq: {0}")]
    Number(#[from] ParseIntError),
}

impl Cursor {
    /// From the start.
    pub const START: Self = Self { generation: Generation(0), seq: 0 };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation.0, self.seq)
    }
}

/// The empty text is [`Cursor::START`].
impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.is_empty() {
            return Ok(Self::START);
        }
        let (generation, seq) = text.split_once('.').ok_or(CursorError::Form)?;
        Ok(Self { generation: Generation(generation.parse()?), seq: seq.parse()? })
    }
}

/// Why a watcher ended early.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The project is not there (any more).
    #[error("there is no project {0}")]
    NoProject(ProjectId),
    /// The cursor was given by a generation that is still to come.
    #[error("the cursor is of generation {got}, the project's is {current}", got = .got.0, current = .current.0)]
    Generation {
        /// The project's current one.
        current: Generation,
        /// The cursor's.
        got: Generation,
    },
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The project as it is now.
    Project(Box<Project>),
    /// Attempts that ended, in the order of recording.
    Ended(Vec<AttemptRow>),
}

/// One reader of what happens in one project.
pub struct Watcher {
    store: Arc<dyn Store>,
    changes: watch::Receiver<u64>,
    project: ProjectId,
    cursor: Cursor,
    /// What was told of the project last; none before the first event.
    told: Option<Told>,
    pace: Pace,
    /// When the store may be read again.
    read_at: Option<Instant>,
    done: bool,
}

/// What a reader knows of a project.
#[derive(PartialEq, Eq)]
struct Told {
    state: ProjectState,
    message: String,
    generation: Generation,
    open: bool,
    counts: TaskCounts,
    at: Instant,
}

impl Told {
    fn new(project: &Project) -> Self {
        Self {
            state: project.state,
            message: project.message.clone(),
            generation: project.generation,
            open: project.open,
            counts: project.counts,
            at: Instant::now(),
        }
    }

    /// Whether more than counts has changed since.
    fn is_outdated_by(&self, project: &Project) -> bool {
        (self.state, self.message.as_str(), self.generation, self.open)
            != (project.state, project.message.as_str(), project.generation, project.open)
    }
}

/// Until then, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What a look into the store led to.
enum Look {
    Event(Event),
    /// Nothing new before this time.
    Later(Instant),
    /// Nothing new.
    Nothing,
}

impl Watcher {
    /// Watches a project from a cursor on. `changes` must have been subscribed before.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        changes: watch::Receiver<u64>,
        project: ProjectId,
        cursor: Cursor,
    ) -> Self {
        let pace = Pace::new(READ_EVERY, READS_AT_ONCE);
        Self { store, changes, project, cursor, told: None, pace, read_at: None, done: false }
    }

    /// The next event, and where a later watcher goes on after it; none after the project's end was told.
    ///
    /// # Errors
    /// If the project can't be read.
    pub async fn next(&mut self) -> Result<Option<(Cursor, Event)>, WatchError> {
        while !self.done {
            self.changes.borrow_and_update();
            let due = match self.look().await? {
                Look::Event(event) => return Ok(Some((self.cursor, event))),
                Look::Later(due) => Some(due),
                Look::Nothing => None,
            };
            tokio::select! {
                () = until(due) => {}
                changed = self.changes.changed() => {
                    changed.map_err(|_| WatchError::Stopping)?;
                    if let Some(read_at) = self.read_at {
                        sleep_until(read_at).await;
                    }
                }
            }
        }
        Ok(None)
    }

    async fn look(&mut self) -> Result<Look, WatchError> {
        // The project first: once it has ended, all attempts that it waited for can be read.
        let (id, seq) = (self.project, self.cursor.seq);
        // Of which the project alone is told first.
        let limit = if self.told.is_some() { ATTEMPTS_MAX } else { 0 };
        let found = self.store.project_and_attempts(id, seq, limit).await?;
        let (project, attempts) = found.ok_or(WatchError::NoProject(id))?;
        self.read_at = self.pace.next(Instant::now());
        if self.cursor.generation > project.generation {
            let (current, got) = (project.generation, self.cursor.generation);
            return Err(WatchError::Generation { current, got });
        }
        let Some(told) = &self.told else {
            self.cursor.generation = project.generation;
            return Ok(Look::Event(self.tell(project, false)));
        };
        if let Some(last) = attempts.last() {
            self.cursor = Cursor { generation: project.generation, seq: last.seq };
            return Ok(Look::Event(Event::Ended(attempts)));
        }
        if project.state.is_ended() {
            return Ok(Look::Event(self.tell(project, true)));
        }
        if told.is_outdated_by(&project) {
            return Ok(Look::Event(self.tell(project, false)));
        }
        if told.counts != project.counts {
            let due = told.at + COUNTS_PAUSE;
            if Instant::now() < due {
                return Ok(Look::Later(due));
            }
            return Ok(Look::Event(self.tell(project, false)));
        }
        Ok(Look::Nothing)
    }

    fn tell(&mut self, project: Project, last: bool) -> Event {
        self.told = Some(Told::new(&project));
        self.done = last;
        Event::Project(Box::new(project))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_can_be_read_back(generation: u32, seq: u64) {
            let cursor = Cursor { generation: Generation(generation), seq };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn other_texts_are_no_cursors() {
        assert_eq!("".parse(), Ok(Cursor::START));
        assert_eq!("1".parse::<Cursor>(), Err(CursorError::Form));
        for text in ["1.", ".1", "1.2.3", "a.b", "-1.2"] {
            assert!(matches!(text.parse::<Cursor>(), Err(CursorError::Number(_))), "{text}");
        }
    }
}
