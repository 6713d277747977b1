//! The task itself: what it inherits, may do, and is held to.

use crate::Report;
use std::{env, ffi::c_int, fs, io, os::unix::ffi::OsStrExt, thread, time::Duration};

/// Lines of `/proc/self/status` that are neither names, numbers nor measurements. Not the number of queued signals: the
/// kernel counts those of a user on the whole machine.
const STATUS: [&str; 20] = [
    "Umask",
    "State",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed",
];

/// How often it is looked whether init is done with our birth, and how far apart.
const BIRTH_LOOKS_MAX: u32 = 20;
const BIRTH_LOOK_EVERY: Duration = Duration::from_millis(5);

pub(crate) fn observe(report: &mut Report) {
    let mut variables: Vec<_> = env::vars_os().collect();
    variables.sort();
    for (name, value) in variables {
        report.add("variable", name.as_bytes(), value.as_bytes());
    }
    let dir = env::current_dir().map_or_else(|error| error.to_string(), |dir| dir.display().to_string());
    report.add("process", b"directory", dir);
    init_has_born_us();
    for who in ["self", "1"] {
        status(report, who);
        for file in ["limits", "oom_score_adj", "timerslack_ns", "timers", "cgroup", "cmdline", "personality"]
        {
            let contents = fs::read(format!("/proc/{who}/{file}")).unwrap_or_else(unreadable);
            // A timer's line has the process in it.
            report.add("process", format!("{who} {file}").as_bytes(), contents);
        }
    }
    descriptors(report);
    calls(report);
}

/// init raises its own readiness to be chosen while a child is born, and may be late to lower it again: the child is born first.
fn init_has_born_us() {
    for _ in 0..BIRTH_LOOKS_MAX {
        let [own, inits] = ["self", "1"]
            .map(|who| fs::read(format!("/proc/{who}/oom_score_adj")).unwrap_or_else(unreadable));
        if own != inits {
            return;
        }
        thread::sleep(BIRTH_LOOK_EVERY);
    }
}

fn unreadable(error: io::Error) -> Vec<u8> {
    error.to_string().into_bytes()
}

fn status(report: &mut Report, who: &str) {
    let text = fs::read_to_string(format!("/proc/{who}/status")).unwrap_or_default();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':')
            && STATUS.contains(&name)
            // init is awake or asleep as it happens.
            && (who == "self" || name != "State")
        {
            report.add("process", format!("{who} {name}").as_bytes(), value.trim());
        }
    }
    // Priority, niceness and scheduling class.
    let stat = fs::read_to_string(format!("/proc/{who}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    for (name, at) in [("priority", 15), ("nice", 16), ("real time", 37), ("policy", 38)] {
        report.add("process", format!("{who} {name}").as_bytes(), fields.get(at).unwrap_or(&""));
    }
    // Terminal, and whether it leads its group and session.
    let own = if who == "self" { std::process::id().to_string() } else { "1".into() };
    for (name, at) in [("group", 2), ("session", 3), ("terminal", 4)] {
        let field = *fields.get(at).unwrap_or(&"");
        let value = if field == own { "its own" } else { field };
        report.add("process", format!("{who} {name}").as_bytes(), value);
    }
}

fn descriptors(report: &mut Report) {
    for fd in 0..64 {
        // SAFETY: asks for flags and sizes.
        let [flags, own_flags, pipe] = unsafe {
            [
                libc::fcntl(fd, libc::F_GETFL),
                libc::fcntl(fd, libc::F_GETFD),
                libc::fcntl(fd, libc::F_GETPIPE_SZ),
            ]
        };
        if flags < 0 {
            continue;
        }
        let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        let target = target.display().to_string();
        // Without the number of a pipe or socket.
        let target = target.split('[').next().unwrap_or_default();
        let text = format!("{target} flags {flags:o} {own_flags:o} pipe {pipe}");
        report.add("descriptor", fd.to_string().as_bytes(), text);
    }
}

/// What only a system call tells.
fn calls(report: &mut Report) {
    // SAFETY: these calls take numbers, and tell one.
    let told: [(&str, c_int); 9] = unsafe {
        [
            ("dumpable", libc::prctl(libc::PR_GET_DUMPABLE)),
            ("keep capabilities", libc::prctl(libc::PR_GET_KEEPCAPS)),
            ("secure bits", libc::prctl(libc::PR_GET_SECUREBITS)),
            ("subreaper or not", c_int::from(libc::getppid() == 1)),
            ("priority of the user", libc::getpriority(libc::PRIO_USER, 0)),
            ("priority of init", libc::getpriority(libc::PRIO_PROCESS, 1)),
            ("i/o priority", libc::syscall(libc::SYS_ioprio_get, 1, 0) as c_int),
            ("i/o priority of init", libc::syscall(libc::SYS_ioprio_get, 1, 1) as c_int),
            ("policy of init", libc::sched_getscheduler(1)),
        ]
    };
    for (name, value) in told {
        report.add("call", name.as_bytes(), value.to_string());
    }
    for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: numbers only; the call writes them.
        let left = unsafe {
            let mut left: libc::itimerval = std::mem::zeroed();
            libc::getitimer(timer, &raw mut left);
            left.it_value.tv_sec + left.it_interval.tv_sec
        };
        report.add("timer", timer.to_string().as_bytes(), left.to_string());
    }
}
