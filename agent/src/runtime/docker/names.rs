//! What the names of images stand for, without asking the engine each time: that takes milliseconds, and the first task of
//! each project waits for it.
//!
//! The engine keeps its names in one file, which it replaces as a whole, and before it answers, whenever a name comes,
//! goes or moves (moby, `reference/store.go`). While that file is the same, so are the names. Nothing is read from it.
//! The engine is asked each time where this can't be known: an agent that may not see the file, an image store that
//! has none (containerd's), or an engine newer than those that were looked at. And it is asked which of these it is, again
//! and again: it may be started anew as another one.

use crate::runtime::PreparedImage;
use bollard::{
    Docker,
    models::{ImageInspect, SystemInfo, SystemVersion},
};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The newest engine that is known to keep its names so.
const ENGINE_MAJOR_MAX: u32 = 28;

/// The most names that are remembered, in names.
const NAMES_MAX: usize = 256;

/// For how long one is, in seconds: whatever may happen to the engine meanwhile, an older answer is not believed.
const BELIEVED_SECS_MAX: u64 = 60;

/// How old the file must be for its stamp to tell it from the next one, in seconds: file systems count in ticks.
const SETTLED_SECS: u64 = 1;

/// All names that were asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    file: Mutex<Found>,
    known: Mutex<HashMap<String, Known>>,
}

/// Where the file is, if it was found, and when it was looked for.
#[derive(Debug, Default)]
struct Found {
    file: Option<PathBuf>,
    at: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    since: Instant,
    image: Arc<PreparedImage>,
}

/// What tells a file from the one that replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Names {
    /// Looks for the file of this engine, unless that was done a short while ago: another may have taken its place.
    pub(super) async fn look(&self, docker: &Docker) {
        if self.found().at.is_some_and(is_recent) {
            return;
        }
        let at = Some(Instant::now());
        let (version, info) = tokio::join!(docker.version(), docker.info());
        let file = version.ok().zip(info.ok()).and_then(|(version, info)| file_of(&version, &info));
        let mut found = self.found();
        if found.file != file {
            tracing::debug!(?file, "where the engine keeps the names of images");
            self.forget_all();
        }
        *found = Found { file, at };
    }

    /// What the file is now. To be taken before the engine is asked.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        stamp(self.found().file.as_deref()?)
    }

    /// What the name stands for, if that is known.
    pub(super) fn get(&self, name: &str) -> Option<Arc<PreparedImage>> {
        let stamp = self.stamp()?;
        let known = self.known();
        let found = known.get(name)?;
        (is_recent(found.since) && found.stamp == stamp).then(|| found.image.clone())
    }

    /// Remembers what the engine said, which was asked after the file had this stamp.
    pub(super) fn learn(
        &self,
        name: &str,
        said: &ImageInspect,
        stamp: Option<Stamp>,
        image: &Arc<PreparedImage>,
    ) {
        // Another kind of name, such as an id, is not in the file.
        let is_in_file = said
            .repo_tags
            .iter()
            .flatten()
            .any(|tag| tag.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest == ":latest"));
        let Some(stamp) = stamp.filter(|stamp| is_in_file && stamp.is_settled()) else { return };
        let mut known = self.known();
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), Known { stamp, since: Instant::now(), image: image.clone() });
    }

    /// Something that was known is not so.
    pub(super) fn forget_all(&self) {
        self.known().clear();
    }

    /// The engine was not there: it may come back as another one.
    pub(super) fn start_anew(&self) {
        *self.found() = Found::default();
        self.forget_all();
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(at: Instant) -> bool {
    at.elapsed() < Duration::from_secs(BELIEVED_SECS_MAX)
}

/// Where this engine keeps its names, if that is known and the file can be seen.
fn file_of(version: &SystemVersion, info: &SystemInfo) -> Option<PathBuf> {
    let major: u32 = version.version.as_ref()?.split('.').next()?.parse().ok()?;
    let has_containerd_store = info
        .driver_status
        .iter()
        .flatten()
        .flatten()
        .any(|word| word.starts_with("io.containerd.snapshotter"));
    let driver = info.driver.as_ref().filter(|driver| !driver.is_empty())?;
    if major > ENGINE_MAJOR_MAX || has_containerd_store {
        return None;
    }
    let file = Path::new(info.docker_root_dir.as_ref()?).join("image").join(driver).join("repositories.json");
    stamp(&file).map(|_| file)
}

impl Stamp {
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let latest = self.modified.0.max(self.changed.0);
        u64::try_from(latest).is_ok_and(|latest| latest + SETTLED_SECS < now)
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let found = fs::metadata(file).ok()?;
    Some(Stamp {
        inode: (found.dev(), found.ino()),
        length: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> (tempfile::TempDir, Names) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("repositories.json");
        fs::write(&file, "{}").unwrap();
        let found = Found { file: Some(file), at: Some(Instant::now()) };
        (dir, Names { file: Mutex::new(found), known: Mutex::default() })
    }

    fn image(handle: &str) -> Arc<PreparedImage> {
        let (env, volumes) = (Vec::new(), Vec::new());
        Arc::new(PreparedImage { handle: handle.into(), env, workdir: None, volumes })
    }

    fn tagged(tag: &str) -> ImageInspect {
        ImageInspect { repo_tags: Some(vec![tag.into()]), ..ImageInspect::default() }
    }

    /// As if the file had been there for long.
    fn settled(names: &Names) -> Option<Stamp> {
        names.stamp().map(|stamp| Stamp { modified: (1, 0), changed: (1, 0), ..stamp })
    }

    /// Learns, and then lets the file look as it did.
    fn learn(names: &Names, name: &str, tag: &str) {
        names.learn(name, &tagged(tag), settled(names), &image("one"));
        for known in names.known().values_mut() {
            known.stamp = names.stamp().unwrap();
        }
    }

    #[test]
    fn a_name_is_known_until_the_file_is_another() {
        let (dir, names) = bench();
        assert_eq!(names.get("busybox"), None);
        learn(&names, "busybox", "busybox:latest");
        assert_eq!(names.get("busybox"), Some(image("one")));
        assert_eq!(names.get("other"), None);
        let next = dir.path().join("next");
        fs::write(&next, "{}").unwrap();
        fs::rename(next, dir.path().join("repositories.json")).unwrap();
        assert_eq!(names.get("busybox"), None);
        fs::remove_file(dir.path().join("repositories.json")).unwrap();
        assert_eq!(names.get("busybox"), None);
    }

    #[test]
    fn what_the_file_does_not_decide_is_not_learnt() {
        let (_dir, names) = bench();
        learn(&names, "sha256:abc", "busybox:latest");
        learn(&names, "busy", "busybox:latest");
        names.learn("busybox", &tagged("busybox:latest"), names.stamp(), &image("too early"));
        names.learn("busybox", &tagged("busybox:latest"), None, &image("no file"));
        assert!(names.known().is_empty());
        learn(&names, "busybox:1", "busybox:1");
        assert_eq!(names.get("busybox:1"), Some(image("one")));
        names.forget_all();
        assert_eq!(names.get("busybox:1"), None);
    }

    #[test]
    fn only_engines_whose_file_is_known_have_one() {
        let (dir, names) = bench();
        let file = dir.path().join("image/btrfs/repositories.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "{}").unwrap();
        let file_of = |version: &str, driver: &str, status: &[&str]| {
            let version = SystemVersion { version: Some(version.into()), ..SystemVersion::default() };
            let status = status.iter().map(|word| (*word).to_owned()).collect();
            let info = SystemInfo {
                driver: Some(driver.into()),
                driver_status: Some(vec![status]),
                docker_root_dir: Some(dir.path().to_string_lossy().into_owned()),
                ..SystemInfo::default()
            };
            file_of(&version, &info)
        };
        assert_eq!(file_of("20.10.24+dfsg1", "btrfs", &["Library Version", "1"]).as_deref(), Some(&*file));
        assert_eq!(file_of("28.5.2", "btrfs", &[]).as_deref(), Some(&*file));
        assert_eq!(file_of("29.0.0", "btrfs", &[]), None);
        assert_eq!(file_of("28.5.2", "overlay2", &[]), None, "it has none");
        assert_eq!(file_of("28.5.2", "btrfs", &["driver-type", "io.containerd.snapshotter.v1"]), None);
        assert_eq!(file_of("dev", "btrfs", &[]), None);
        learn(&names, "busybox", "busybox:latest");
        names.start_anew();
        assert_eq!((names.stamp(), names.get("busybox")), (None, None));
    }

    #[test]
    fn no_more_names_are_kept_than_may() {
        let (_dir, names) = bench();
        for number in 0..=NAMES_MAX {
            let name = format!("image:{number}");
            learn(&names, &name, &name);
        }
        assert_eq!(names.known().len(), 1);
    }
}
