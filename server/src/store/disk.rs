//! How full the disk is.

use std::path::Path;

/// How many bytes the file system of this path has left for us; none if it does not tell.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let figures = nix::sys::statvfs::statvfs(path).ok()?;
    Some(figures.blocks_available().saturating_mul(figures.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_tells_and_a_missing_path_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).is_some());
        assert!(free_bytes(Path::new("")).is_some());
        assert_eq!(free_bytes(&dir.path().join("missing")), None);
    }
}
