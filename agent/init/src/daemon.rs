//! For the process runtime: init as a daemon that outlives its agent, in namespaces of its own where that is allowed.
//!
//! The launcher takes the namespaces, forks, writes the daemon's pid down and ends. The daemon listens only after that,
//! so there is none without a pid file. In a pid namespace the kernel kills everything when init dies, and nothing can
//! get away from init.

use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork, getegid, geteuid, pipe2, read, setsid},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Who goes on after [`launch`].
pub(crate) enum Launched {
    /// The launcher, whose work is done.
    Launcher,
    /// The daemon.
    Daemon,
}

/// Forks the daemon.
pub(crate) fn launch(pid_file: &Path, isolate: bool) -> io::Result<Launched> {
    setsid()?;
    if isolate {
        enter_namespaces()?;
    }
    let (go, tell) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: init has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            let identity = identity(child.as_raw()).ok_or_else(|| io::Error::other("the daemon is gone"))?;
            let draft = PathBuf::from(format!("{}.new", pid_file.display()));
            fs::write(&draft, identity)?;
            fs::rename(&draft, pid_file)?;
            nix::unistd::write(&tell, b"go")?;
            Ok(Launched::Launcher)
        }
        ForkResult::Child => {
            drop(tell);
            wait_for(&go)?;
            if isolate {
                mount_proc()?;
            }
            Ok(Launched::Daemon)
        }
    }
}

fn wait_for(go: &OwnedFd) -> io::Result<()> {
    loop {
        match read(go, &mut [0; 2]) {
            Ok(0) => return Err(io::Error::other("the launcher died")),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Tries whether namespaces can be had here, all the way to a mounted `/proc`.
pub(crate) fn probe() -> io::Result<()> {
    enter_namespaces()?;
    // SAFETY: init has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(io::Error::other("/proc can't be mounted")),
        },
        ForkResult::Child => {
            let works =
                mount_proc().is_ok() && fs::read_link("/proc/self").is_ok_and(|own| own == Path::new("1"));
            // SAFETY: ends the child without running anything that belongs to its parent.
            unsafe { libc::_exit(i32::from(!works)) }
        }
    }
}

/// A pid and a mount namespace; without the right to them, in a user namespace in which this user stays who it is.
fn enter_namespaces() -> io::Result<()> {
    let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    if unshare(flags).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(flags | CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

fn mount_proc() -> io::Result<()> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("proc"), "/proc", Some("proc"), flags, nothing)?)
}

/// What tells a process from every other that ever had its pid: the pid, when it started, and since which boot that is
/// counted. None if it is gone, or is only waiting to be collected.
#[must_use]
pub fn identity(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let start_ticks = fields.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{pid} {start_ticks} {}\n", boot.trim_end()))
}

/// The process that a pid file names, if it is still that one.
#[must_use]
pub fn running(pid_file: &Path) -> Option<Pid> {
    let written = fs::read_to_string(pid_file).ok()?;
    let pid = written.split(' ').next()?.parse().ok()?;
    (identity(pid)? == written).then(|| Pid::from_raw(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_one_process_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        assert_eq!(running(&file), None);
        let own = Pid::this();
        let identity = identity(own.as_raw()).unwrap();
        fs::write(&file, &identity).unwrap();
        assert_eq!(running(&file), Some(own));
        let mut fields: Vec<&str> = identity.split(' ').collect();
        fields[1] = "1";
        fs::write(&file, fields.join(" ")).unwrap();
        assert_eq!(running(&file), None, "another process with its pid");
    }

    #[test]
    fn a_process_that_was_not_collected_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        while identity(pid).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
