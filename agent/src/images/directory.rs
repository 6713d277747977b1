//! Without Docker, an image is a directory with its files.

use super::hex;
use crate::domain::ImageFile;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Makes the directory of a build below `images`, if it is not there. `sources` are local files with the contents of
/// `files`. It appears under its name only when it is complete and durable. For a thread in which blocking is allowed.
///
/// # Errors
/// If a file can't be copied.
pub fn materialise(
    images: &Path,
    digest: &str,
    files: &[ImageFile],
    sources: &[PathBuf],
) -> io::Result<PathBuf> {
    let done = images.join(digest);
    if done.is_dir() {
        return Ok(done);
    }
    let draft = images.join(format!(".{digest}.{}", std::process::id()));
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    fs::create_dir_all(&draft)?;
    let copied = files.iter().zip(sources).try_for_each(|(file, source)| copy(&draft, file, source));
    if let Err(error) = copied.and_then(|()| fs::rename(&draft, &done)) {
        let _ = fs::remove_dir_all(&draft);
        return Err(error);
    }
    File::open(images)?.sync_all()?;
    Ok(done)
}

fn copy(root: &Path, file: &ImageFile, source: &Path) -> io::Result<()> {
    let inner = file.path.strip_prefix("/").map_err(io::Error::other)?;
    let path = root.join(inner);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut contents = File::open(source)?;
    let mut target = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let length = io::copy(&mut contents, &mut target)?;
    if length != file.length {
        let sha256 = hex(&file.sha256);
        return Err(io::Error::other(format!(
            "the file with SHA-256 {sha256} has {length} bytes, not {}",
            file.length
        )));
    }
    target.set_permissions(fs::Permissions::from_mode(file.mode & 0o777))?;
    target.flush()?;
    target.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, length: u64) -> ImageFile {
        ImageFile { path: path.into(), sha256: [0; 32], mode: 0o750, length }
    }

    #[test]
    fn a_directory_is_complete_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        let source = dir.path().join("source");
        fs::write(&source, "abc").unwrap();
        let sources = [source.clone(), source];
        let error = materialise(&images, "d", &[file("/a", 3), file("/b", 4)], &sources).unwrap_err();
        assert!(error.to_string().contains("has 3 bytes, not 4"), "{error}");
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);

        let made = materialise(&images, "d", &[file("/usr/bin/a", 3)], &sources).unwrap();
        let path = made.join("usr/bin/a");
        assert_eq!(fs::read_to_string(&path).unwrap(), "abc");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(materialise(&images, "d", &[file("/usr/bin/a", 3)], &sources).unwrap(), made);
    }
}
