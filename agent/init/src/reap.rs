//! Ends and collects processes. init is PID 1 of its worker, or at least a subreaper: whatever an attempt leaves behind
//! becomes its child.

use crate::frame::Usage;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::fs;

/// One child that ended.
pub(crate) struct Reaped {
    pub(crate) pid: Pid,
    pub(crate) ending: Ending,
    pub(crate) usage: Usage,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Signaled(i32),
}

/// What there is to collect.
pub(crate) enum Collected {
    One(Reaped),
    /// Children live, none of them has ended.
    NoneYet,
    NoChildren,
}

/// Collects one child that ended, without waiting. Its usage has that of its own collected children in it.
pub(crate) fn collect() -> Collected {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live variables of the right types.
        let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
        match (pid, Errno::last()) {
            (0, _) => return Collected::NoneYet,
            (-1, Errno::EINTR) => {}
            (-1, _) => return Collected::NoChildren,
            (pid, _) => {
                let ending = if libc::WIFSIGNALED(status) {
                    Ending::Signaled(libc::WTERMSIG(status))
                } else {
                    Ending::Exited(libc::WEXITSTATUS(status))
                };
                return Collected::One(Reaped { pid: Pid::from_raw(pid), ending, usage: convert(&usage) });
            }
        }
    }
}

fn convert(usage: &libc::rusage) -> Usage {
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    Usage {
        user_micros: micros(usage.ru_utime),
        system_micros: micros(usage.ru_stime),
        peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        ..Usage::default()
    }
}

/// Adds what another process used.
pub(crate) fn add(sum: &mut Usage, other: &Usage) {
    sum.user_micros += other.user_micros;
    sum.system_micros += other.system_micros;
    sum.peak_memory_bytes = sum.peak_memory_bytes.max(other.peak_memory_bytes);
}

/// Signals the process group of an attempt, or its leader, if that has no group yet because it was forked just now.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    if killpg(leader, signal).is_err() {
        let _ = kill(leader, signal);
    }
}

/// Sends SIGKILL to everything but init. As PID 1 that is one call, which nobody escapes by forking; otherwise it is
/// everything below init at this moment, and the caller repeats it until no child is left.
pub(crate) fn kill_everything(is_pid_1: bool) {
    if is_pid_1 {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        return;
    }
    for pid in descendants(Pid::this()) {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// All processes below this one.
#[must_use]
pub fn descendants(root: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let parents: Vec<(Pid, Pid)> = entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((
                Pid::from_raw(pid),
                Pid::from_raw(parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?),
            ))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The parent in a line of `/proc/PID/stat`. The name before it may hold anything, also spaces and parentheses.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("12 (a b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a"), None);
    }

    #[test]
    fn own_children_are_descendants() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants(Pid::this());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&Pid::from_raw(child.id().cast_signed())), "{found:?}");
    }
}
