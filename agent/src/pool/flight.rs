//! One attempt, from when it is sent to its worker to its ending: what it prints, reads, and is killed by.

use crate::{
    attempt::{
        Env, Feed, Sink, Stdin, StdinItem,
        output::{Cut, Growing, OutputGap},
    },
    domain::{Assignment, AttemptKey, Outcome, Output, OutputStream, Report, RunSpec, StdinFrom, Usage},
    init_link::{InitExit, InitLink, LinkError, RunCommand},
    outbox::OutboxError,
};
use bytes::Bytes;
pub(super) use piecework_init::frame::cut_message;
use std::{path::Path, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between SIGTERM and SIGKILL, in seconds.
const KILL_GRACE_SECS: u64 = 5;

/// How long a killed attempt may take to end before its worker is given up, in seconds.
pub(super) const KILL_WAIT_SECS: u64 = 15;

/// When what an attempt prints can be followed, in milliseconds after it began.
const FOLLOW_AFTER_MILLIS: u64 = 300;

/// The attempt.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its run's number.
    pub(super) run: u64,
    pub(super) attempt: AttemptKey,
    /// None if an earlier process of the agent has sent it.
    pub(super) assignment: Option<Assignment>,
    /// When init was heard to have begun it.
    pub(super) begun: Option<Instant>,
    /// Made with its first byte.
    streams: Option<Box<Streams>>,
    stdin: Option<Feed>,
    /// Stdin can't be had: that is how it ends.
    stdin_failed: Option<String>,
    pub(super) kill: CancellationToken,
    /// When it was killed and did not end.
    hung_at: Option<Instant>,
    followed: bool,
}

#[derive(Debug)]
struct Streams {
    stdout: Sink,
    stderr: Sink,
}

impl Streams {
    fn of(&mut self, stream: OutputStream) -> &mut Sink {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

impl Flight {
    /// One that is about to be sent.
    pub(super) fn new(run: u64, assignment: Assignment, kill: CancellationToken) -> Self {
        let attempt = assignment.attempt;
        Self { assignment: Some(assignment), ..Self::bare(run, attempt, kill) }
    }

    fn bare(run: u64, attempt: AttemptKey, kill: CancellationToken) -> Self {
        Self {
            run,
            attempt,
            assignment: None,
            begun: None,
            streams: None,
            stdin: None,
            stdin_failed: None,
            kill,
            hung_at: None,
            followed: false,
        }
    }

    /// One that an earlier process of the agent has sent, and of which it may have kept some output.
    pub(super) async fn resume(
        env: &Env,
        run: u64,
        attempt: AttemptKey,
        kill: CancellationToken,
    ) -> Result<Self, OutboxError> {
        let mut flight = Self::bare(run, attempt, kill);
        let kill = &flight.kill;
        let (stdout, stderr) = env.resumed_sinks(attempt, kill).await?;
        flight.streams = Some(Box::new(Streams { stdout, stderr }));
        flight.begun = Some(Instant::now());
        Ok(flight)
    }

    /// What init is sent.
    pub(super) fn command(
        &self,
        run: &RunSpec,
        env: &[(String, String)],
        workdir: Option<&Path>,
    ) -> RunCommand {
        RunCommand {
            number: self.run,
            attempt: self.attempt,
            command: self
                .assignment
                .as_ref()
                .map(|assignment| assignment.command.clone())
                .unwrap_or_default(),
            env: env.to_vec(),
            workdir: workdir.map(Path::to_path_buf),
            timeout: run.timeout,
            output_bytes_max: run.output_bytes_max,
            has_stdin: run.stdin != StdinFrom::Nothing,
        }
    }

    fn streams(&mut self, env: &Env) -> &mut Streams {
        self.streams.get_or_insert_with(|| {
            let sink = |stream| env.sink(self.attempt, stream, &self.kill);
            Box::new(Streams { stdout: sink(OutputStream::Stdout), stderr: sink(OutputStream::Stderr) })
        })
    }

    /// How much came on both streams.
    pub(super) fn lengths(&self) -> [u64; 2] {
        self.streams.as_ref().map_or([0, 0], |streams| [streams.stdout.length(), streams.stderr.length()])
    }

    /// How much of it was acknowledged.
    pub(super) fn acked_lengths(&self) -> impl Iterator<Item = (OutputStream, u64)> {
        let streams = self.streams.iter();
        streams
            .flat_map(|streams| {
                [(OutputStream::Stdout, &streams.stdout), (OutputStream::Stderr, &streams.stderr)]
            })
            .filter_map(|(stream, sink)| Some((stream, sink.acked()?)))
    }

    /// init has begun it, and has so much of its stdin.
    pub(super) fn begin(&mut self, env: &Env, stdin_offset: u64) {
        self.begun.get_or_insert_with(Instant::now);
        let stdin = match &self.assignment {
            Some(assignment) => Stdin::of(assignment),
            // The coordinator knows what it was, and that it was none.
            None => Some(Stdin::Coordinator),
        };
        self.stdin = stdin.map(|stdin| stdin.feed(env, self.attempt, stdin_offset));
    }

    /// Takes some of its output. Tells what to acknowledge, if it is time.
    pub(super) async fn print(
        &mut self,
        env: &Env,
        stream: OutputStream,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Option<u64>, OutputGap> {
        let streams = self.streams(env);
        let sink = streams.of(stream);
        sink.append(offset, bytes).await?;
        if let Some(growing) = sink.newly_followed() {
            env.follow(growing);
        }
        Ok(sink.ack())
    }

    /// What it prints can't be kept: it is to be killed.
    pub(super) fn is_given_up(&self) -> bool {
        let given_up = |streams: &Streams| streams.stdout.is_given_up() || streams.stderr.is_given_up();
        self.streams.as_deref().is_some_and(given_up)
    }

    /// How much stdin it can be sent now; 0 if it gets none, or no more.
    pub(super) fn stdin_room(&self, link: &InitLink) -> u64 {
        self.stdin.as_ref().filter(|feed| feed.has_more()).map_or(0, |_| link.stdin_room(self.run))
    }

    /// The next of its stdin, when there is some. Cancel-safe.
    pub(super) async fn next_stdin(&mut self, room: u64) -> StdinItem {
        match &mut self.stdin {
            Some(feed) if room > 0 => feed.next(room).await,
            _ => std::future::pending().await,
        }
    }

    /// Hands stdin on.
    pub(super) fn feed(&mut self, item: StdinItem, link: &mut InitLink) -> Result<(), LinkError> {
        match item {
            StdinItem::Bytes(bytes) => link.stdin(self.run, &bytes)?,
            StdinItem::End => link.close_stdin(self.run),
            StdinItem::Failed(error) => {
                self.stdin_failed = Some(error.to_string());
                self.kill(link);
            }
        }
        Ok(())
    }

    /// Kills it, once.
    pub(super) fn kill(&mut self, link: &mut InitLink) {
        if self.hung_at.is_none() {
            self.hung_at = Some(Instant::now() + Duration::from_secs(KILL_WAIT_SECS));
            self.kill.cancel();
            link.kill(self.run, Duration::from_secs(KILL_GRACE_SECS));
        }
    }

    /// On a new link: what it had not heard may have been the kill.
    pub(super) fn kill_again(&self, link: &mut InitLink) {
        if self.is_killed() {
            link.kill(self.run, Duration::from_secs(KILL_GRACE_SECS));
        }
    }

    pub(super) fn is_killed(&self) -> bool {
        self.kill.is_cancelled()
    }

    /// Whether it was killed long ago and goes on.
    pub(super) fn hangs(&self, now: Instant) -> bool {
        self.hung_at.is_some_and(|at| at <= now)
    }

    /// Lets it be followed once it has run for a while.
    pub(super) async fn follow_if_long(&mut self, env: &Env, now: Instant) {
        let long = self
            .begun
            .is_some_and(|begun| now.duration_since(begun) >= Duration::from_millis(FOLLOW_AFTER_MILLIS));
        if self.followed || !long {
            return;
        }
        self.followed = true;
        let streams = self.streams(env);
        for sink in [&mut streams.stdout, &mut streams.stderr] {
            sink.follow().await;
            if let Some(growing) = sink.newly_followed() {
                env.follow(growing);
            }
        }
    }

    /// Its ending, in which way init says.
    pub(super) async fn exited(self, exit: InitExit) -> Result<Report, (Self, String)> {
        let got = self.lengths();
        let said = [exit.stdout_length, exit.stderr_length];
        if got != said {
            let why = format!("it printed {said:?} bytes, of which {got:?} came");
            return Err((self, why));
        }
        Ok(self.ended(exit.outcome, exit.usage).await)
    }

    /// Its ending, of which init says nothing.
    pub(super) async fn lost(self, outcome: Outcome) -> Report {
        self.ended(outcome, Usage::default()).await
    }

    async fn ended(self, outcome: Outcome, usage: Usage) -> Report {
        let nothing = || Output::Inline(Bytes::new());
        let (stdout, stderr, cut) = match self.streams {
            None => (nothing(), nothing(), None),
            Some(streams) => {
                let (stdout, stderr) = (streams.stdout.finish().await, streams.stderr.finish().await);
                let cut = match (stdout.cut, stderr.cut) {
                    // The other one is cut because it was killed for this.
                    (Some(Cut::GivenUp(why)), _) | (_, Some(Cut::GivenUp(why))) => Some(Cut::GivenUp(why)),
                    (stdout, stderr) => stdout.or(stderr),
                };
                (stdout.output, stderr.output, cut)
            }
        };
        // Without all of its output, no other ending is true.
        let outcome = match cut {
            None => outcome,
            Some(Cut::Killed) => Outcome::Cancelled,
            Some(Cut::GivenUp(why)) => {
                Outcome::WorkerLost(cut_message(format!("what it printed can't be kept: {why}")))
            }
        };
        let outcome = match (outcome, self.stdin_failed) {
            // That is why it was killed.
            (Outcome::Cancelled, Some(why)) => Outcome::WorkerLost(cut_message(why)),
            (outcome, _) => outcome,
        };
        Report { attempt: self.attempt, outcome, usage, stdout, stderr }
    }
}

/// Says that its output can be followed; a courtesy, which never makes an attempt wait.
impl Env {
    fn follow(&self, growing: Growing) {
        if let Err(error) = self.follows.try_send(growing) {
            tracing::debug!(%error, "an output is not followed");
        }
    }
}
