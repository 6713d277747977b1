//! Images that are made here: their name, their Dockerfile and what goes into the build, or the directory that stands in
//! for one without Docker. And [`Once`], by which concurrent callers have such work done once.

mod context;
mod directory;
mod once;

pub use context::{BUILD_LABEL, CONTEXT_FILES, context, dockerfile};
pub use directory::materialise;
pub use once::Once;

use crate::domain::ImageFile;
use sha2::{Digest, Sha256};
use std::{fmt::Write, os::unix::ffi::OsStrExt};

/// Names what is built: the same parts have the same name on every host.
#[must_use]
pub fn build_digest(from: &str, files: &[ImageFile], run: &[String]) -> String {
    let mut hash = Sha256::new();
    // Each part is preceded by its length, so that no two builds share their bytes.
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(b"piecework build 1");
    part(from.as_bytes());
    part(&(files.len() as u64).to_le_bytes());
    for file in files {
        part(file.path.as_os_str().as_bytes());
        part(&file.sha256);
        part(&file.mode.to_le_bytes());
    }
    for command in run {
        part(command.as_bytes());
    }
    hex(&hash.finalize()[..16])
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: u32) -> ImageFile {
        ImageFile { path: path.into(), sha256: [7; 32], mode, length: 1 }
    }

    #[test]
    fn the_digest_tells_builds_apart() {
        let digest = |from, files: &[ImageFile], run: &[&str]| {
            build_digest(from, files, &run.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let all = [
            digest("scratch", &[], &[]),
            digest("busybox", &[], &[]),
            digest("scratch", &[file("/a", 0o755)], &[]),
            digest("scratch", &[file("/a", 0o644)], &[]),
            digest("scratch", &[file("/b", 0o755)], &[]),
            digest("scratch", &[], &["ab"]),
            digest("scratch", &[], &["a", "b"]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 32);
            assert!(!all[..index].contains(one), "{index}");
        }
        assert_eq!(digest("scratch", &[], &[]), all[0]);
    }
}
