//! The init that the agent carries, put where workers can be started from it.

use crate::images::hex;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The program itself, built by the build script.
const INIT: &[u8] = include_bytes!(env!("PIECEWORK_INIT"));

/// Writes init below the data directory, if it is not there, and returns its path. It is named by its digest: workers of
/// an earlier version go on with theirs.
pub(super) fn install(data: &Path) -> io::Result<PathBuf> {
    let dir = data.join("init");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("piecework-init-{}", hex(&Sha256::digest(INIT)[..8])));
    // Compared as a whole: a write that a crash has cut must not stay.
    if fs::read(&path).is_ok_and(|there| there == INIT) {
        return Ok(path);
    }
    let draft = dir.join(format!(".{}.new", std::process::id()));
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&draft)?;
    file.write_all(INIT)?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_installed_whole_and_executable() {
        let data = tempfile::tempdir().unwrap();
        let path = install(data.path()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(&path, "cut").unwrap();
        assert_eq!(install(data.path()).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), INIT);
    }

    #[test]
    fn it_is_static() {
        // The program headers of a 64-bit ELF file: where they start, and how many there are, 56 bytes each.
        let (start, count) = (usize::from(INIT[32]) + usize::from(INIT[33]) * 256, usize::from(INIT[56]));
        let kinds: Vec<_> = (0..count).map(|index| INIT[start + index * 56]).collect();
        let (load, interpreter) = (1, 3);
        assert!(
            kinds.contains(&load) && !kinds.contains(&interpreter),
            "it names a dynamic loader: {kinds:?}"
        );
    }
}
