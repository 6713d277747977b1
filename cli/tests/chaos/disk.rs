//! A small disk: a file system in memory, which is full when it is told to be.

use crate::process::{run, succeeds};
use nix::sys::statvfs::statvfs;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What stays free on a full one, in bytes: less than a page of anything.
const LEFT_BYTES: u64 = 4096;

/// A disk; unmounted when it is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    bytes: u64,
}

impl Disk {
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Self {
        fs::create_dir(&path).expect("the disk's directory");
        let size = format!("size={bytes},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path));
        Self { path, bytes }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on nothing more can be written.
    pub(crate) fn fill(&self) {
        let space = statvfs(&self.path).expect("the disk's figures");
        let used = (space.blocks() - space.blocks_free()) * space.fragment_size();
        self.resize(used + LEFT_BYTES);
    }

    /// There is room again.
    pub(crate) fn clear(&self) {
        self.resize(self.bytes);
    }

    fn resize(&self, bytes: u64) {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.path));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds(Command::new("umount").arg("--lazy").arg(&self.path));
    }
}
