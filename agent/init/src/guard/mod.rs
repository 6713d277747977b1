//! Whether a worker is as clean as when it started. After every run, what a task could have changed is compared with how it
//! was at the start: the writable file systems, IPC objects and sockets; that no process is left is known by then. What
//! differs is swept away by a child under the task's user, and compared again; what still differs is a stain, and the
//! worker is spent.
//!
//! A task has no capability, another user than init, and a read-only root. So all that it can leave behind is in the few
//! places that are writable for it. They are found once, at the start; a place that can't be compared cheaply makes the
//! worker one for a single run.

mod ipc;
mod root;
mod sockets;
mod survey;
mod sweep;
mod tmpfs;

use crate::privileges::TaskUser;
use ipc::{MessageQueues, SystemV};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockets::Sockets;
use std::{
    fmt, io,
    path::PathBuf,
    time::{Duration, Instant},
};
use survey::Place;
use tmpfs::Tmpfs;

/// How long sweeping may take. A new worker takes about as long to make when the machine is busy.
const SWEEP_MILLIS_MAX: u64 = 5_000;

/// How long, and how often, to wait for what the kernel itself still clears away.
const SETTLE_MILLIS_MAX: u64 = 50;
const SETTLE_AGAIN_MILLIS: u64 = 1;

/// The guard of one worker.
#[derive(Debug)]
pub(crate) struct Guard {
    user: TaskUser,
    state: State,
    tmpfs: Vec<Tmpfs>,
    queues: MessageQueues,
    system_v: SystemV,
    sockets: Sockets,
    /// Why a worker in which anything was run can't be verified.
    unverifiable: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Clean,
    /// Something was run, and is gone.
    Unchecked,
    Sweeping {
        helper: Pid,
        give_up: Instant,
    },
    /// Swept; perhaps the kernel is not ready yet.
    Settling {
        again: Instant,
        give_up: Instant,
    },
    Spent,
}

/// Something that is not as it was at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stain {
    /// In or at this file system.
    Files(PathBuf),
    MessageQueues,
    SystemV,
    Sockets,
    Unverifiable(String),
    /// A process that could not be ended.
    Process,
    /// The child that sweeps failed, or took too long.
    Sweep(&'static str),
}

impl fmt::Display for Stain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(point) => {
                write!(f, "a task left something in {} that can't be removed", point.display())
            }
            Self::MessageQueues => f.write_str("a task left POSIX message queues that can't be removed"),
            Self::SystemV => f.write_str("a task left System V IPC objects that can't be removed"),
            Self::Sockets => f.write_str("a task left connections that the kernel has not closed yet"),
            Self::Unverifiable(why) => f.write_str(why),
            Self::Process => f.write_str("a task left a process that can't be ended"),
            Self::Sweep(why) => write!(f, "what a task left could not be cleared away: {why}"),
        }
    }
}

impl Guard {
    /// Takes down how everything is. Nothing has been run yet.
    ///
    /// # Errors
    /// If it can't be found out.
    pub(crate) fn new(user: TaskUser) -> io::Result<Self> {
        let (places, queues) = survey::survey(user)?;
        let (mut tmpfs, mut unverifiable) = (Vec::new(), None);
        for place in places {
            match place {
                Place::Tmpfs(point) => tmpfs.push(Tmpfs::new(point, user)?),
                Place::Other(point) => {
                    let why = format!(
                        "{} is writable for tasks, and is no empty tmpfs whose state could be compared",
                        point.display()
                    );
                    unverifiable.get_or_insert(why);
                }
            }
        }
        let queues = MessageQueues::new(queues, user);
        if !queues.are_seen() {
            unverifiable.get_or_insert("no file system shows the POSIX message queues".into());
        }
        Ok(Self {
            user,
            state: State::Clean,
            tmpfs,
            queues,
            system_v: SystemV::count(),
            sockets: Sockets::open()?,
            unverifiable,
        })
    }

    /// Nothing that was run is left in the worker, as far as is known.
    pub(crate) fn is_clean(&self) -> bool {
        self.state == State::Clean
    }

    /// A run's processes are gone; now the worker must be looked at.
    pub(crate) fn ran(&mut self) {
        if self.state == State::Clean {
            self.state = State::Unchecked;
        }
    }

    /// When [`Self::advance`] is due, beside after each call of the others.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Sweeping { give_up, .. } => Some(give_up),
            State::Settling { again, .. } => Some(again),
            State::Clean | State::Unchecked | State::Spent => None,
        }
    }

    /// Looks, sweeps, and looks again, as far as that goes now; tells once why the worker is spent.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<Stain> {
        match self.state {
            State::Unchecked => match self.look() {
                Ok(()) => self.state = State::Clean,
                Err(stain @ Stain::Unverifiable(_)) => return Some(self.spend(stain)),
                Err(_) => match sweep::start(&self.tmpfs, &self.queues, self.user) {
                    Ok(helper) => {
                        let give_up = now + Duration::from_millis(SWEEP_MILLIS_MAX);
                        self.state = State::Sweeping { helper, give_up };
                    }
                    Err(_) => return Some(self.spend(Stain::Sweep("no process for that can be started"))),
                },
            },
            State::Sweeping { helper, give_up } if give_up <= now => {
                let _ = kill(helper, Signal::SIGKILL);
                return Some(self.spend(Stain::Sweep("it took too long")));
            }
            State::Settling { again, give_up } if again <= now => match self.look() {
                Ok(()) => self.state = State::Clean,
                Err(stain) if give_up <= now => return Some(self.spend(stain)),
                Err(_) => {
                    let again = now + Duration::from_millis(SETTLE_AGAIN_MILLIS);
                    self.state = State::Settling { again, give_up };
                }
            },
            _ => {}
        }
        None
    }

    /// A child ended; tells whether it was the one that sweeps. What it could not do is seen by looking again.
    pub(crate) fn collected(&mut self, child: Pid, now: Instant) -> bool {
        match self.state {
            State::Sweeping { helper, .. } if helper == child => {
                let give_up = now + Duration::from_millis(SETTLE_MILLIS_MAX);
                self.state = State::Settling { again: now, give_up };
                true
            }
            _ => false,
        }
    }

    /// The worker is spent for a reason that is not the guard's to see.
    pub(crate) fn spend(&mut self, stain: Stain) -> Stain {
        self.state = State::Spent;
        stain
    }

    fn look(&self) -> Result<(), Stain> {
        if let Some(why) = &self.unverifiable {
            return Err(Stain::Unverifiable(why.clone()));
        }
        for tmpfs in &self.tmpfs {
            tmpfs.look()?;
        }
        self.queues.look()?;
        if SystemV::count() != self.system_v {
            return Err(Stain::SystemV);
        }
        self.sockets.look()
    }
}

/// Ends a child without running anything that belongs to init.
fn exit_child(code: i32) -> ! {
    // SAFETY: ends this process at once.
    unsafe { libc::_exit(code) }
}

/// In a child made by fork: becomes the task's user, with no signal blocked.
fn become_task(user: TaskUser) -> Result<(), Errno> {
    nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&nix::sys::signal::SigSet::empty()),
        None,
    )?;
    if crate::privileges::become_task(user) { Ok(()) } else { Err(Errno::last()) }
}
