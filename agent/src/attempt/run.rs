//! One attempt, from its start or its adoption to its ending.

use super::{
    Env,
    pump::{Pumped, Streams},
    stdin::{Feed, Stdin},
    worker::{self, Link, Unreachable},
};
use crate::{
    domain::{Assignment, AttemptKey, Outcome, Output, OutputStream, Report, RunSpec, StdinFrom, Usage},
    init_link::{InitExit, InitSender, InitState, LinkError, RunCommand},
    runtime::{Gone, ImageError, PreparedImage, WorkerError, WorkerId, WorkerSpec},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// How often in a row a link may break without anything heard over it, in times.
const LINK_LOSSES_MAX: u32 = 3;

/// What an attempt begins with.
pub(super) enum Origin {
    /// It is to be started.
    Start(Assignment),
    /// An earlier process of the agent started it. None if its worker is still to be reached.
    Adopted(Option<Box<Link>>),
}

/// An attempt that runs.
pub(super) struct Run {
    env: Arc<Env>,
    attempt: AttemptKey,
    worker: WorkerId,
    kill: CancellationToken,
    streams: Streams,
    /// None if it is empty. What an earlier process of the agent began may have one: the coordinator knows.
    stdin: Option<Stdin>,
}

impl Run {
    /// Runs it to its end. Also returns the way to its init, if that is still there to be released.
    pub(super) async fn run(
        env: Arc<Env>,
        attempt: AttemptKey,
        origin: Origin,
        kill: CancellationToken,
    ) -> (Report, Option<InitSender>) {
        let sinks = match &origin {
            Origin::Start(_) => Ok((
                env.sink(attempt, OutputStream::Stdout, &kill),
                env.sink(attempt, OutputStream::Stderr, &kill),
            )),
            Origin::Adopted(_) => env.resumed_sinks(attempt, &kill).await,
        };
        let (stdout, stderr) = match sinks {
            Ok(sinks) => sinks,
            Err(error) => {
                let why = format!("what it printed before the agent restarted can't be read: {error}");
                return (lost(attempt, Outcome::WorkerLost(cut_message(why))), None);
            }
        };
        let worker = env.names.worker(attempt);
        let streams = Streams::new(stdout, stderr);
        let stdin = match &origin {
            Origin::Start(assignment) => Stdin::of(assignment),
            Origin::Adopted(_) => Some(Stdin::Coordinator),
        };
        let mut run = Self { env, attempt, worker, kill, streams, stdin };
        let (outcome, usage, sender) = match run.drive(origin).await {
            Ok((exit, sender)) => (exit.outcome, exit.usage, sender),
            Err(outcome) => (outcome, Usage::default(), None),
        };
        let Streams { stdout, stderr, stdin_failed, .. } = run.streams;
        let (stdout, stderr) = (stdout.finish().await, stderr.finish().await);
        // Without all of its output, no other ending is true.
        let outcome = if stdout.cut || stderr.cut { Outcome::Cancelled } else { outcome };
        let outcome = match (outcome, stdin_failed) {
            // That is why it was killed.
            (Outcome::Cancelled, Some(why)) => Outcome::WorkerLost(cut_message(why)),
            (outcome, _) => outcome,
        };
        let report = Report { attempt, outcome, usage, stdout: stdout.output, stderr: stderr.output };
        (report, sender)
    }

    /// Follows it over as many links as it takes.
    async fn drive(&mut self, origin: Origin) -> Result<(InitExit, Option<InitSender>), Outcome> {
        let (mut link, command) = match origin {
            Origin::Start(assignment) => {
                let (link, command) = self.begin(assignment).await?;
                (link, Some(command))
            }
            Origin::Adopted(Some(link)) => (*link, None),
            Origin::Adopted(None) => (self.find().await?, None),
        };
        self.streams.begin();
        let mut losses = 0;
        loop {
            let (why, heard) = match self.take_up(&mut link, command.as_ref()).await? {
                Ok(()) => match self.streams.pump(&self.env, &self.kill, link).await {
                    (Pumped::Exited(exit, sender), _) => return Ok((exit, sender)),
                    (Pumped::Hung, _) => return Err(Outcome::Cancelled),
                    (Pumped::Nonsense(why), heard) => (why, heard),
                    (Pumped::Lost(error), heard) => (error.to_string(), heard),
                },
                Err(error) => (error.to_string(), false),
            };
            losses = if heard { 1 } else { losses + 1 };
            tracing::debug!(attempt = %self.attempt, %why, losses, "the link to init broke");
            if losses > LINK_LOSSES_MAX {
                return Err(Outcome::WorkerLost(cut_message(format!("its init can't be spoken to: {why}"))));
            }
            link = match worker::reach(&*self.env.runtime, &self.worker).await {
                Ok(link) => link,
                Err(error) => return Err(self.why_gone(&error).await),
            };
        }
    }

    /// Reaches the worker of an adopted attempt.
    async fn find(&self) -> Result<Link, Outcome> {
        let reached = tokio::select! {
            biased;
            () = self.kill.cancelled() => return Err(Outcome::Cancelled),
            reached = worker::reach_patiently(&*self.env.runtime, &self.worker) => reached,
        };
        match reached {
            Ok(link) => Ok(link),
            Err(error) => Err(self.why_gone(&error).await),
        }
    }

    /// Makes the image and the worker.
    async fn begin(&self, assignment: Assignment) -> Result<(Link, RunCommand), Outcome> {
        let Assignment { command, spec, .. } = assignment;
        let image = self.prepare(&spec).await?;
        let run = run_command(self.attempt, command, &spec, &image);
        let worker = WorkerSpec { id: self.worker.clone(), image, run: spec };
        // Not to be interrupted: half a worker would be left.
        let connection = match self.env.runtime.create(&worker).await {
            Ok(connection) => connection,
            Err(WorkerError::Engine(why)) => return Err(Outcome::EngineLost(cut_message(why))),
            Err(WorkerError::Worker(why)) => return Err(Outcome::WorkerLost(cut_message(why))),
        };
        if self.kill.is_cancelled() {
            return Err(Outcome::Cancelled);
        }
        match worker::open(connection).await {
            Ok(link) => Ok((link, run)),
            Err(error) => Err(self.why_gone(&error).await),
        }
    }

    async fn prepare(&self, spec: &Arc<RunSpec>) -> Result<Arc<PreparedImage>, Outcome> {
        // A task of its own, so that others who wait for the same image are not disturbed when this one is killed.
        let (runtime, blobs, spec) = (self.env.runtime.clone(), self.env.blobs.clone(), spec.clone());
        let prepared = tokio::spawn(async move { runtime.prepare(&spec.image, &*blobs).await });
        tokio::select! {
            biased;
            () = self.kill.cancelled() => Err(Outcome::Cancelled),
            prepared = prepared => match prepared {
                Ok(Ok(image)) => Ok(image),
                Ok(Err(ImageError::Unavailable(why))) => Err(Outcome::ImageUnavailable(cut_message(why))),
                Ok(Err(ImageError::Engine(why))) => Err(Outcome::EngineLost(cut_message(why))),
                Err(error) => Err(Outcome::EngineLost(format!("preparing its image failed: {error}"))),
            },
        }
    }

    /// Begins on a new link: runs the command, or resumes what runs or has ended.
    async fn take_up(
        &mut self,
        link: &mut Link,
        command: Option<&RunCommand>,
    ) -> Result<Result<(), LinkError>, Outcome> {
        let resume = match (&link.state, command) {
            (InitState::Idle, Some(command))
                if self.streams.stdout.length() + self.streams.stderr.length() == 0 =>
            {
                if self.kill.is_cancelled() {
                    return Err(Outcome::Cancelled);
                }
                self.streams.stdin = self.feed(0);
                return match link.sender.run(command).await {
                    // The link is good; the command is longer than any kernel takes.
                    Err(LinkError::Frame(error)) => {
                        Err(Outcome::CouldNotStart(cut_message(error.to_string())))
                    }
                    result => Ok(result),
                };
            }
            (InitState::Running { attempt }, _) if *attempt == self.attempt.to_string() => {
                // What was sent to init and did not arrive is read again.
                self.streams.stdin = self.feed(link.sender.stdin_sent());
                true
            }
            (InitState::Ended { attempt }, _) => *attempt == self.attempt.to_string(),
            _ => false,
        };
        if !resume {
            let why = format!("its init is {:?}, not running this attempt", link.state);
            return Err(Outcome::WorkerLost(cut_message(why)));
        }
        Ok(link.sender.resume(self.streams.stdout.length(), self.streams.stderr.length()).await)
    }

    fn feed(&self, offset: u64) -> Option<Feed> {
        self.stdin.as_ref().map(|stdin| stdin.feed(&self.env, self.attempt, offset))
    }

    /// What became of a worker that can't be reached.
    async fn why_gone(&self, error: &Unreachable) -> Outcome {
        match self.env.runtime.why_gone(&self.worker).await {
            Gone::OutOfMemory => Outcome::OutOfMemory,
            Gone::Worker(why) => Outcome::WorkerLost(cut_message(format!("{why} ({error})"))),
            Gone::Engine(why) => Outcome::EngineLost(cut_message(format!("{why} ({error})"))),
        }
    }
}

/// An ending of which nothing else is known.
pub(super) fn lost(attempt: AttemptKey, outcome: Outcome) -> Report {
    let nothing = || Output::Inline(bytes::Bytes::new());
    Report { attempt, outcome, usage: Usage::default(), stdout: nothing(), stderr: nothing() }
}

fn run_command(
    attempt: AttemptKey,
    command: Vec<String>,
    spec: &RunSpec,
    image: &PreparedImage,
) -> RunCommand {
    let mut env: BTreeMap<String, String> = image.env.iter().cloned().collect();
    env.extend(spec.env.clone());
    RunCommand {
        attempt,
        command,
        env: env.into_iter().collect(),
        workdir: spec.workdir.clone().or_else(|| image.workdir.clone()),
        timeout: spec.timeout,
        output_bytes_max: spec.output_bytes_max,
        has_stdin: spec.stdin != StdinFrom::Nothing,
    }
}

/// Longest text of an ending for people, in bytes. A message with 512 reports stays below gRPC's limit with it.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Cuts a text for people.
fn cut_message(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    }
    message
}
