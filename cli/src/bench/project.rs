//! One project, from submission to its end: timed, and checked, so that no figure is of work that was not done.

use super::{RUN_SECS_MAX, error::BenchError};
use crate::{
    client::Client,
    project_file::{Items, Submission},
};
use piecework_proto::v1::{
    self, BuiltInReassemble, ItemSource, item_source::Source, reassemble_spec::How, watch_event::Event,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// A project to measure.
pub(super) struct Work {
    spec: v1::ProjectSpec,
    items: Items,
}

impl Work {
    /// A command for each number from 1 to this, in an image.
    pub(super) fn range(image: &str, command: &[&str], last: u32) -> Self {
        let range = v1::ItemRange { first: 1, last: last.into(), step: 1 };
        Self::new(image, command, Source::Range(range), Items::None)
    }

    /// A command for each of these items.
    pub(super) fn list(image: &str, command: &[&str], items: Arc<Vec<String>>) -> Self {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        Self::new(image, command, Source::List(v1::ItemList { count }), Items::Texts(items))
    }

    /// A command for each line that another one prints.
    pub(super) fn split(image: &str, split: &[&str], command: &[&str]) -> Self {
        Self::new(image, command, Source::Split(task(split)), Items::None)
    }

    fn new(image: &str, command: &[&str], source: Source, items: Items) -> Self {
        let image = v1::image_spec::Image::Reference(image.to_owned());
        let spec = v1::ProjectSpec {
            name: "bench".into(),
            image: Some(v1::ImageSpec { image: Some(image) }),
            items: Some(ItemSource { source: Some(source) }),
            task: Some(task(command)),
            ..v1::ProjectSpec::default()
        };
        Self { spec, items }
    }

    /// With the sum of what the tasks print as its result.
    pub(super) fn summed(mut self) -> Self {
        let how = How::BuiltIn(BuiltInReassemble::Sum.into());
        self.spec.reassemble = Some(v1::ReassembleSpec { how: Some(how) });
        self
    }

    /// With tasks that may print this much.
    pub(super) fn output_max(mut self, bytes: u64) -> Self {
        if let Some(task) = &mut self.spec.task {
            task.output_bytes_max = bytes;
        }
        self
    }

    /// With a new worker for each task.
    pub(super) fn fresh(mut self) -> Self {
        if let Some(task) = &mut self.spec.task {
            task.set_isolation(v1::Isolation::Fresh);
        }
        self
    }

    /// What is submitted.
    pub(super) fn submission(&self) -> Submission {
        Submission { spec: self.spec.clone(), items: self.items.clone(), files: Vec::new() }
    }

    /// Submits it, waits for its end, and checks that each task ended well, once. All times are from before the
    /// submission.
    pub(super) async fn run(&self, client: &Client, tasks: u32) -> Result<Ran, BenchError> {
        let submission = self.submission();
        let start = Instant::now();
        let project = client.submit(&submission).await?;
        follow(client, project.id, Witness::new(Some(tasks)), start).await
    }

    /// The same, when only the tasks know how many they are.
    pub(super) async fn run_split(&self, client: &Client) -> Result<Ran, BenchError> {
        let submission = self.submission();
        let start = Instant::now();
        let project = client.submit(&submission).await?;
        follow(client, project.id, Witness::new(None), start).await
    }
}

fn task(command: &[&str]) -> v1::TaskSpec {
    v1::TaskSpec { command: command.iter().map(ToString::to_string).collect(), ..v1::TaskSpec::default() }
}

/// How a project went. All times are from before its submission.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) project: u64,
    /// The first ending was seen.
    pub(super) first: Duration,
    /// The last ending was seen.
    pub(super) last: Duration,
    /// The project was over.
    pub(super) over: Duration,
}

/// Watches a project until its end, which must be a good one.
pub(super) async fn follow(
    client: &Client,
    project: u64,
    mut witness: Witness,
    start: Instant,
) -> Result<Ran, BenchError> {
    let watched = async {
        let mut events = client.watch(project);
        let (mut first, mut last, mut state) = (None, start.elapsed(), None);
        while let Some(event) = events.next().await? {
            match event.event {
                Some(Event::AttemptsEnded(ended)) => {
                    last = start.elapsed();
                    first.get_or_insert(last);
                    for attempt in &ended.attempts {
                        witness.saw(attempt)?;
                    }
                }
                Some(Event::Project(project)) => state = Some(project),
                None => {}
            }
        }
        let over = start.elapsed();
        let state = state.ok_or_else(|| BenchError::Wrong("nothing was told of the project".into()))?;
        witness.check(&state)?;
        Ok(Ran { project, first: first.unwrap_or(last), last, over })
    };
    let what = || format!("project {project}");
    timeout(Duration::from_secs(RUN_SECS_MAX), watched)
        .await
        .unwrap_or_else(|_| Err(BenchError::TooLong { what: what(), secs: RUN_SECS_MAX }))
}

/// Sees that each task ends well, once.
#[derive(Debug)]
pub(super) struct Witness {
    /// How many there must be, if that is known.
    tasks: Option<u32>,
    seen: Vec<bool>,
    pub(super) count: u32,
}

impl Witness {
    pub(super) fn new(tasks: Option<u32>) -> Self {
        Self { tasks, seen: vec![false; tasks.unwrap_or_default() as usize], count: 0 }
    }

    pub(super) fn saw(&mut self, ended: &v1::AttemptEnded) -> Result<(), BenchError> {
        let Some(task) = ended.attempt.as_ref().and_then(|attempt| attempt.task.as_ref()) else {
            return Err(BenchError::Wrong("an ending names no task".into()));
        };
        let index = task.index as usize;
        let outcome = ended.outcome.clone().unwrap_or_default();
        if outcome.kind() != v1::OutcomeKind::Exited || outcome.code != 0 {
            return Err(BenchError::Wrong(format!(
                "{} {index} ended with {} {} {}",
                task.phase().as_str_name(),
                outcome.kind().as_str_name(),
                outcome.code,
                outcome.message
            )));
        }
        if task.phase() != v1::Phase::Task || !ended.recorded {
            return Ok(());
        }
        if self.tasks.is_none() && index >= self.seen.len() {
            self.seen.resize(index + 1, false);
        }
        match self.seen.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(BenchError::Wrong(format!("task {index} was recorded twice"))),
            None => return Err(BenchError::Wrong(format!("there is no task {index}"))),
        }
        self.count += 1;
        Ok(())
    }

    fn check(&self, project: &v1::Project) -> Result<(), BenchError> {
        let all = self.count == project.tasks && self.tasks.is_none_or(|tasks| tasks == project.tasks);
        if project.state() == v1::ProjectState::Succeeded && all && project.succeeded == project.tasks {
            return Ok(());
        }
        Err(BenchError::Wrong(format!(
            "{} of {} tasks were seen, {} succeeded, {} failed; the project is {} {}",
            self.count,
            project.tasks,
            project.succeeded,
            project.failed,
            project.state().as_str_name(),
            project.message
        )))
    }
}

/// Reads the result of an ended project.
pub(super) async fn result(
    client: &Client,
    project: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let mut chunks = client.results(project, true);
    while let Some(chunk) = chunks.next().await? {
        take(&chunk.data)?;
    }
    Ok(())
}

/// Expects a result, without ever holding it: the same bytes over and over, or all the numbers.
#[derive(Debug)]
pub(super) struct Expected<I> {
    parts: I,
    part: Vec<u8>,
    at: usize,
}

impl<I: Iterator<Item = Vec<u8>>> Expected<I> {
    pub(super) fn new(parts: I) -> Self {
        Self { parts, part: Vec::new(), at: 0 }
    }

    /// Compares the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), BenchError> {
        while !bytes.is_empty() {
            if self.at == self.part.len() {
                self.part = self.parts.next().ok_or_else(|| BenchError::Wrong("it is too long".into()))?;
                self.at = 0;
            }
            let length = bytes.len().min(self.part.len() - self.at);
            if bytes[..length] != self.part[self.at..self.at + length] {
                return Err(BenchError::Wrong("it has other bytes than were printed".into()));
            }
            self.at += length;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Nothing may be missing.
    pub(super) fn end(mut self) -> Result<(), BenchError> {
        if self.at == self.part.len() && self.parts.next().is_none() {
            return Ok(());
        }
        Err(BenchError::Wrong("it is too short".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(index: u32, code: i32) -> v1::AttemptEnded {
        let task = v1::TaskKey { project_id: 1, phase: v1::Phase::Task.into(), index };
        v1::AttemptEnded {
            attempt: Some(v1::AttemptKey { task: Some(task), attempt: 1 }),
            outcome: Some(v1::Outcome { kind: v1::OutcomeKind::Exited.into(), code, message: String::new() }),
            recorded: true,
            agent: "a".into(),
        }
    }

    fn project(tasks: u32) -> v1::Project {
        let state = v1::ProjectState::Succeeded.into();
        v1::Project { state, tasks, succeeded: tasks, ..v1::Project::default() }
    }

    #[test]
    fn a_witness_wants_each_task_once_and_well() {
        let mut witness = Witness::new(Some(2));
        witness.saw(&ended(1, 0)).unwrap();
        assert!(witness.check(&project(2)).is_err(), "one is missing");
        assert!(witness.saw(&ended(1, 0)).is_err(), "seen twice");
        assert!(witness.saw(&ended(2, 0)).is_err(), "one too many");
        assert!(witness.saw(&ended(0, 1)).is_err(), "it failed");
        witness.saw(&ended(0, 0)).unwrap();
        witness.check(&project(2)).unwrap();
        assert!(witness.check(&project(3)).is_err(), "another number than submitted");
    }

    #[test]
    fn a_witness_of_a_split_takes_any_number() {
        let mut witness = Witness::new(None);
        for index in [4, 0, 1, 3] {
            witness.saw(&ended(index, 0)).unwrap();
        }
        assert!(witness.check(&project(5)).is_err());
        witness.saw(&ended(2, 0)).unwrap();
        witness.check(&project(5)).unwrap();
    }

    #[test]
    fn what_is_expected_may_come_in_any_pieces() {
        let expected = || Expected::new((1..=3).map(|n| format!("{n}\n").into_bytes()));
        let all = b"1\n2\n3\n";
        for at in 0..=all.len() {
            let mut whole = expected();
            whole.take(&all[..at]).unwrap();
            whole.take(&all[at..]).unwrap();
            whole.end().unwrap();
        }
        assert!(expected().take(b"1\n3\n").is_err());
        assert!(expected().take(b"1\n2\n3\n4").is_err());
        let mut short = expected();
        short.take(b"1\n2\n3").unwrap();
        assert!(short.end().is_err());
    }
}
