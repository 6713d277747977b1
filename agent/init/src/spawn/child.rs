//! What the child does between its birth and exec. It shares init's memory until then, while init is suspended, so that no
//! page table is copied: it makes system calls and nothing else. It allocates nothing, takes no lock, and leaves behind
//! only what it says about its failure.

use crate::privileges::{self, TaskUser};
use nix::errno::Errno;
use std::{
    ffi::{c_char, c_int, c_void},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

/// All that the child needs, made before its birth, and what it says about its failure.
pub(super) struct Orders<'a> {
    /// None means an empty one.
    pub(super) stdin: Option<RawFd>,
    pub(super) stdout: RawFd,
    pub(super) stderr: RawFd,
    pub(super) user: Option<TaskUser>,
    /// Null means to stay where init is.
    pub(super) workdir: *const c_char,
    /// The files to try, in order.
    pub(super) files: &'a [*const c_char],
    /// Both end with a null pointer.
    pub(super) words: &'a [*const c_char],
    pub(super) env: &'a [*const c_char],
    pub(super) failure: Failure,
}

/// Where the child failed, and why; written by the child, read by init afterwards.
#[derive(Default)]
pub(super) struct Failure {
    step: AtomicUsize,
    errno: AtomicI32,
}

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Setup,
    User,
    Workdir,
    /// The index of the file that counts.
    Exec(usize),
}

impl Failure {
    /// None if the command was executed.
    pub(super) fn get(&self) -> Option<(Step, Errno)> {
        let step = match self.step.load(Ordering::Relaxed) {
            0 => return None,
            1 => Step::Setup,
            2 => Step::User,
            3 => Step::Workdir,
            file => Step::Exec(file - 4),
        };
        Some((step, Errno::from_raw(self.errno.load(Ordering::Relaxed))))
    }

    fn set(&self, step: Step) {
        let step = match step {
            Step::Setup => 1,
            Step::User => 2,
            Step::Workdir => 3,
            Step::Exec(file) => file + 4,
        };
        self.errno.store(Errno::last_raw(), Ordering::Relaxed);
        self.step.store(step, Ordering::Relaxed);
    }
}

/// The child's stack until it has executed the command.
#[derive(Debug)]
pub(super) struct Stack(Vec<u128>);

/// The child's calls are few and shallow.
const STACK_BYTES: usize = 64 << 10;

impl Stack {
    pub(super) fn new() -> Self {
        Self(vec![0; STACK_BYTES / size_of::<u128>()])
    }
}

/// Starts the child. Returns when it has executed the command, has failed, or was killed.
pub(super) fn start(orders: &Orders<'_>, stack: &mut Stack) -> nix::Result<libc::pid_t> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is init's own, large enough and aligned, and nobody else uses it, as init is suspended while the
    // child runs on it. The orders live as long. The child upholds what the module's first lines say.
    Errno::result(unsafe {
        let top = stack.0.as_mut_ptr_range().end;
        libc::clone(main, top.cast(), flags, ptr::from_ref(orders).cast_mut().cast())
    })
}

/// Runs in the child.
extern "C" fn main(orders: *mut c_void) -> c_int {
    // SAFETY: it is what `start` was given, and init is suspended in `start`.
    let orders = unsafe { &*orders.cast::<Orders<'_>>() };
    let failed = execute(orders);
    orders.failure.set(failed);
    127
}

/// Returns only if the command can't be executed; then errno says why.
fn execute(orders: &Orders<'_>) -> Step {
    if !detach(orders) {
        return Step::Setup;
    }
    if let Some(user) = orders.user
        && !privileges::become_task(user)
    {
        return Step::User;
    }
    // After the change of user, which would undo it.
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: a string that outlives the child's use of it.
    if !orders.workdir.is_null() && unsafe { libc::chdir(orders.workdir) } != 0 {
        return Step::Workdir;
    }
    let mut last = 0;
    for (index, file) in orders.files.iter().enumerate() {
        last = index;
        // SAFETY: strings, and lists of strings that end with a null pointer; all outlive the call.
        unsafe { libc::execve(*file, orders.words.as_ptr(), orders.env.as_ptr()) };
        if !matches!(Errno::last(), Errno::EACCES | Errno::ENOENT) {
            break;
        }
    }
    Step::Exec(last)
}

/// A session and process group of its own, no signal blocked, and no files but the three: all of init's others close
/// at exec, and so do those that init was started with, see [`super::Spawner::new`].
fn detach(orders: &Orders<'_>) -> bool {
    // SAFETY: plain system calls; the mask is a live value, for which all zeroes means an empty one.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        let stdin = orders
            .stdin
            .unwrap_or_else(|| libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC));
        libc::setsid() >= 0
            && libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) == 0
            && libc::dup2(stdin, 0) == 0
            && libc::dup2(orders.stdout, 1) == 1
            && libc::dup2(orders.stderr, 2) == 2
    }
}
