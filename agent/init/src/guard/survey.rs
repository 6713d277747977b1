//! Finds the places that tasks can write to, once, at the start: by a child under the task's user, which tries.

use super::{become_task, exit_child};
use crate::{mounts::Mount, privileges::TaskUser};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{AccessFlags, ForkResult, access, fork, pipe2},
};
use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Most entries of one file system that are looked at; one with more is not to be compared cheaply.
const ENTRIES_MAX: usize = 10_000;

const STICKY: u32 = 0o1000;

/// A place that tasks can write to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The root of a tmpfs, in which nothing else is writable.
    Tmpfs(PathBuf),
    /// Any other.
    Other(PathBuf),
}

/// How writable a mount is for tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Writable {
    Nowhere,
    /// Its root, and nothing that could be changed or replaced in it.
    AtRoot,
    Elsewhere,
}

/// All of them, and where message queues are seen.
pub(super) fn survey(user: TaskUser) -> io::Result<(Vec<Place>, Option<PathBuf>)> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts: Vec<Mount<'_>> = text.lines().filter_map(Mount::parse).collect();
    let queues = mounts.iter().find(|mount| mount.kind == "mqueue").map(|mount| mount.point.clone());
    // What is under another mount can't be reached.
    let is_on_top = |at: usize| mounts[at + 1..].iter().all(|later| later.point != mounts[at].point);
    let writable = (0..mounts.len()).filter(|at| mounts[*at].is_writable() && is_on_top(*at));
    let candidates: Vec<&Mount<'_>> =
        writable.map(|at| &mounts[at]).filter(|mount| stores(mount.kind)).collect();
    let points: Vec<&Path> = candidates.iter().map(|mount| mount.point.as_path()).collect();
    let answers = try_as(user, &points)?;
    let places = candidates.iter().zip(answers).filter_map(|(mount, answer)| match answer {
        Writable::Nowhere => None,
        Writable::AtRoot if mount.kind == "tmpfs" => Some(Place::Tmpfs(mount.point.clone())),
        Writable::AtRoot | Writable::Elsewhere => Some(Place::Other(mount.point.clone())),
    });
    Ok((places.collect(), queues))
}

/// Whether files in this type of file system keep what is written to them. Those of the others are the kernel's own;
/// message queues are counted in another way, and terminals go with their processes.
fn stores(kind: &str) -> bool {
    !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts" | "mqueue")
}

/// Asks a child that has become the task's user.
fn try_as(user: TaskUser, points: &[&Path]) -> io::Result<Vec<Writable>> {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: init has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let ok = become_task(user).is_ok() && {
                let answers: Vec<u8> = points.iter().map(|point| examine(point, user) as u8).collect();
                File::from(write).write_all(&answers).is_ok()
            };
            exit_child(i32::from(!ok))
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut answers = Vec::new();
            File::from(read).read_to_end(&mut answers)?;
            let ended = waitpid(child, None)?;
            if !matches!(ended, WaitStatus::Exited(_, 0)) || answers.len() != points.len() {
                return Err(io::Error::other(format!("the writable places can't be surveyed: {ended:?}")));
            }
            Ok(answers
                .into_iter()
                .map(|answer| match answer {
                    0 => Writable::Nowhere,
                    1 => Writable::AtRoot,
                    _ => Writable::Elsewhere,
                })
                .collect())
        }
    }
}

/// How writable a mount is for this process.
fn examine(point: &Path, user: TaskUser) -> Writable {
    // What the task can't even reach is not writable.
    let Ok(root) = fs::symlink_metadata(point) else { return Writable::Nowhere };
    if !root.is_dir() {
        return if can_change(point, &root, user) { Writable::Elsewhere } else { Writable::Nowhere };
    }
    let root_writable = can_change(point, &root, user);
    // Who owns a directory, or where it is not sticky, may replace what others have in it.
    let replaces = root_writable && (root.uid() == user.uid || root.mode() & STICKY == 0);
    let (mut dirs, mut entries) = (vec![point.to_path_buf()], 0);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            entries += 1;
            if replaces || entries > ENTRIES_MAX {
                return Writable::Elsewhere;
            }
            // What is mounted there is examined by itself.
            if meta.dev() != root.dev() {
                continue;
            }
            let path = entry.path();
            if can_change(&path, &meta, user) {
                return Writable::Elsewhere;
            }
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    if root_writable { Writable::AtRoot } else { Writable::Nowhere }
}

/// Devices and the like keep nothing, and the target of a link is met by itself.
fn can_change(path: &Path, meta: &Metadata, user: TaskUser) -> bool {
    let kind = meta.file_type();
    let keeps = !kind.is_symlink() && !kind.is_char_device() && !kind.is_block_device();
    keeps && (meta.uid() == user.uid || access(path, AccessFlags::W_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn directories_are_examined_to_the_bottom() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = TaskUser { uid: 54321, gid: 54321 };
        let own = TaskUser { uid: nix::unistd::geteuid().as_raw(), gid: 0 };
        assert_eq!(examine(dir.path(), own), Writable::AtRoot);
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(examine(dir.path(), own), Writable::Elsewhere, "it could be replaced");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        // The test may be root, who can write anywhere.
        let expected = if own.uid == 0 { Writable::Elsewhere } else { Writable::AtRoot };
        assert!(own.uid != 0 || examine(dir.path(), stranger) == expected);
        assert_eq!(examine(Path::new("/no/such/place"), stranger), Writable::Nowhere);
        assert_eq!(examine(Path::new("/dev/null"), stranger), Writable::Nowhere);
    }

    #[test]
    fn the_kernel_s_own_file_systems_keep_nothing() {
        assert!(stores("tmpfs") && stores("ext4") && stores("overlay") && stores("fuse.fuse-overlayfs"));
        assert!(!stores("proc") && !stores("cgroup2") && !stores("devpts"));
    }
}
