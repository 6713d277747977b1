//! How far a project is, on stderr: a bar on a terminal, lines now and then elsewhere.

use super::{Screen, human, reason};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use piecework_proto::v1;
use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::{Duration, Instant},
};

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the bar moves by itself.
const TICK: Duration = Duration::from_millis(120);
/// How many ended attempts are told one by one; the others are only counted.
const TOLD_MAX: u32 = 10;

/// The progress of one project.
#[derive(Debug)]
pub struct Progress {
    screen: Arc<Screen>,
    bar: Option<ProgressBar>,
    project: v1::Project,
    /// Tasks that ended in success and in failure, as counted from the events.
    succeeded: u32,
    failed: u32,
    told: u32,
    /// How the attempt ended that was told last.
    told_last: v1::Outcome,
    last_line: Option<Instant>,
}

impl Progress {
    /// Begins to show a project.
    #[must_use]
    pub fn new(screen: Arc<Screen>, project: &v1::Project) -> Self {
        let bar = (!screen.is_quiet() && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
            bar
        });
        screen.set_bar(bar.clone());
        let progress = Self {
            screen,
            bar,
            project: project.clone(),
            succeeded: 0,
            failed: 0,
            told: 0,
            told_last: v1::Outcome::default(),
            last_line: None,
        };
        progress.style();
        progress
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &v1::watch_event::Event) {
        match event {
            v1::watch_event::Event::Project(project) => {
                let changed = project.state != self.project.state;
                self.project = project.clone();
                self.style();
                if changed {
                    self.last_line = None;
                }
            }
            v1::watch_event::Event::AttemptsEnded(ended) => {
                for attempt in &ended.attempts {
                    self.attempt(attempt);
                }
            }
        }
        self.show();
    }

    fn attempt(&mut self, ended: &v1::AttemptEnded) {
        let key = ended.attempt.unwrap_or_default();
        let task = key.task.unwrap_or_default();
        let outcome = ended.outcome.clone().unwrap_or_default();
        let success = human::is_success(&outcome);
        if ended.recorded && task.phase() == v1::Phase::Task {
            *(if success { &mut self.succeeded } else { &mut self.failed }) += 1;
        }
        if success || outcome.kind() == v1::OutcomeKind::Cancelled {
            return;
        }
        self.told += 1;
        if self.told <= TOLD_MAX {
            let next = if ended.recorded { "" } else { "; it is tried again" };
            let spec = self.project.spec.clone().unwrap_or_default();
            let (_, task_spec) = reason::phase_task(&spec, task.phase());
            let task = human::task(&task);
            let words = reason::reason_after(&outcome, &self.told_last, &task_spec);
            self.screen.status(&format!("{task}, attempt {}: {words}{next}", key.attempt));
            self.told_last = outcome;
        } else if self.told == TOLD_MAX + 1 {
            let id = self.project.id;
            self.screen.status(&format!(
                "more failures are not listed; `piecework tasks --failed {id}` lists all of them"
            ));
        }
    }

    /// How many tasks have ended. A stream that starts in the middle repeats what the project already counts.
    fn ended(&self) -> (u32, u32) {
        (self.succeeded.max(self.project.succeeded), self.failed.max(self.project.failed))
    }

    fn is_counting(&self) -> bool {
        self.project.tasks > 0 && self.project.state() == v1::ProjectState::Running
    }

    /// Chooses how the bar looks in the project's state.
    fn style(&self) {
        let Some(bar) = &self.bar else { return };
        // The message first: it belongs to the new look.
        bar.set_message(self.message());
        bar.set_prefix(human::one_line(human::project_name(&self.project)));
        let template = if self.is_counting() {
            bar.set_length(u64::from(self.project.tasks));
            "{prefix} {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta}"
        } else {
            "{prefix} {spinner} {msg} {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━╌"));
        }
    }

    fn message(&self) -> String {
        match self.ended() {
            _ if !self.is_counting() => human::project_state(self.project.state()).to_owned(),
            (_, 0) => String::new(),
            (_, failed) => format!("{failed} failed"),
        }
    }

    fn show(&mut self) {
        let (succeeded, failed) = self.ended();
        if let Some(bar) = &self.bar {
            bar.set_position(u64::from(succeeded + failed));
            bar.set_message(self.message());
            return;
        }
        if self.last_line.is_some_and(|last| last.elapsed() < LINE_INTERVAL) {
            return;
        }
        self.last_line = Some(Instant::now());
        let (name, state) = (human::project_name(&self.project), human::project_state(self.project.state()));
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let done = if self.project.tasks > 0 {
            format!(", {} of {} tasks done{failures}", succeeded + failed, self.project.tasks)
        } else {
            String::new()
        };
        self.screen.status(&format!("{name}: {state}{done}"));
    }

    /// Takes the bar away.
    ///
    /// # Errors
    /// If stdout can't be written: what the bar held back goes there now.
    pub fn finish(self) -> Result<(), crate::error::CliError> {
        self.screen.finish_bar()
    }
}

/// However the project is left, the terminal is clean.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.screen.set_bar(None);
    }
}
