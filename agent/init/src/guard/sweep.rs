//! Removes what a task left, as the task's user: that user owns all of it, and has no right to anything else. It runs in a
//! child, for what it does may take a while; nothing else of that user runs meanwhile.

use super::{become_task, exit_child, ipc::MessageQueues, ipc::SystemV, tmpfs::Tmpfs};
use crate::privileges::TaskUser;
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat, renameat},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat},
    unistd::{ForkResult, Pid, UnlinkatFlags, fork, unlinkat},
};
use std::{
    ffi::{CString, OsString},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStringExt, net::UnixStream},
    },
    path::Path,
};

/// Starts the child.
pub(super) fn start(tmpfs: &[Tmpfs], queues: &MessageQueues, user: TaskUser) -> nix::Result<Pid> {
    // SAFETY: init has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            if become_task(user).is_err() {
                exit_child(1);
            }
            // Sockets that were sent through each other are collected when another one is closed.
            drop(UnixStream::pair());
            SystemV::remove_all();
            queues.remove_all();
            for tmpfs in tmpfs {
                // A root of its own may have lost its mode.
                tmpfs.restore_root(user);
                // What is left is seen afterwards.
                let _ = empty(tmpfs.point(), user);
                tmpfs.restore_root(user);
            }
            exit_child(0)
        }
    }
}

/// Removes everything below a directory that belongs to the user. However deep it is, a few descriptors are enough: a
/// directory in a directory is moved to the top before its turn comes. No link is followed, and no mount crossed.
fn empty(top: &Path, user: TaskUser) -> nix::Result<()> {
    let top = open(top, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?;
    let device = fstat(&top)?.st_dev;
    let is_own = |stat: &FileStat| stat.st_dev == device && stat.st_uid == user.uid;
    let mut moved = 0_u64;
    // Each round removes all that was at the top, and brings up what was one level down.
    loop {
        let mut again = false;
        for name in names(&top)? {
            let Ok(stat) = fstatat(&top, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            if !is_own(&stat) {
                continue;
            }
            if !is_dir(&stat) {
                unlinkat(&top, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
                continue;
            }
            fchmodat(&top, name.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let dir = openat(&top, name.as_c_str(), flags, Mode::empty())?;
            for inner in names(&dir)? {
                if unlinkat(&dir, inner.as_c_str(), UnlinkatFlags::NoRemoveDir).is_ok()
                    || unlinkat(&dir, inner.as_c_str(), UnlinkatFlags::RemoveDir).is_ok()
                {
                    continue;
                }
                // A directory can't be moved without the right to write to it.
                fchmodat(&dir, inner.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
                bring_up(&dir, &inner, &top, &mut moved)?;
                again = true;
            }
            unlinkat(&top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        }
        if !again {
            return Ok(());
        }
    }
}

/// Moves a directory to the top, under a name that nothing has.
fn bring_up(dir: &OwnedFd, name: &CString, top: &OwnedFd, moved: &mut u64) -> nix::Result<()> {
    loop {
        *moved += 1;
        let free = OsString::from_vec(format!("piecework.{moved}").into_bytes());
        match renameat(dir, name.as_c_str(), top, free.as_os_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            other => return other,
        }
    }
}

fn names(dir: &OwnedFd) -> nix::Result<Vec<CString>> {
    let mut dir = Dir::from_fd(dir.try_clone().map_err(|_| Errno::EMFILE)?)?;
    let names = dir.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    Ok(names.collect::<nix::Result<Vec<_>>>()?.into_iter().filter(|name| !is_dot(name)).collect())
}

fn is_dot(name: &CString) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn is_dir(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::mkdirat, unistd::geteuid};
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        process::Command,
    };

    #[test]
    fn everything_goes_however_deep_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir(&top).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        symlink(&outside, top.join("link")).unwrap();
        fs::write(top.join("piecework.1"), "in the way").unwrap();
        fs::create_dir_all(top.join("piecework.2/a/b/c")).unwrap();
        fs::create_dir_all(top.join("locked/in/here")).unwrap();
        fs::set_permissions(top.join("locked/in"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(top.join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
        assert!(Command::new("mkfifo").arg(top.join("fifo")).status().unwrap().success());
        // Deeper than a path can be long.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut dir_fd = open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..1000 {
            mkdirat(&dir_fd, "deeper", Mode::S_IRWXU).unwrap();
            dir_fd = openat(&dir_fd, "deeper", flags, Mode::empty()).unwrap();
        }
        drop(openat(&dir_fd, "file", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRUSR).unwrap());
        let user = TaskUser { uid: geteuid().as_raw(), gid: 0 };
        empty(&top, user).unwrap();
        assert_eq!(fs::read_dir(&top).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn what_belongs_to_others_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        empty(dir.path(), TaskUser { uid: geteuid().as_raw() + 1, gid: 0 }).unwrap();
        assert!(dir.path().join("file").exists());
    }
}
