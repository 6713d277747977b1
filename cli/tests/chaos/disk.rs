//! A small disk: a file system in memory, which is full when it is told to be.

use crate::process::{run, succeeds, wait};
use nix::sys::statvfs::statvfs;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What stays free on a full one, in bytes: less than a page of anything.
const LEFT_BYTES: u64 = 4096;

/// How long it may take to fill one that is being written to.
const FILL_MAX: Duration = Duration::from_secs(10);

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
        // More may be used by the time that it is resized, which is refused then.
        let filled = wait(FILL_MAX, || {
            let space = statvfs(&self.path).expect("the disk's figures");
            let used = (space.blocks() - space.blocks_free()) * space.fragment_size();
            succeeds(&mut self.resizing(used + LEFT_BYTES))
        });
        assert!(filled.is_some(), "{} can't be filled", self.path.display());
    }

    /// There is room again.
    pub(crate) fn clear(&self) {
        run(&mut self.resizing(self.bytes));
    }

    fn resizing(&self, bytes: u64) -> Command {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={bytes}")]).arg(&self.path);
        mount
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds(Command::new("umount").arg("--lazy").arg(&self.path));
    }
}
