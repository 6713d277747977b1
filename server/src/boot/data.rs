//! The data directory: its owner's alone, and one coordinator's at a time.

use super::StartError;
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// The lock's name in the directory. The file stays; the kernel releases the lock when its holder ends, however it ends.
const LOCK_NAME: &str = "piecework.lock";

/// A locked data directory. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, closes it to others, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, StartError> {
        let error = |source| StartError::Path { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
        tighten(path).map_err(error)?;
        let lock_path = path.join(LOCK_NAME);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| StartError::Path { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StartError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(StartError::Path { path: lock_path, source }),
        }
    }
}

/// What lies in here must be nobody else's to read. Tightened rather than refused, as most people's umask makes such
/// directories readable; but never a directory with something else in it.
fn tighten(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let ours = [LOCK_NAME, super::STORE_NAME].iter().any(|name| path.join(name).exists());
        let is_ours = ours || fs::read_dir(path)?.next().is_none();
        if !is_ours {
            return Err(io::Error::other(format!(
                "it holds other files and is open to others (mode {mode:o}): choose a directory of its own, or close it \
                 with `chmod 700`"
            )));
        }
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "closing the data directory to others");
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let _data = DataDir::lock(&path).unwrap();
        assert_eq!((mode(&path), mode(&path.join(LOCK_NAME))), (0o700, 0o600));
    }

    #[test]
    fn an_open_directory_is_tightened() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let _data = DataDir::lock(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path()).unwrap();
        assert!(matches!(DataDir::lock(dir.path()), Err(StartError::Locked(_))));
        drop(first);
        assert!(DataDir::lock(dir.path()).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let said = DataDir::lock(&path).map_err(|error| error.to_string()).unwrap_err();
        assert!(said.starts_with(&format!("can't use {}: ", path.display())), "{said}");
    }
}
