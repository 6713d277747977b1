//! The loop: one thread waits for the agent, for children and for pipes, and does what each calls for. Nothing in it
//! waits for anything else.

use crate::{
    attempt::{Attempt, Host, Source},
    frame::{Event, Request, cut_message},
    guard::{Guard, Stain},
    link::{Closed, Link},
    reap::{self, Collected},
    runs::Runs,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        socket::{getsockopt, sockopt::PeerCredentials},
        time::TimeSpec,
    },
    unistd::geteuid,
};
use std::{
    io,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

/// How long to wait for processes to vanish when init itself is told to end.
const STOP_SECS_MAX: u64 = 2;

/// An init that listens.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    signals: SignalFd,
    host: Host,
    /// None if the worker is not used again, or not by strangers to each other.
    guard: Option<Guard>,
    link: Option<Link>,
    runs: Runs,
    /// Children may have ended that were not collected yet.
    collects: bool,
}

/// How many children are collected before everything else has its turn: a task can have them end as fast as they are.
const COLLECTED_MAX: usize = 64;

#[derive(Clone, Copy)]
enum Waited {
    Signals,
    Listener,
    Link,
    Attempt(Source),
}

/// Most that is ever waited for at once.
const WAITED_MAX: usize = 8;

impl Server {
    pub(crate) fn new(listener: UnixListener, guard: Option<Guard>, host: Host) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mask = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { listener, signals, host, guard, link: None, runs: Runs::default(), collects: false })
    }

    /// Serves until it is told to end by SIGTERM or SIGINT; then everything below it is killed.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(WAITED_MAX);
        loop {
            self.wait(&mut ready)?;
            for waited in ready.drain(..) {
                match waited {
                    Waited::Signals => {
                        if self.take_signals() {
                            self.end();
                            return Ok(());
                        }
                    }
                    Waited::Listener => self.accept(),
                    Waited::Link => self.receive(),
                    Waited::Attempt(source) => {
                        if let Some(attempt) = self.runs.current_mut() {
                            attempt.ready(source, &self.host);
                        }
                    }
                }
            }
            if self.collects {
                self.collect();
            }
            let now = Instant::now();
            if let Some(attempt) = self.runs.current_mut() {
                attempt.tick(&self.host, now);
                if attempt.is_stuck(now) {
                    self.cleared();
                    let stain = self.guard.as_mut().map(|guard| guard.spend(Stain::Process));
                    self.spent(stain);
                }
            }
            let stain = self.guard.as_mut().and_then(|guard| guard.advance(now));
            self.spent(stain);
            let may_begin = self.guard.as_ref().is_none_or(Guard::is_clean);
            if let Some(link) = &mut self.link {
                while may_begin && link.follows() && self.runs.begin(&mut self.host, now) {}
                if let Err(Closed) = link.advance(&mut self.runs, now) {
                    self.link = None;
                }
            }
        }
    }

    fn wait(&self, ready: &mut Vec<Waited>) -> io::Result<()> {
        let mut waited = Vec::with_capacity(WAITED_MAX);
        let mut fds = Vec::with_capacity(WAITED_MAX);
        waited.push(Waited::Signals);
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        if let Some(link) = &self.link {
            let write = if link.is_blocked() { PollFlags::POLLOUT } else { PollFlags::empty() };
            waited.push(Waited::Link);
            fds.push(PollFd::new(link.socket(), PollFlags::POLLIN | write));
        }
        // After the connection, so that the last words of one that is replaced are heard.
        waited.push(Waited::Listener);
        fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        for (source, fd) in self.runs.current().into_iter().flat_map(Attempt::sources) {
            waited.push(Waited::Attempt(source));
            let flags = if source == Source::Stdin { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(fd, flags));
        }
        let due = [
            self.runs.current().and_then(Attempt::wake_at),
            self.link.as_ref().and_then(|link| link.write_at(&self.runs)),
            self.guard.as_ref().and_then(Guard::wake_at),
        ];
        let due = if self.collects { [Some(Instant::now()), None, None] } else { due };
        let timeout = due
            .into_iter()
            .flatten()
            .min()
            .map(|at| TimeSpec::from_duration(at.saturating_duration_since(Instant::now())));
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        ready.extend(waited.into_iter().zip(&fds).filter(|(_, fd)| is_ready(fd)).map(|(waited, _)| waited));
        Ok(())
    }

    /// Takes one signal: what is left wakes init again. Tells whether init is to end.
    fn take_signals(&mut self) -> bool {
        let Some(signal) = self.signals.read_signal().ok().flatten() else { return false };
        if signal.ssi_signo == Signal::SIGCHLD as u32 {
            self.collects = true;
            return false;
        }
        // As PID 1, init is not ended by those that it serves: who is outside of its pid namespace shows as pid 0.
        !self.host.is_pid_1 || signal.ssi_pid == 0
    }

    /// Collects children that ended.
    fn collect(&mut self) {
        self.collects = false;
        for _ in 0..COLLECTED_MAX {
            match reap::collect() {
                Collected::One(child) => {
                    let now = Instant::now();
                    if !self.guard.as_mut().is_some_and(|guard| guard.collected(child.pid, now))
                        && let Some(attempt) = self.runs.current_mut()
                    {
                        attempt.collected(&child, &self.host, now);
                    }
                }
                Collected::NoneYet => return,
                Collected::NoChildren => return self.cleared(),
            }
        }
        self.collects = true;
    }

    /// Of the run that is ending, no process is left, or none that can be ended.
    fn cleared(&mut self) {
        let Some(attempt) = self.runs.current_mut().filter(|attempt| attempt.is_clearing()) else { return };
        attempt.cleared(self.host.take_counts());
        if let Some(guard) = &mut self.guard {
            guard.ran();
        }
    }

    /// The worker takes no more runs, and what waited never begins.
    fn spent(&mut self, stain: Option<Stain>) {
        let Some(stain) = stain else { return };
        let why = cut_message(stain.to_string());
        let from = self.runs.spend(why.clone());
        if let Some(link) = &mut self.link {
            link.say(&Event::Recalled { from });
            link.say(&Event::Spent(why));
        }
    }

    /// Takes a connection that waits; it replaces the one that is there.
    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        if self.is_agent(&socket) {
            self.link = Link::new(socket, &mut self.runs).ok();
        }
    }

    /// As PID 1, init has the agent outside of its pid namespace, so that the agent's pid shows as 0, and that of any
    /// task does not. Elsewhere the directory's mode guards the socket, and the user is looked at once more.
    fn is_agent(&self, socket: &UnixStream) -> bool {
        getsockopt(socket, PeerCredentials).is_ok_and(|peer| {
            if self.host.is_pid_1 {
                peer.pid() == 0
            } else {
                peer.uid() == 0 || peer.uid() == geteuid().as_raw()
            }
        })
    }

    fn receive(&mut self) {
        let Some(link) = &mut self.link else { return };
        if let Err(Closed) = link.receive() {
            self.link = None;
            return;
        }
        while let Some(link) = &mut self.link {
            let outcome = match link.request() {
                Ok(None) => return,
                Ok(Some(request)) => self.handle(request),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = outcome
                && let Some(link) = self.link.take()
            {
                link.refuse(why);
            }
        }
    }

    /// Does what a request asks for, or says why it can't be.
    fn handle(&mut self, request: Request) -> Result<(), String> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let runs = &mut self.runs;
        match request {
            Request::Run(run) => {
                let number = run.number;
                if !runs.take(run)? {
                    link.say(&Event::Recalled { from: number });
                } else if link.follows() && self.guard.as_ref().is_none_or(Guard::is_clean) {
                    // At once, if it is its turn, so that its stdin may come right behind it.
                    runs.begin(&mut self.host, Instant::now());
                }
            }
            Request::Resume(offsets) => {
                link.may_resume()?;
                runs.resume(&offsets)?;
                link.follow();
            }
            Request::Ack { run, stream, offset } => runs.acknowledge(run, stream, offset)?,
            Request::Stdin { run, bytes } => runs.stdin(run, &bytes)?,
            Request::CloseStdin { run } => runs.close_stdin(run)?,
            Request::Kill { run, grace } => runs.kill(run, grace, &self.host, Instant::now())?,
            Request::Recall { from } => {
                let from = runs.recall(from);
                link.say(&Event::Recalled { from });
            }
            Request::Release { through } => runs.release(through),
        }
        if runs.is_empty() {
            // An agent that wants nothing of what was held need not resume it.
            link.follow();
        }
        Ok(())
    }

    fn end(&self) {
        let give_up = Instant::now() + Duration::from_secs(STOP_SECS_MAX);
        while Instant::now() < give_up {
            reap::kill_everything(self.host.is_pid_1);
            loop {
                match reap::collect() {
                    Collected::One(_) => {}
                    Collected::NoneYet => break,
                    Collected::NoChildren => return,
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
