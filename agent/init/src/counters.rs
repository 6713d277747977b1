//! How often the kernel has killed a process of init's own control group for want of memory, and refused it one for the
//! limit on their number: cgroup v1 and v2, with and without a cgroup namespace.
//!
//! Both are read once after every run, from files that stay open, which costs about two microseconds: so what one run did
//! is never taken for the next one's.

use crate::mounts::Mount;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Longest of the files.
const FILE_BYTES_MAX: usize = 1 << 10;

/// Where the counts are read.
#[derive(Debug)]
pub(crate) struct Counters {
    memory: Option<Counter>,
    pids: Option<Counter>,
}

/// How far the counts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) oom_kills: u64,
    pub(crate) pids_refused: u64,
}

impl Counts {
    /// What came since then.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            oom_kills: self.oom_kills.saturating_sub(before.oom_kills),
            pids_refused: self.pids_refused.saturating_sub(before.pids_refused),
        }
    }
}

impl Counters {
    /// Finds the files; without one, its count stays 0.
    pub(crate) fn find() -> Self {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let open = |kind: &Kind| {
            let counters = candidates(kind, &cgroups, &mounts)
                .into_iter()
                .filter_map(|path| Some(Counter { file: File::open(path).ok()?, name: kind.name }));
            counters.into_iter().find(|counter| counter.read().is_some())
        };
        Self { memory: open(&MEMORY), pids: open(&PIDS) }
    }

    /// The counts so far.
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &Option<Counter>| counter.as_ref().and_then(Counter::read).unwrap_or(0);
        Counts { oom_kills: read(&self.memory), pids_refused: read(&self.pids) }
    }
}

#[derive(Debug)]
struct Counter {
    file: File,
    name: &'static str,
}

impl Counter {
    fn read(&self) -> Option<u64> {
        let mut buffer = [0; FILE_BYTES_MAX];
        let length = self.file.read_at(&mut buffer, 0).ok()?;
        parse(&buffer[..length], self.name)
    }
}

/// The number behind the name, which is a word of its own at the start of a line.
fn parse(text: &[u8], name: &str) -> Option<u64> {
    let number = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b" "))?;
    str::from_utf8(number).ok()?.trim().parse().ok()
}

/// A controller, its file in either version of control groups, and the count's name in it.
struct Kind {
    controller: &'static str,
    file_v1: &'static str,
    file_v2: &'static str,
    name: &'static str,
}

const MEMORY: Kind =
    Kind { controller: "memory", file_v1: "memory.oom_control", file_v2: "memory.events", name: "oom_kill" };

const PIDS: Kind = Kind { controller: "pids", file_v1: "pids.events", file_v2: "pids.events", name: "max" };

/// The files that could have the count. Without a cgroup namespace, a container sees the host's path of its group in
/// `/proc/self/cgroup`, but the mount shows the group itself: then the mount's own directory is the right one.
fn candidates(kind: &Kind, cgroups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|controller| controller == kind.controller) {
            continue;
        }
        let name = if unified { kind.file_v2 } else { kind.file_v1 };
        for mount in mounts.lines().filter_map(Mount::parse) {
            let fits = if unified {
                mount.kind == "cgroup2"
            } else {
                mount.kind == "cgroup" && mount.super_has(kind.controller)
            };
            if !fits {
                continue;
            }
            let inner =
                Path::new(path).strip_prefix(&mount.root).or_else(|_| Path::new(path).strip_prefix("/"));
            if let Ok(inner) = inner {
                files.push(mount.point.join(inner).join(name));
            }
            files.push(mount.point.join(name));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroups: &str, mounts: &str, first: &str) {
        assert_eq!(
            candidates(&MEMORY, cgroups, mounts).first().map(PathBuf::as_path),
            Some(Path::new(first))
        );
    }

    #[test]
    fn version_1_on_the_host() {
        check(
            "4:memory:/user.slice\n0::/",
            "30 20 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
            "/sys/fs/cgroup/memory/user.slice/memory.oom_control",
        );
    }

    #[test]
    fn version_1_in_a_container_without_a_namespace() {
        check(
            "9:name=systemd:/docker/12ab\n4:cpu,memory:/docker/12ab",
            "9 2 0:29 /docker/12ab /sys/fs/cgroup/cpu ro,nosuid - cgroup cgroup rw,cpu\n\
             10 2 0:30 /docker/12ab /sys/fs/cgroup/memory ro,nosuid master:11 - cgroup cgroup rw,memory",
            "/sys/fs/cgroup/memory/memory.oom_control",
        );
    }

    #[test]
    fn version_2() {
        let mounts = "30 20 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate";
        check("0::/", mounts, "/sys/fs/cgroup/memory.events");
        check("0::/system.slice/a.service", mounts, "/sys/fs/cgroup/system.slice/a.service/memory.events");
    }

    #[test]
    fn nonsense_finds_nothing() {
        assert!(candidates(&MEMORY, "nonsense\n4:memory", "x - y").is_empty());
    }

    #[test]
    fn pids_have_a_controller_of_their_own() {
        let mounts = "9 2 0:29 /docker/12ab /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n\
                      30 20 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw";
        let found = candidates(&PIDS, "4:pids:/docker/12ab\n0::/", mounts);
        assert!(found.contains(&"/sys/fs/cgroup/pids/pids.events".into()), "{found:?}");
        assert!(found.contains(&"/sys/fs/cgroup/pids.events".into()), "{found:?}");
    }

    #[test]
    fn counts_are_found_by_their_whole_name() {
        let events = b"low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n";
        assert_eq!((parse(events, "oom_kill"), parse(events, "max")), (Some(3), Some(7)));
        let control = b"oom_kill_disable 0\nunder_oom 0\noom_kill 5\n";
        assert_eq!((parse(control, "oom_kill"), parse(control, "max")), (Some(5), None));
        assert_eq!(parse(b"max \xff", "max"), None);
    }

    #[test]
    fn a_difference_never_falls_below_nothing() {
        let counts = |oom_kills, pids_refused| Counts { oom_kills, pids_refused };
        assert_eq!(counts(5, 1).since(counts(3, 2)), counts(2, 0));
    }
}
