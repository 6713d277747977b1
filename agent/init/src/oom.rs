//! How many processes of init's own control group the kernel has killed for want of memory: cgroup v1 and v2, with and
//! without a cgroup namespace.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// How much sooner than others a task is chosen when memory runs out: init outlives it, and so does the host.
const TASK_SCORE: &str = "500";

/// init's own readiness to be chosen, which children inherit. It is raised only while a child is born, so that no child
/// need open a file of its own.
#[derive(Debug)]
pub(crate) struct OomScore {
    file: File,
    own: String,
}

/// Lowers init's score again.
pub(crate) struct Raised<'a>(&'a OomScore);

impl OomScore {
    /// None where that can't be changed; that is no reason to fail.
    pub(crate) fn open() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().to_owned();
        let file = File::options().write(true).open("/proc/self/oom_score_adj").ok()?;
        Some(Self { file, own })
    }

    pub(crate) fn raise(&self) -> Raised<'_> {
        let _ = self.file.write_at(TASK_SCORE.as_bytes(), 0);
        Raised(self)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        let _ = self.0.file.write_at(self.0.own.as_bytes(), 0);
    }
}

/// Where the count is read.
#[derive(Debug)]
pub(crate) struct OomCounter {
    file: Option<PathBuf>,
}

impl OomCounter {
    /// Finds the file; without one, the count stays 0.
    pub(crate) fn find() -> Self {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self { file: candidates(&cgroups, &mounts).into_iter().find(|file| read(file).is_some()) }
    }

    /// The count so far.
    pub(crate) fn count(&self) -> u64 {
        self.file.as_deref().and_then(read).unwrap_or(0)
    }
}

fn read(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The files that could have the count. Without a cgroup namespace, a container sees the host's path of its group in
/// `/proc/self/cgroup`, but the mount shows the group itself: then the mount's own directory is the right one.
fn candidates(cgroups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|controller| controller == "memory") {
            continue;
        }
        let name = if unified { "memory.events" } else { "memory.oom_control" };
        for mount in mounts.lines().filter_map(Mount::parse) {
            let fits =
                if unified { mount.kind == "cgroup2" } else { mount.kind == "cgroup" && mount.has("memory") };
            if !fits {
                continue;
            }
            let inner =
                Path::new(path).strip_prefix(mount.root).or_else(|_| Path::new(path).strip_prefix("/"));
            if let Ok(inner) = inner {
                files.push(Path::new(mount.point).join(inner).join(name));
            }
            files.push(Path::new(mount.point).join(name));
        }
    }
    files
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        Some(Self {
            root: front.next()?,
            point: front.next()?,
            kind: back.next()?,
            options: back.nth(1).unwrap_or_default(),
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroups: &str, mounts: &str, first: &str) {
        assert_eq!(candidates(cgroups, mounts).first().map(PathBuf::as_path), Some(Path::new(first)));
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
        assert!(candidates("nonsense\n4:memory", "x - y").is_empty());
    }
}
