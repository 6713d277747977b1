//! The Docker engine, through its own command line, as the things to compare with are said in it: one image with the very
//! programs of this machine, and containers with a label, so that none is left over.

use super::{error::BenchError, host};
use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

/// The label of every container that this program starts by itself.
const LABEL: &str = "piecework.bench";

/// Any image that is installed in the usual way has it; without it, each start of a program looks in many places.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// How often containers are looked for at the end: the engine may still be starting one whose client is gone.
const REMOVE_ROUNDS_MAX: u32 = 5;
const REMOVE_WAIT: Duration = Duration::from_millis(300);

/// An engine that answers, and the image in it.
#[derive(Debug)]
pub(super) struct Docker {
    /// The image's reference.
    pub(super) image: String,
    id: String,
}

impl Docker {
    /// What answers on this machine, or why nothing does.
    pub(super) async fn engine() -> Result<String, String> {
        host::program("docker")?;
        let format = "Docker {{.ServerVersion}} on {{.Driver}}";
        let info = host::run(&["docker", "info", "--format", format]).await;
        let info = info.map_err(|error| format!("no Docker engine answers: {error}"))?;
        Ok(String::from_utf8_lossy(info.stdout.trim_ascii()).into_owned())
    }

    /// Names what will be made, after a directory that nobody else has.
    pub(super) fn new(dir: &Path) -> Self {
        let id = dir.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        Self { image: format!("{id}:local"), id }
    }

    /// Where a program is in the image: where it is on this machine, unless that is a place of the bench's own. Workers have
    /// an empty file system over places such as `/tmp`.
    pub(super) fn inside(program: &Path, dir: &Path) -> PathBuf {
        match program.file_name() {
            Some(name) if program.starts_with(dir) => Path::new("/piecework-bench").join(name),
            _ => program.to_path_buf(),
        }
    }

    /// Makes the image: these programs, with the libraries that they need, and where the loader looks them up.
    pub(super) async fn make_image(&self, programs: &[&Path], dir: &Path) -> Result<(), BenchError> {
        let mut files = BTreeSet::new();
        for program in programs {
            files.extend(libraries(program).await?.into_iter().map(|library| (library.clone(), library)));
            files.insert((program.to_path_buf(), Self::inside(program, dir)));
        }
        let lookup = PathBuf::from(LOADER_CACHE);
        if lookup.exists() {
            files.insert((lookup.clone(), lookup));
        }
        let archive = dir.join("image.tar");
        tokio::task::spawn_blocking({
            let archive = archive.clone();
            move || pack(&archive, &files)
        })
        .await??;
        host::run(&["docker", "import", &archive.to_string_lossy(), &self.image]).await.map(drop)
    }

    /// `docker run` for a container that goes by itself and has no network, up to the image.
    pub(super) fn run(&self) -> String {
        format!("docker run --rm --network none --label {LABEL}={} {}", self.id, self.image)
    }

    /// Starts a container in the background, and returns its id.
    pub(super) async fn start(&self, command: &[&str]) -> Result<String, BenchError> {
        let label = format!("{LABEL}={}", self.id);
        let run = ["docker", "run", "--rm", "--detach", "--network", "none", "--label", &label, &self.image];
        let started = host::run(&[&run, command].concat()).await?;
        Ok(String::from_utf8_lossy(started.stdout.trim_ascii()).into_owned())
    }

    /// Removes a container.
    pub(super) async fn remove(container: &str) -> Result<(), BenchError> {
        host::run(&["docker", "rm", "--force", container]).await.map(drop)
    }

    /// Removes the image, and every container with our label or one of these.
    pub(super) async fn clean_up(&self, labels: &[String]) -> Result<(), BenchError> {
        let own = format!("{LABEL}={}", self.id);
        for round in 0..REMOVE_ROUNDS_MAX {
            let mut found = false;
            for label in labels.iter().chain([&own]) {
                let filter = format!("label={label}");
                let list = host::run(&["docker", "ps", "--all", "--quiet", "--filter", &filter]).await?;
                for container in String::from_utf8_lossy(&list.stdout).lines() {
                    found = true;
                    // It may be going by itself.
                    let _ = Self::remove(container).await;
                }
            }
            if !found && round > 0 {
                break;
            }
            tokio::time::sleep(REMOVE_WAIT).await;
        }
        host::run(&["docker", "image", "rm", "--force", &self.image]).await.map(drop)
    }
}

/// The libraries that a program needs, its loader included; none of a static one.
async fn libraries(program: &Path) -> Result<Vec<PathBuf>, BenchError> {
    // `ldd` ends with 1 on a static program, and says so.
    let line = format!("ldd {} 2>&1 || true", shell_words::quote(&program.to_string_lossy()));
    let said = String::from_utf8_lossy(&host::shell(&line).await?.stdout).into_owned();
    parse_ldd(&said)
        .ok_or_else(|| BenchError::Command { command: line, why: format!("says {}", said.trim()) })
}

/// The paths in what `ldd` says; none if it makes no sense, or a library is missing.
fn parse_ldd(said: &str) -> Option<Vec<PathBuf>> {
    if said.contains("not a dynamic executable") || said.contains("statically linked") {
        return Some(Vec::new());
    }
    let mut paths = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // `libc.so.6 => /lib/libc.so.6 (0x…)`, `/lib64/ld-linux.so.2 (0x…)`, or what the kernel brings: `vdso.so (0x…)`.
        let (what, _) = line.rsplit_once(" (0x")?;
        let path = what.rsplit_once("=> ").map_or(what, |(_, path)| path);
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    (!paths.is_empty()).then_some(paths)
}

/// Packs files, each under the path that it has in the image.
fn pack(archive: &Path, files: &BTreeSet<(PathBuf, PathBuf)>) -> Result<(), BenchError> {
    let mut tar = tar::Builder::new(File::create(archive).map_err(BenchError::file(archive))?);
    for (file, inside) in files {
        // Links are followed, so that what a link names has the link's name.
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        tar.append_path_with_name(file, inside).map_err(BenchError::file(file))?;
    }
    let file = tar.into_inner().map_err(BenchError::file(archive))?;
    file.sync_all().map_err(BenchError::file(archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let said = "  linux-vdso.so.1 (0x00007fd7c1e1c000)
  libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fd7c1c1f000)
  /lib64/ld-linux-x86-64.so.2 (0x00007fd7c1e1e000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(said), Some(expected.to_vec()));
        assert_eq!(parse_ldd("  not a dynamic executable\n"), Some(Vec::new()));
        assert_eq!(parse_ldd("  statically linked\n"), Some(Vec::new()));
        assert_eq!(parse_ldd("  libx.so => not found\n"), None);
        assert_eq!(parse_ldd("sh: 1: ldd: not found\n"), None);
    }

    #[test]
    fn an_archive_has_files_under_their_own_names() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let archive = dir.path().join("a.tar");
        pack(&archive, &BTreeSet::from([(link.clone(), link.clone())])).unwrap();
        let mut tar = tar::Archive::new(File::open(&archive).unwrap());
        let entries: Vec<_> = tar.entries().unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].path().unwrap(), link.strip_prefix("/").unwrap());
        assert!(entries[0].header().entry_type().is_file());
    }
}
