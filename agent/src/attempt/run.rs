//! One attempt, from its start or its adoption to its ending.

use super::{
    Env,
    output::{OutputGap, Sink},
    stdin::{Feed, StdinItem},
    worker::{self, Link, Unreachable},
};
use crate::{
    domain::{Assignment, AttemptKey, Outcome, Output, OutputStream, Phase, Report, RunSpec, Usage},
    init_link::{InitEvent, InitExit, InitSender, InitState, LinkError, RunCommand},
    runtime::{Gone, ImageError, PreparedImage, WorkerError, WorkerId, WorkerSpec},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Between SIGTERM and SIGKILL, in seconds.
const KILL_GRACE_SECS: u64 = 5;

/// How long a killed attempt may take to end before its worker is given up, in seconds.
const KILL_WAIT_SECS: u64 = 15;

/// How often in a row a link may break without anything heard over it, in times.
const LINK_LOSSES_MAX: u32 = 3;

/// When what an attempt prints can be followed, in milliseconds after it began.
const FOLLOW_AFTER_MILLIS: u64 = 300;

/// What an attempt begins with.
pub(super) enum Origin {
    /// It is to be started.
    Start(Assignment),
    /// An earlier process of the agent started it.
    Adopted(Box<Link>),
}

/// How the events of one link ended.
enum Pumped {
    Exited(InitExit),
    Lost(LinkError),
    /// What came over the link makes no sense.
    Nonsense(String),
    /// It was killed, and did not end.
    Hung,
}

/// An attempt that runs.
pub(super) struct Run {
    env: Arc<Env>,
    attempt: AttemptKey,
    worker: WorkerId,
    kill: CancellationToken,
    stdout: Sink,
    stderr: Sink,
    stdin: Option<Feed>,
    /// Stdin can't be had: that is how it ends.
    stdin_failed: Option<String>,
    /// When it can be followed; none once both outputs are, or before it began.
    follow_at: Option<Instant>,
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
            Origin::Start(_) => {
                Ok((env.sink(attempt, OutputStream::Stdout), env.sink(attempt, OutputStream::Stderr)))
            }
            Origin::Adopted(_) => env.resumed_sinks(attempt).await,
        };
        let (stdout, stderr) = match sinks {
            Ok(sinks) => sinks,
            Err(error) => {
                let why = format!("what it printed before the agent restarted can't be read: {error}");
                return (lost(attempt, Outcome::WorkerLost(cut_message(why))), None);
            }
        };
        let worker = env.names.worker(attempt);
        let mut run = Self {
            env,
            attempt,
            worker,
            kill,
            stdout,
            stderr,
            stdin: None,
            stdin_failed: None,
            follow_at: None,
        };
        let (outcome, usage, sender) = match run.drive(origin).await {
            Ok((exit, sender)) => (exit.outcome, exit.usage, Some(sender)),
            Err(outcome) => (outcome, Usage::default(), None),
        };
        let outcome = match run.stdin_failed {
            Some(why) => Outcome::WorkerLost(cut_message(why)),
            None => outcome,
        };
        let report = Report {
            attempt,
            outcome,
            usage,
            stdout: run.stdout.finish().await,
            stderr: run.stderr.finish().await,
        };
        (report, sender)
    }

    /// Follows it over as many links as it takes.
    async fn drive(&mut self, origin: Origin) -> Result<(InitExit, InitSender), Outcome> {
        let (mut link, command) = match origin {
            Origin::Start(assignment) => {
                let (link, command) = self.begin(assignment).await?;
                (link, Some(command))
            }
            Origin::Adopted(link) => (*link, None),
        };
        self.follow_at = Some(Instant::now() + Duration::from_millis(FOLLOW_AFTER_MILLIS));
        let mut losses = 0;
        loop {
            let mut heard = false;
            let why = match self.take_up(&mut link, command.as_ref()).await? {
                Ok(()) => match self.pump(&mut link, &mut heard).await {
                    Pumped::Exited(exit) => return Ok((exit, link.sender)),
                    Pumped::Hung => return Err(Outcome::Cancelled),
                    Pumped::Nonsense(why) => why,
                    Pumped::Lost(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
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
            (InitState::Idle, Some(command)) if self.stdout.length() + self.stderr.length() == 0 => {
                if self.kill.is_cancelled() {
                    return Err(Outcome::Cancelled);
                }
                self.stdin = None;
                if command.has_stdin {
                    self.stdin = Some(Feed::begin(&*self.env.stdin, self.attempt, 0));
                }
                return match link.sender.run(command).await {
                    // The link is good; the command is longer than any kernel takes.
                    Err(LinkError::Frame(error)) => {
                        Err(Outcome::CouldNotStart(cut_message(error.to_string())))
                    }
                    result => Ok(result),
                };
            }
            (InitState::Running { attempt }, _) if *attempt == self.attempt.to_string() => {
                // What was sent to init and did not arrive is read from the coordinator again.
                let has_stdin =
                    command.map_or(self.attempt.phase == Phase::Reassemble, |command| command.has_stdin);
                let offset = link.sender.stdin_sent();
                self.stdin = has_stdin.then(|| Feed::begin(&*self.env.stdin, self.attempt, offset));
                true
            }
            (InitState::Ended { attempt }, _) => *attempt == self.attempt.to_string(),
            _ => false,
        };
        if !resume {
            let why = format!("its init is {:?}, not running this attempt", link.state);
            return Err(Outcome::WorkerLost(cut_message(why)));
        }
        Ok(link.sender.resume(self.stdout.length(), self.stderr.length()).await)
    }

    /// Takes the events of one link.
    async fn pump(&mut self, link: &mut Link, heard: &mut bool) -> Pumped {
        let mut killed: Option<Instant> = None;
        loop {
            let room = link.sender.stdin_room();
            let feed = self.stdin.as_mut().filter(|feed| room > 0 && feed.has_more());
            let result = tokio::select! {
                () = self.kill.cancelled(), if killed.is_none() => {
                    killed = Some(Instant::now() + Duration::from_secs(KILL_WAIT_SECS));
                    link.sender.kill(Duration::from_secs(KILL_GRACE_SECS)).await
                }
                () = sleep_until_some(killed) => return Pumped::Hung,
                () = sleep_until_some(self.follow_at) => {
                    self.follow().await;
                    Ok(())
                }
                event = link.receiver.next() => match event {
                    Ok(InitEvent::Exited(exit)) => return self.exited(exit),
                    Ok(event) => {
                        *heard = true;
                        match self.take(event, &mut link.sender).await {
                            Ok(sent) => sent,
                            Err(gap) => return Pumped::Nonsense(gap.to_string()),
                        }
                    }
                    Err(error) => Err(error),
                },
                item = next_stdin(feed, room) => {
                    match item {
                        StdinItem::Bytes(bytes) => link.sender.stdin(bytes).await,
                        StdinItem::End => link.sender.close_stdin().await,
                        StdinItem::Failed(error) => {
                            self.stdin_failed = Some(error.to_string());
                            self.kill.cancel();
                            Ok(())
                        }
                    }
                }
            };
            if let Err(error) = result {
                return Pumped::Lost(error);
            }
        }
    }

    /// Takes one event. The outer error is init's fault, the inner one the link's.
    async fn take(
        &mut self,
        event: InitEvent,
        sender: &mut InitSender,
    ) -> Result<Result<(), LinkError>, OutputGap> {
        match event {
            InitEvent::Output { stream, offset, bytes } => {
                let sink = match stream {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                sink.append(offset, bytes).await?;
                let ack = sink.ack();
                if let Some(growing) = sink.newly_followed() {
                    self.env.follow(growing);
                }
                if let Some(offset) = ack {
                    return Ok(sender.ack(stream, offset).await);
                }
            }
            InitEvent::Started | InitEvent::StdinWritten { .. } | InitEvent::Exited(_) => {}
        }
        Ok(Ok(()))
    }

    fn exited(&self, exit: InitExit) -> Pumped {
        let got = (self.stdout.length(), self.stderr.length());
        if got == (exit.stdout_length, exit.stderr_length) {
            Pumped::Exited(exit)
        } else {
            Pumped::Nonsense(format!(
                "it printed {} and {} bytes, of which {} and {} came",
                exit.stdout_length, exit.stderr_length, got.0, got.1
            ))
        }
    }

    async fn follow(&mut self) {
        self.follow_at = None;
        for sink in [&mut self.stdout, &mut self.stderr] {
            sink.follow().await;
            if let Some(growing) = sink.newly_followed() {
                self.env.follow(growing);
            }
        }
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
        has_stdin: spec.has_input,
    }
}

async fn next_stdin(feed: Option<&mut Feed>, room: u64) -> StdinItem {
    match feed {
        Some(feed) => feed.next(room).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
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
