//! What init and its tasks may do: users, capabilities, and who may look into init.

use nix::{errno::Errno, sys::prctl, unistd::setgroups};
use std::{io, str::FromStr};

/// The user and group that tasks run under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskUser {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
}

/// `UID:GID`.
impl FromStr for TaskUser {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (uid, gid) = text.split_once(':')?;
            Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        };
        parse()
            .filter(|user| user.uid != 0)
            .ok_or_else(|| format!("`{text}` is not UID:GID of an unprivileged user"))
    }
}

const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// What init itself needs once it listens: to change a task's user, and to kill it.
const INIT_CAPABILITIES: u32 = 1 << CAP_KILL | 1 << CAP_SETGID | 1 << CAP_SETUID;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Gives up every capability of this process that is not in the mask; those in it stay if they were there.
fn limit_capabilities(mask: u32) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: both pointers are to live values with the layout that this version of the call has.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    let permitted = sets[0].permitted & mask;
    sets = [CapabilitySets { effective: permitted, permitted, inheritable: 0 }, CapabilitySets::default()];
    set_capabilities(&sets)?;
    Ok(())
}

fn set_capabilities(sets: &[CapabilitySets; 2]) -> nix::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: both pointers are to live values with the layout that this version of the call has; it only reads the sets.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

/// Leaves init the capabilities that it needs while it runs tasks under another user.
pub(crate) fn keep_init_capabilities() -> io::Result<()> {
    limit_capabilities(INIT_CAPABILITIES)
}

/// Nobody of the same user may trace init or read its memory.
pub(crate) fn hide_init() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// What every child inherits: no way to more rights, and no groups.
pub(crate) fn limit_heirs(user: Option<TaskUser>) -> io::Result<()> {
    if user.is_some() {
        setgroups(&[])?;
    }
    Ok(prctl::set_no_new_privs()?)
}

/// Becomes the task's user, without any capability. Called in a child that shares init's memory: the calls are made
/// directly, as those of libc would change the user of every thread that it knows, which are init's. Tells whether it
/// worked; if not, errno says why.
pub(crate) fn become_task(TaskUser { uid, gid }: TaskUser) -> bool {
    // SAFETY: these calls take numbers only, and act on the calling process alone.
    let changed = unsafe {
        libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            // The memory is init's still, and where the kernel is set to dump such processes, they could be traced.
            && libc::prctl(libc::PR_SET_DUMPABLE, 0) == 0
    };
    changed && set_capabilities(&[CapabilitySets::default(); 2]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_two_numbers_and_never_root() {
        assert_eq!("65532:65532".parse(), Ok(TaskUser { uid: 65532, gid: 65532 }));
        for bad in ["0:0", "1", "a:b", "-1:1", ""] {
            assert!(bad.parse::<TaskUser>().is_err(), "{bad}");
        }
    }
}
