//! The root directory of a file system that tasks can write to: what of it shows that something came or went.

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::{FileStat, Mode, fstat},
};
use std::{
    ffi::{CStr, CString},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

/// The kernel's own limit on a list of names.
const ATTRIBUTE_NAMES_BYTES_MAX: usize = 64 << 10;

/// How it was at the start.
#[derive(Debug)]
pub(super) struct Root {
    /// Only names the directory, and gives no right to it.
    dir: OwnedFd,
    path: CString,
    /// Whether tasks may give it extended attributes: its owner may, and those who can write to it if it is not sticky.
    takes_attributes: bool,
    before: Shape,
    times: [libc::timespec; 2],
}

/// All but its times, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: i64,
    /// Length of the names of its extended attributes; below 0 if it can't have any.
    attributes: isize,
}

impl Root {
    pub(super) fn new(point: &Path, user: u32) -> nix::Result<Self> {
        let path = CString::new(point.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(point, flags, Mode::empty())?;
        let stat = fstat(&dir)?;
        let time = |tv_sec, tv_nsec| libc::timespec { tv_sec, tv_nsec };
        let times = [time(stat.st_atime, stat.st_atime_nsec), time(stat.st_mtime, stat.st_mtime_nsec)];
        let takes_attributes = stat.st_uid == user || stat.st_mode & libc::S_ISVTX == 0;
        let before = shape(&stat, takes_attributes.then_some(&path));
        Ok(Self { dir, path, takes_attributes, before, times })
    }

    /// Whose it was.
    pub(super) fn uid(&self) -> u32 {
        self.before.owner.0
    }

    /// How much of its file system is in use: blocks and inodes.
    pub(super) fn usage(&self) -> nix::Result<(u64, u64)> {
        let mut counts = MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: a descriptor, and room for what the call writes.
        Errno::result(unsafe { libc::fstatfs(self.dir.as_raw_fd(), counts.as_mut_ptr()) })?;
        // SAFETY: the call succeeded.
        let counts = unsafe { counts.assume_init() };
        Ok((counts.f_blocks.wrapping_sub(counts.f_bfree), counts.f_files.wrapping_sub(counts.f_ffree)))
    }

    /// Whether it is as it was; its times are set back if they are all that differs.
    pub(super) fn is_restored(&self) -> bool {
        let Ok(stat) = fstat(&self.dir) else { return false };
        let [_, modified] = self.times;
        shape(&stat, self.takes_attributes.then_some(&self.path)) == self.before
            && ((stat.st_mtime, stat.st_mtime_nsec) == (modified.tv_sec, modified.tv_nsec)
                || self.set_times())
    }

    /// Its owner may do that: init, or the child that sweeps as the task.
    fn set_times(&self) -> bool {
        // SAFETY: a string and two times, all live.
        unsafe { libc::utimensat(libc::AT_FDCWD, self.path.as_ptr(), self.times.as_ptr(), 0) == 0 }
    }

    /// As the task's user: undoes what it could do to the root itself.
    pub(super) fn restore(&self, user: u32) {
        // Those that were there before stay, and then what was added is a stain.
        if self.takes_attributes && self.before.attributes == 0 {
            self.remove_attributes();
        }
        if self.uid() == user {
            // SAFETY: a live string, and numbers.
            unsafe {
                libc::chmod(self.path.as_ptr(), self.before.mode & 0o7777);
                libc::chown(self.path.as_ptr(), u32::MAX, self.before.owner.1);
            }
            self.set_times();
        }
    }

    fn remove_attributes(&self) {
        let mut names = vec![0_u8; ATTRIBUTE_NAMES_BYTES_MAX];
        // SAFETY: strings and a buffer, all live; each name ends with a zero byte.
        unsafe {
            let length = libc::listxattr(self.path.as_ptr(), names.as_mut_ptr().cast(), names.len());
            names.truncate(usize::try_from(length).unwrap_or(0));
            for name in names.split_inclusive(|byte| *byte == 0) {
                libc::removexattr(self.path.as_ptr(), name.as_ptr().cast());
            }
        }
    }
}

fn shape(stat: &FileStat, path: Option<&CString>) -> Shape {
    // SAFETY: a string; asks for the length only.
    let attributes = |path: &CStr| unsafe { libc::listxattr(path.as_ptr(), ptr::null_mut(), 0) };
    Shape {
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        links: stat.st_nlink,
        size: stat.st_size,
        attributes: path.map_or(0, |path| attributes(path)),
    }
}
