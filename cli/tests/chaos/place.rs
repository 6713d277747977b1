//! Where a run keeps all that it makes, and how what a killed run has left is found and removed.

use crate::{
    network::NAME,
    process::{kill_all, naming, succeeds, with_descendants},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names of directories begin so; then comes the process that made them.
const PREFIX: &str = "piecework-chaos-";

/// A directory for everything, removed when it is dropped; PIECEWORK_CHAOS_KEEP keeps it, with its logs.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
}

impl Place {
    /// A new one. What killed runs have left is removed before.
    pub(crate) fn new() -> Self {
        clear_former();
        let dir = tempfile::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        clear(&dir);
        fs::create_dir(&dir).expect("a temporary directory");
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end_all_in(&self.dir);
        if env::var_os("PIECEWORK_CHAOS_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Whether the process with this number is a run of this test.
fn is_running(number: &str) -> bool {
    let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("chaos")
}

fn clear_former() {
    for entry in fs::read_dir(tempfile::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PREFIX).is_some_and(|number| !is_running(number)) {
            clear(&entry.path());
        }
    }
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(NAME).and_then(|rest| rest.split('-').nth(1));
        if number.is_some_and(|number| !is_running(number)) {
            succeeds(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

/// Ends every process that works in this directory, and removes it.
fn clear(dir: &Path) {
    end_all_in(dir);
    let _ = fs::remove_dir_all(dir);
}

/// Ends every process that works in this directory, and unmounts what is mounted in it.
fn end_all_in(dir: &Path) {
    kill_all(&with_descendants(naming(dir)));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for point in points.into_iter().rev().filter(|point| Path::new(point).starts_with(dir)) {
        succeeds(Command::new("umount").args(["--lazy", point]));
    }
}
