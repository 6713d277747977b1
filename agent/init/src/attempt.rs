//! One attempt, from its command to its exit.
//!
//! ```text
//! Running ──leader exits──▶ Clearing ──no process is left──▶ Draining ──both pipes are read──▶ Ended
//!    └── could not be started ─────────────────────────────────────────────────────────────────▲
//! ```
//!
//! While Running it can be stopped: by its timeout, by the agent, or because it printed too much. The reason for that
//! becomes its outcome, however the leader then ends. In Clearing, what the leader left behind is killed, so nobody holds
//! the pipes open for long. Draining reads what is in the pipes, as far as there is room; it waits for nobody else.

use crate::{
    buffer::{OutOfRange, Unacked},
    counters::{Counters, Counts},
    frame::{Exit, HeldState, Outcome, Run, Stream, Usage, cut_message},
    output::{Output, Read},
    reap::{self, Ending, Reaped},
    spawn::Spawner,
    stdin::Stdin,
};
use nix::{sys::signal::Signal, unistd::Pid};
use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    time::{Duration, Instant},
};

/// How long after SIGTERM a task that is over its time is killed.
const TIMEOUT_GRACE_SECS: u64 = 2;

/// How long a run is young: most short ones end within this time. Until then its output is left in the pipes, so that init
/// wakes up once for a short run and not for each of its writes.
const YOUNG_MICROS: u64 = 2_000;

/// How often SIGKILL is repeated while something is left.
const KILL_AGAIN_MILLIS: u64 = 10;

/// How long to wait for killed processes to vanish. One that hangs in the kernel is left to the end of the worker.
const CLEAR_SECS_MAX: u64 = 5;

/// What never changes in this init.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) is_pid_1: bool,
    pub(crate) spawner: Spawner,
    pub(crate) counters: Counters,
    /// How far they were when the last run ended.
    pub(crate) counts: Counts,
    /// The file that says which run was begun last.
    pub(crate) begun: File,
}

impl Host {
    /// How the counts have gone up since the last call.
    pub(crate) fn take_counts(&mut self) -> Counts {
        let before = std::mem::replace(&mut self.counts, self.counters.read());
        self.counts.since(before)
    }

    /// Writes down that a run begins. The file outlives the worker, so that nobody need guess what has begun in it.
    fn note_begun(&self, number: u64) -> Result<(), String> {
        let written = self.begun.write_all_at(&number.to_le_bytes(), 0);
        written.map_err(|error| format!("it can't be noted that the run begins: {error}"))
    }
}

/// The attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    name: String,
    phase: Phase,
    outputs: [Output; 2],
    output_bytes_left: u64,
    stdin: Stdin,
    /// The command was executed.
    started: bool,
    usage: Usage,
}

#[derive(Debug)]
enum Phase {
    Running(Running),
    Clearing { outcome: Outcome, again: Instant, give_up: Instant },
    Draining { outcome: Outcome },
    Ended(Exit),
}

#[derive(Debug)]
struct Running {
    leader: Pid,
    since: Instant,
    /// See [`YOUNG_MICROS`].
    young: bool,
    deadline: Option<Instant>,
    stop: Option<Stop>,
}

#[derive(Debug)]
struct Stop {
    outcome: Outcome,
    /// When to kill; none if that was long ago.
    kill_at: Instant,
}

/// What of an attempt can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdin,
    Output(Stream),
}

impl Attempt {
    /// Starts it. If that fails, it has ended.
    pub(crate) fn start(run: Run, host: &mut Host, now: Instant) -> Self {
        let spawned = host.note_begun(run.number).and_then(|()| host.spawner.spawn(&run));
        let started = spawned.is_ok();
        let (phase, pipes, stdin) = match spawned {
            Ok(spawned) => {
                let running = Running {
                    leader: spawned.leader,
                    since: now,
                    young: true,
                    deadline: run.timeout.and_then(|timeout| now.checked_add(timeout)),
                    stop: None,
                };
                (Phase::Running(running), [Some(spawned.stdout), Some(spawned.stderr)], spawned.stdin)
            }
            Err(why) => {
                (Phase::Draining { outcome: Outcome::CouldNotStart(cut_message(why)) }, [None, None], None)
            }
        };
        let mut attempt = Self {
            name: run.attempt,
            phase,
            outputs: pipes.map(Output::new),
            output_bytes_left: run.output_bytes_max,
            stdin: Stdin::new(stdin, run.has_stdin),
            started,
            usage: Usage::default(),
        };
        attempt.drain();
        attempt
    }

    /// One that was cancelled before its turn, and never starts.
    pub(crate) fn cancelled(name: String) -> Self {
        let mut attempt = Self {
            name,
            phase: Phase::Draining { outcome: Outcome::Cancelled },
            outputs: [None, None].map(Output::new),
            output_bytes_left: 0,
            stdin: Stdin::default(),
            started: false,
            usage: Usage::default(),
        };
        attempt.drain();
        attempt
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn state(&self) -> HeldState {
        if self.exit().is_some() {
            return HeldState::Ended;
        }
        let (stdin_bytes, stdin_waiting_bytes) = self.stdin.progress();
        HeldState::Running { stdin_bytes, stdin_waiting_bytes }
    }

    /// Whether it has just begun, and may end as soon.
    pub(crate) fn is_young(&self) -> bool {
        matches!(&self.phase, Phase::Running(Running { young: true, .. }) | Phase::Clearing { .. })
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    /// How it ended, when all is over.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        match &self.phase {
            Phase::Ended(exit) => Some(exit),
            _ => None,
        }
    }

    pub(crate) fn output(&self, stream: Stream) -> &Unacked {
        &self.outputs[stream.index()].kept
    }

    pub(crate) fn stdin(&mut self) -> &mut Stdin {
        &mut self.stdin
    }

    /// The agent has everything before the offset.
    pub(crate) fn acknowledge(&mut self, stream: Stream, offset: u64) -> Result<(), OutOfRange> {
        self.outputs[stream.index()].kept.forget_before(offset)?;
        self.drain();
        Ok(())
    }

    /// What to wait for, and whether to write to it. A pipe without room for its bytes is not waited for: that is the
    /// back-pressure, and the end of its writers would wake init again and again.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        let reading = match &self.phase {
            Phase::Running(running) => !running.young,
            Phase::Clearing { .. } => true,
            Phase::Draining { .. } | Phase::Ended(_) => false,
        };
        let outputs = Stream::ALL.into_iter().filter(move |_| reading).filter_map(|stream| {
            let output = &self.outputs[stream.index()];
            let pipe = output.pipe.as_ref().filter(|_| self.discards() || output.kept.room() > 0)?;
            Some((Source::Output(stream), pipe.as_fd()))
        });
        let stdin = self.stdin.wants_to_write().map(|stdin| (Source::Stdin, stdin.as_fd()));
        stdin.into_iter().chain(outputs)
    }

    /// Something that was waited for is there.
    pub(crate) fn ready(&mut self, source: Source, host: &Host) {
        match source {
            Source::Stdin => self.stdin.advance(),
            Source::Output(stream) => {
                if self.read_output(stream) == Read::OverLimit {
                    self.over_limit(host);
                }
            }
        }
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running(running) => {
                let grown_up = running.young.then(|| running.since + Duration::from_micros(YOUNG_MICROS));
                let due = running.stop.as_ref().map(|stop| stop.kill_at).or(running.deadline);
                grown_up.into_iter().chain(due).min()
            }
            Phase::Clearing { again, .. } => Some(*again),
            Phase::Draining { .. } | Phase::Ended(_) => None,
        }
    }

    /// Does what the time calls for.
    pub(crate) fn tick(&mut self, host: &Host, now: Instant) {
        match &mut self.phase {
            Phase::Running(running) => {
                running.young &= now < running.since + Duration::from_micros(YOUNG_MICROS);
                match &mut running.stop {
                    Some(stop) if stop.kill_at <= now => {
                        stop.kill_at = now + Duration::from_millis(KILL_AGAIN_MILLIS);
                        reap::kill_everything(host.is_pid_1);
                    }
                    None if running.deadline.is_some_and(|deadline| deadline <= now) => {
                        self.stop(Outcome::TimedOut, Duration::from_secs(TIMEOUT_GRACE_SECS), host, now);
                    }
                    _ => {}
                }
            }
            Phase::Clearing { again, .. } if *again <= now => {
                *again = now + Duration::from_millis(KILL_AGAIN_MILLIS);
                reap::kill_everything(host.is_pid_1);
            }
            _ => {}
        }
    }

    /// SIGTERM now and SIGKILL after the grace, unless the leader has ended. The first reason counts, the shortest
    /// grace too.
    pub(crate) fn stop(&mut self, outcome: Outcome, grace: Duration, host: &Host, now: Instant) {
        let Phase::Running(running) = &mut self.phase else { return };
        let kill_at = now.checked_add(grace).unwrap_or(now);
        let stop = running.stop.get_or_insert(Stop { outcome, kill_at });
        stop.kill_at = stop.kill_at.min(kill_at);
        if grace.is_zero() {
            self.tick(host, now);
        } else {
            // A process that is stopped would not see it.
            reap::signal_group(running.leader, Signal::SIGTERM);
            reap::signal_group(running.leader, Signal::SIGCONT);
        }
    }

    /// A child ended: the leader, or one that was left to init.
    pub(crate) fn collected(&mut self, child: &Reaped, host: &Host, now: Instant) {
        reap::add(&mut self.usage, &child.usage);
        let Phase::Running(running) = &self.phase else { return };
        if running.leader != child.pid {
            return;
        }
        let Phase::Running(running) = &mut self.phase else { return };
        self.usage.wall_micros = u64::try_from((now - running.since).as_micros()).unwrap_or(u64::MAX);
        let outcome = match (running.stop.take(), child.ending) {
            (Some(stop), _) => stop.outcome,
            (None, Ending::Exited(0)) => Outcome::Exited(0),
            (None, ending) => failure(ending, host.counters.read().since(host.counts)),
        };
        self.stdin.abandon();
        self.phase =
            Phase::Clearing { outcome, again: now, give_up: now + Duration::from_secs(CLEAR_SECS_MAX) };
    }

    /// Its processes are being ended.
    pub(crate) fn is_clearing(&self) -> bool {
        matches!(self.phase, Phase::Clearing { .. })
    }

    /// Nothing is left of its processes, or what is can't be ended. The kernel has refused it memory or processes this
    /// often.
    pub(crate) fn cleared(&mut self, counts: Counts) {
        let Phase::Clearing { outcome, .. } = &self.phase else { return };
        let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
        self.usage.oom_kills = number(counts.oom_kills);
        self.usage.pids_refused = number(counts.pids_refused);
        self.phase = Phase::Draining { outcome: outcome.clone() };
        self.drain();
    }

    /// Whether some of its processes can't be ended.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        matches!(&self.phase, Phase::Clearing { give_up, .. } if *give_up <= now)
    }

    /// Reads the rest of both pipes as far as there is room, and ends the attempt when that is all.
    fn drain(&mut self) {
        if !matches!(self.phase, Phase::Draining { .. }) {
            return;
        }
        for stream in Stream::ALL {
            loop {
                match self.read_output(stream) {
                    Read::Some => {}
                    // Whoever still holds the other end has nothing to do with the attempt, or hangs in the kernel.
                    Read::NothingYet | Read::End => {
                        self.outputs[stream.index()].pipe = None;
                        break;
                    }
                    Read::NoRoom => break,
                    Read::OverLimit => self.mark_over_limit(),
                }
            }
        }
        if let Phase::Draining { outcome } = &self.phase
            && self.outputs.iter().all(|output| output.pipe.is_none())
        {
            let [stdout_length, stderr_length] = [0, 1].map(|index: usize| self.outputs[index].kept.end());
            let outcome = outcome.clone();
            self.phase = Phase::Ended(Exit { outcome, usage: self.usage, stdout_length, stderr_length });
        }
    }

    fn over_limit(&mut self, host: &Host) {
        self.stop(Outcome::OutputLimit, Duration::ZERO, host, Instant::now());
        self.mark_over_limit();
    }

    /// Output that is cut is no success, even if the leader ended well before that was seen.
    fn mark_over_limit(&mut self) {
        if let Phase::Clearing { outcome, .. } | Phase::Draining { outcome } = &mut self.phase
            && matches!(outcome, Outcome::Exited(_) | Outcome::Signaled(_))
        {
            *outcome = Outcome::OutputLimit;
        }
    }

    /// Whether what comes now is thrown away: the limit is used up, and known to be passed.
    fn discards(&self) -> bool {
        match &self.phase {
            Phase::Running(Running { stop: Some(Stop { outcome, .. }), .. })
            | Phase::Clearing { outcome, .. }
            | Phase::Draining { outcome } => *outcome == Outcome::OutputLimit,
            _ => false,
        }
    }

    fn read_output(&mut self, stream: Stream) -> Read {
        let discards = self.discards();
        self.outputs[stream.index()].read(&mut self.output_bytes_left, discards)
    }
}

/// What the end of a leader that failed by itself means.
fn failure(ending: Ending, counts: Counts) -> Outcome {
    match ending {
        Ending::Signaled(libc::SIGKILL) if counts.oom_kills > 0 => Outcome::OutOfMemory,
        _ if counts.pids_refused > 0 => Outcome::PidsLimit,
        Ending::Signaled(signal) => Outcome::Signaled(signal),
        Ending::Exited(code) => Outcome::Exited(code),
    }
}
