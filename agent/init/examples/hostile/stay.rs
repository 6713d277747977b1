//! Tasks that stay: as daemons, against signals, or by taking all that there is.

use std::{
    io::{self, Write},
    process, thread,
    time::Duration,
};

fn fork() -> i32 {
    // SAFETY: this program has one thread.
    unsafe { libc::fork() }
}

fn sleep_for_ever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(600));
    }
}

/// No signal that can be ignored ends this process.
fn ignore_signals() {
    for signal in 1..65 {
        // SAFETY: ignoring runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A child in a session of its own.
pub(crate) fn daemon() {
    if fork() == 0 {
        // SAFETY: takes nothing.
        unsafe { libc::setsid() };
        ignore_signals();
        sleep_for_ever();
    }
}

/// A grandchild that nobody is the parent of, without files; and one that forks again and again to get away.
pub(crate) fn double_fork() {
    if fork() == 0 {
        // SAFETY: these take numbers.
        unsafe {
            libc::setsid();
            libc::close_range(0, 2, 0);
        }
        ignore_signals();
        if fork() == 0 {
            sleep_for_ever();
        }
        if fork() == 0 {
            loop {
                if fork() != 0 {
                    process::exit(0);
                }
                thread::sleep(Duration::from_micros(100));
            }
        }
        process::exit(0);
    }
    thread::sleep(Duration::from_millis(20));
}

/// Everything about itself that a process may change, and a daemon that inherits it.
pub(crate) fn own_limits() {
    // SAFETY: numbers, and pointers to live values of the right types.
    unsafe {
        for resource in 0..16 {
            let low = libc::rlimit { rlim_cur: 0, rlim_max: 1 << 30 };
            // Without a stack it could do no more.
            if resource != libc::RLIMIT_STACK && resource != libc::RLIMIT_NPROC {
                libc::setrlimit(resource, &raw const low);
            }
        }
        libc::nice(19);
        libc::umask(0o777);
        libc::personality(0x004_0000);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_000_000);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_NAME, c"innocent".as_ptr());
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut one);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13);
        let batch: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const batch);
        let later = libc::timeval { tv_sec: 500, tv_usec: 0 };
        let timer = libc::itimerval { it_interval: later, it_value: later };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    ignore_signals();
    daemon();
}

/// Only SIGKILL ends it.
pub(crate) fn ignore_sigterm() {
    ignore_signals();
    sleep_for_ever();
}

/// Nobody can tell by its output that it is there.
pub(crate) fn closed_stdout() {
    daemon();
    // SAFETY: takes numbers.
    unsafe { libc::close_range(0, 2, 0) };
    sleep_for_ever();
}

/// As fast as it can.
pub(crate) fn print_for_ever() {
    let line = [b'x'; 65_536];
    while io::stdout().write_all(&line).is_ok() {}
}

/// Memory that is used, so that it is there.
pub(crate) fn allocate_for_ever() {
    let mut all = Vec::new();
    loop {
        all.push(vec![all.len() as u8 | 1; 1 << 20]);
    }
}

/// Each fork forks.
pub(crate) fn fork_bomb() {
    loop {
        fork();
    }
}

/// Everything that it may signal, which is itself.
pub(crate) fn kill_all() {
    daemon();
    for signal in [libc::SIGSTOP, libc::SIGTERM, libc::SIGKILL] {
        // SAFETY: takes numbers.
        unsafe { libc::kill(-1, signal) };
    }
}
