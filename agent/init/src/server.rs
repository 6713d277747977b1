//! The loop: one thread waits for the agent, for children and for pipes, and does what each calls for. Nothing in it
//! waits for anything else.

use crate::{
    attempt::{Attempt, Host, Source},
    frame::{Outcome, Request, Run, State},
    link::{Closed, Link},
    reap::{self, Collected},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        socket::{getsockopt, sockopt::PeerCredentials},
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

/// Longest name of an attempt.
const ATTEMPT_NAME_BYTES_MAX: usize = 256;

/// How long to wait for processes to vanish when init itself is told to end.
const STOP_SECS_MAX: u64 = 2;

/// An init that listens.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    signals: SignalFd,
    host: Host,
    link: Option<Link>,
    attempt: Option<Attempt>,
}

#[derive(Clone, Copy)]
enum Waited {
    Signals,
    Listener,
    Link,
    Attempt(Source),
}

impl Server {
    pub(crate) fn new(listener: UnixListener, host: Host) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mask = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { listener, signals, host, link: None, attempt: None })
    }

    /// Serves until it is told to end by SIGTERM or SIGINT; then everything below it is killed.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        loop {
            for waited in self.wait()? {
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
                        if let Some(attempt) = &mut self.attempt {
                            attempt.ready(source, &self.host);
                        }
                    }
                }
            }
            if let Some(attempt) = &mut self.attempt {
                attempt.tick(&self.host, Instant::now());
            }
            if let Some(link) = &mut self.link
                && let Err(Closed) = link.advance(self.attempt.as_mut())
            {
                self.link = None;
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<Waited>> {
        let mut waited = vec![Waited::Signals];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let socket = self.link.as_ref().map(|link| (link.socket(), link.wants_to_write()));
        if let Some((socket, wants_to_write)) = &socket {
            let write = if *wants_to_write { PollFlags::POLLOUT } else { PollFlags::empty() };
            waited.push(Waited::Link);
            fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN | write));
        }
        // After the connection, so that the last words of one that is replaced are heard.
        waited.push(Waited::Listener);
        fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        for (source, fd) in self.attempt.iter().flat_map(Attempt::sources) {
            waited.push(Waited::Attempt(source));
            let flags = if source == Source::Stdin { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(fd, flags));
        }
        let timeout = match self.attempt.as_ref().and_then(Attempt::wake_at) {
            None => PollTimeout::NONE,
            // Rounded up: waking early would only mean to wait again.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(waited.into_iter().zip(&fds).filter(|(_, fd)| ready(fd)).map(|(waited, _)| waited).collect())
    }

    /// Collects children; tells whether init is to end.
    fn take_signals(&mut self) -> bool {
        let mut ends = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            ends |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        loop {
            match reap::collect() {
                Collected::One(child) => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.collected(&child, &self.host, Instant::now());
                    }
                }
                Collected::NoneYet => break,
                Collected::NoChildren => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.no_children();
                    }
                    break;
                }
            }
        }
        ends
    }

    /// Takes a connection that waits; it replaces the one that is there.
    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        if !self.is_agent(&socket) {
            return;
        }
        let state = self.attempt.as_ref().map_or(State::Idle, Attempt::state);
        if let Some(attempt) = &mut self.attempt {
            // What was written to the task before is in the state.
            attempt.stdin().take_credit();
        }
        self.link = Link::new(socket, state).ok();
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
        match (request, &mut self.attempt) {
            (Request::Run(run), None) => {
                check(&run)?;
                self.attempt = Some(Attempt::start(&run, &self.host, Instant::now()));
                link.follow([0, 0], false);
            }
            (Request::Run(run), Some(_)) => {
                return Err(format!("busy: {:.64} can't be started", run.attempt));
            }
            (Request::Resume { stdout_offset, stderr_offset }, Some(attempt)) => {
                if link.follows() {
                    return Err("a second Run or Resume on one connection".into());
                }
                let offsets = [stdout_offset, stderr_offset];
                for stream in crate::frame::Stream::ALL {
                    let offset = offsets[stream.index()];
                    if !attempt.output(stream).holds(offset) {
                        return Err(format!("{stream:?} is not kept from offset {offset} on"));
                    }
                }
                link.follow(offsets, true);
            }
            (Request::Ack { stream, offset }, Some(attempt)) => {
                if !link.was_told(stream, offset) || attempt.acknowledge(stream, offset).is_err() {
                    return Err(format!("{stream:?} was acknowledged to {offset}, which was never sent"));
                }
            }
            (Request::Stdin(bytes), Some(attempt)) => attempt.stdin().receive(&bytes)?,
            (Request::CloseStdin, Some(attempt)) => attempt.stdin().close(),
            (Request::Kill { grace }, Some(attempt)) => {
                attempt.stop(Outcome::Cancelled, grace, &self.host, Instant::now());
            }
            (Request::Release, Some(attempt)) => {
                if attempt.exit().is_none() {
                    return Err("the attempt to release is still running".into());
                }
                self.attempt = None;
                link.unfollow();
            }
            (Request::Resume { .. } | Request::Ack { .. } | Request::Stdin(_), None) => {
                return Err("there is no attempt".into());
            }
            // These may cross the end of the attempt on their way.
            (Request::CloseStdin | Request::Kill { .. } | Request::Release, None) => {}
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

fn check(run: &Run) -> Result<(), String> {
    if run.attempt.len() > ATTEMPT_NAME_BYTES_MAX {
        return Err(format!("the attempt's name is longer than {ATTEMPT_NAME_BYTES_MAX} bytes"));
    }
    Ok(())
}
