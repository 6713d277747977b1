//! Objects of the worker's IPC namespace: they outlive the processes that made them.

use super::{Stain, root::Root};
use crate::privileges::TaskUser;
use std::{ffi::c_int, fs, mem::MaybeUninit, path::PathBuf};

/// The kernel's numbers of calls that libc does not name; all of them answer to everybody.
const SHM_INFO: c_int = 14;
const SEM_INFO: c_int = 19;

/// How many shared memory segments, semaphore sets and message queues there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SystemV([c_int; 3]);

/// `struct shm_info`, of which only the first field is wanted.
#[repr(C)]
struct SharedMemory {
    used_ids: c_int,
    others: [usize; 5],
}

impl SystemV {
    /// Counts them; a kernel without one of the kinds has none of it.
    pub(super) fn count() -> Self {
        let mut memory = MaybeUninit::<SharedMemory>::zeroed();
        let mut semaphores = MaybeUninit::<libc::seminfo>::zeroed();
        let mut messages = MaybeUninit::<libc::msginfo>::zeroed();
        // SAFETY: each call gets a live value of the structure that it writes; all of them are numbers only, for which
        // zeroes are a value too.
        unsafe {
            libc::shmctl(0, SHM_INFO, memory.as_mut_ptr().cast());
            libc::semctl(0, 0, SEM_INFO, semaphores.as_mut_ptr());
            libc::msgctl(0, libc::MSG_INFO, messages.as_mut_ptr().cast());
            Self([
                memory.assume_init_ref().used_ids,
                semaphores.assume_init_ref().semusz,
                messages.assume_init_ref().msgpool,
            ])
        }
    }

    /// Removes all that this user may remove.
    pub(super) fn remove_all() {
        for id in ids("/proc/sysvipc/shm") {
            // SAFETY: removing takes no buffer.
            unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
        for id in ids("/proc/sysvipc/sem") {
            // SAFETY: as above.
            unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
        }
        for id in ids("/proc/sysvipc/msg") {
            // SAFETY: as above.
            unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }
}

/// The second column, below a line of names.
fn ids(file: &str) -> Vec<c_int> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).collect()
}

/// The file system that shows the POSIX message queues, and how it was at the start.
#[derive(Debug)]
pub(super) struct MessageQueues(Option<(PathBuf, Root)>);

impl MessageQueues {
    pub(super) fn new(point: Option<PathBuf>, user: TaskUser) -> Self {
        Self(point.and_then(|point| {
            let root = Root::new(&point, user.uid).ok()?;
            Some((point, root))
        }))
    }

    pub(super) fn are_seen(&self) -> bool {
        self.0.is_some()
    }

    /// Its root grows by a fixed length with each queue.
    pub(super) fn look(&self) -> Result<(), Stain> {
        match &self.0 {
            Some((_, root)) if !root.is_restored() => Err(Stain::MessageQueues),
            _ => Ok(()),
        }
    }

    /// Removes all that this user may remove.
    pub(super) fn remove_all(&self) {
        let Some((point, _)) = &self.0 else { return };
        for queue in fs::read_dir(point).into_iter().flatten().flatten() {
            let _ = fs::remove_file(queue.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_each_as_its_kind() {
        let before = SystemV::count().0;
        // SAFETY: makes three objects, which are removed below.
        let [memory, semaphores, messages] = unsafe {
            [
                libc::shmget(libc::IPC_PRIVATE, 4096, 0o600),
                libc::semget(libc::IPC_PRIVATE, 3, 0o600),
                libc::msgget(libc::IPC_PRIVATE, 0o600),
            ]
        };
        let with = SystemV::count().0;
        let listed = ids("/proc/sysvipc/sem").contains(&semaphores);
        // SAFETY: removing takes no buffer.
        unsafe {
            libc::shmctl(memory, libc::IPC_RMID, std::ptr::null_mut());
            libc::semctl(semaphores, 0, libc::IPC_RMID);
            libc::msgctl(messages, libc::IPC_RMID, std::ptr::null_mut());
        }
        // Others may make some meanwhile, but not remove what is ours.
        assert!((0..3).all(|kind| with[kind] > before[kind]), "{before:?} {with:?}");
        assert!(listed);
    }
}
