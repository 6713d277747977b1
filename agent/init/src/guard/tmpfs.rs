//! One tmpfs in which tasks can write at the top, and nowhere else as long as it is as it was at the start: so what is in
//! it shows in its counts and at its root.

use super::{Stain, root::Root};
use crate::privileges::TaskUser;
use std::path::{Path, PathBuf};

/// The file system.
#[derive(Debug)]
pub(super) struct Tmpfs {
    point: PathBuf,
    root: Root,
    /// Blocks and inodes.
    before: (u64, u64),
}

impl Tmpfs {
    pub(super) fn new(point: PathBuf, user: TaskUser) -> nix::Result<Self> {
        let root = Root::new(&point, user.uid)?;
        Ok(Self { before: root.usage()?, root, point })
    }

    pub(super) fn point(&self) -> &Path {
        &self.point
    }

    /// Compares it, and sets its root's times back if they are all that differs.
    pub(super) fn look(&self) -> Result<(), Stain> {
        let is_same = self.root.usage() == Ok(self.before) && self.root.is_restored();
        if is_same { Ok(()) } else { Err(Stain::Files(self.point.clone())) }
    }

    /// As the task's user: undoes what it could do to the root itself.
    pub(super) fn restore_root(&self, user: TaskUser) {
        self.root.restore(user.uid);
    }
}
