//! Tasks that go for init: its limits, its memory, its socket and its pipes. What succeeds is said aloud, and ends the task
//! with 1.

use crate::mount_points;
use std::{
    fs::{self, OpenOptions},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process, ptr,
};

fn succeeded(what: &str) -> ! {
    println!("succeeded: {what}");
    process::exit(1)
}

/// Limits, niceness, processors and the like of PID 1.
pub(crate) fn init_limits() {
    // SAFETY: numbers, and pointers to live values of the right types.
    unsafe {
        let low = libc::rlimit { rlim_cur: 8, rlim_max: 8 };
        let no_limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        for resource in 0..16 {
            if libc::prlimit(1, resource, &raw const low, ptr::null_mut()) == 0
                || libc::prlimit(1, resource, &raw const no_limits, ptr::null_mut()) == 0
            {
                succeeded("prlimit");
            }
        }
        if libc::setpriority(libc::PRIO_PROCESS, 1, 19) == 0 || libc::setpriority(libc::PRIO_USER, 0, 19) != 0
        {
            succeeded("setpriority");
        }
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut one);
        if libc::sched_setaffinity(1, size_of::<libc::cpu_set_t>(), &raw const one) == 0 {
            succeeded("sched_setaffinity");
        }
        if libc::syscall(libc::SYS_ioprio_set, 1, 1, 3 << 13) == 0 {
            succeeded("ioprio_set");
        }
        let parameters: libc::sched_param = std::mem::zeroed();
        if libc::sched_setscheduler(1, libc::SCHED_IDLE, &raw const parameters) == 0 {
            succeeded("sched_setscheduler");
        }
    }
    for file in ["oom_score_adj", "timerslack_ns", "comm", "coredump_filter", "clear_refs"] {
        if fs::write(format!("/proc/1/{file}"), "0").is_ok() {
            succeeded(file);
        }
    }
}

/// Every signal.
pub(crate) fn init_signals() {
    for signal in 0..65 {
        // SAFETY: takes numbers.
        if unsafe { libc::kill(1, signal) } == 0 {
            succeeded("kill");
        }
    }
}

/// Its memory and files, by all ways that there are.
pub(crate) fn init_memory() {
    let mut byte = 0_u8;
    let mut local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut remote = libc::iovec { iov_base: ptr::without_provenance_mut(4096), iov_len: 1 };
    // SAFETY: the calls read and write what is told to be theirs here.
    unsafe {
        let nothing = ptr::null_mut::<libc::c_void>();
        if libc::ptrace(libc::PTRACE_ATTACH, 1, nothing, nothing) == 0
            || libc::ptrace(libc::PTRACE_SEIZE, 1, nothing, nothing) == 0
        {
            succeeded("ptrace");
        }
        if libc::process_vm_readv(1, &raw mut local, 1, &raw mut remote, 1, 0) >= 0
            || libc::process_vm_writev(1, &raw mut local, 1, &raw mut remote, 1, 0) >= 0
        {
            succeeded("process_vm");
        }
        let init = libc::syscall(libc::SYS_pidfd_open, 1, 0);
        if init >= 0 && libc::syscall(libc::SYS_pidfd_getfd, init, 3, 0) >= 0 {
            succeeded("pidfd_getfd");
        }
    }
    for file in ["mem", "environ", "maps", "auxv", "stack", "syscall"] {
        let path = format!("/proc/1/{file}");
        if OpenOptions::new().write(true).open(&path).is_ok()
            || fs::read(&path).is_ok_and(|read| !read.is_empty())
        {
            succeeded(&path);
        }
    }
    for dir in ["fd", "map_files", "root", "cwd"] {
        if fs::read_dir(format!("/proc/1/{dir}/")).is_ok() {
            succeeded(dir);
        }
    }
}

/// Where init's socket may be: what the kernel shows of it, and its name in every mount.
fn sockets() -> Vec<PathBuf> {
    let shown = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let shown = shown.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    let mut paths: Vec<PathBuf> = shown.map(PathBuf::from).collect();
    let names = ["init.sock", "s", "begun"];
    paths.extend(mount_points().iter().flat_map(|point| names.map(|name| Path::new(point).join(name))));
    paths
}

/// A socket of its own in the place of init's.
pub(crate) fn fake_socket() {
    let mut fakes = Vec::new();
    for path in sockets() {
        if fs::remove_file(&path).is_ok() || fs::rename(&path, path.with_extension("old")).is_ok() {
            succeeded("removing the socket");
        }
        fakes.extend(UnixListener::bind(&path));
    }
    crate::stay::daemon();
}

/// As many connections as there can be.
pub(crate) fn flood_socket() {
    for path in sockets() {
        for _ in 0..500 {
            if UnixStream::connect(&path).is_ok() {
                succeeded("connecting");
            }
        }
    }
}

/// Which signal tells that a file is ready; libc does not name it.
const F_SETSIG: i32 = 10;

/// Its own ends of the pipes that init reads and writes.
pub(crate) fn pipes() {
    for fd in 0..3 {
        // SAFETY: takes numbers.
        unsafe {
            libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK | libc::O_APPEND | libc::O_DIRECT);
            libc::fcntl(fd, libc::F_SETPIPE_SZ, 4096);
            libc::fcntl(fd, libc::F_SETOWN, 1);
            libc::fcntl(fd, F_SETSIG, libc::SIGKILL);
            libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC);
            libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB);
            libc::fchmod(fd, 0);
            libc::ftruncate(fd, 0);
        }
        let _ = OpenOptions::new().read(true).open(format!("/proc/self/fd/{fd}"));
    }
    crate::stay::daemon();
}
