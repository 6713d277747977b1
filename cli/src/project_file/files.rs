//! Files that are copied into an image or read on stdin: found beside the project file, measured and hashed when the project file is read,
//! and read again when they are sent.

use super::{
    document::Scalar,
    problem::{Problem, ProjectFileError, quoted},
    shape::Ordered,
    values::is_image_path,
};
use bytes::Bytes;
use piecework_proto::v1;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Most files of one image.
const IMAGE_FILES_MAX: usize = 10_000;
/// Longest file of an image.
const IMAGE_FILE_BYTES_MAX: u64 = 4 << 30;
/// Longest file that a task reads on its stdin.
const STDIN_FILE_BYTES_MAX: u64 = 1 << 30;
/// Deepest directory that is copied.
const DIRECTORY_DEPTH_MAX: usize = 64;
/// How much of a file is read at a time, and sent in one message.
const BLOCK_BYTES: usize = 1 << 20;

/// A file to send with a submission.
#[derive(Clone, Debug)]
pub struct FileToSend {
    /// SHA-256 of its contents.
    pub sha256: [u8; 32],
    /// Length of its contents in bytes.
    pub length: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl FileToSend {
    /// Reads the file in blocks, and fails at the end if it is no longer what it was.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn blocks(&self) -> Result<Blocks, ProjectFileError> {
        let file = File::open(&self.path).map_err(|source| unreadable(&self.path, source))?;
        Ok(Blocks { file, expected: self.clone(), digest: Sha256::new(), sent: 0, ended: false })
    }
}

/// The blocks of a file; at least one, and the last is marked.
#[derive(Debug)]
pub struct Blocks {
    file: File,
    expected: FileToSend,
    digest: Sha256,
    sent: u64,
    ended: bool,
}

impl Blocks {
    fn read(&mut self) -> Result<v1::BlobChunk, ProjectFileError> {
        let block = read_block(&mut self.file).map_err(|source| unreadable(&self.expected.path, source))?;
        self.sent += block.len() as u64;
        self.digest.update(&block);
        self.ended = self.sent >= self.expected.length || block.is_empty();
        if self.ended {
            let digest: [u8; 32] = std::mem::take(&mut self.digest).finalize().into();
            if self.sent != self.expected.length || digest != self.expected.sha256 {
                return Err(ProjectFileError::Changed(self.expected.path.clone()));
            }
        }
        Ok(v1::BlobChunk {
            sha256: self.expected.sha256.to_vec(),
            data: Bytes::from(block),
            last: self.ended,
        })
    }
}

impl Iterator for Blocks {
    type Item = Result<v1::BlobChunk, ProjectFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let block = self.read();
        self.ended |= block.is_err();
        Some(block)
    }
}

fn read_block(file: &mut File) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    file.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
    Ok(block)
}

fn unreadable(path: &Path, source: io::Error) -> ProjectFileError {
    ProjectFileError::Read { what: "the file", path: path.to_owned(), source }
}

/// Finds the file that a task reads on its stdin, beside the project file.
pub(super) fn stdin(file: &Scalar, base: &Path) -> Result<FileToSend, Problem> {
    let path = base.join(&file.value);
    let unreadable = |error: io::Error| {
        Problem::at(file.referenced, format!("can't read {}: {error}", path.display()))
            .hint("a stdin's file is looked for beside the project file")
    };
    let metadata = fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Problem::at(file.referenced, format!("{} is no file", path.display())));
    }
    if metadata.len() > STDIN_FILE_BYTES_MAX {
        let what = format!("{} is longer than {STDIN_FILE_BYTES_MAX} bytes", path.display());
        return Err(Problem::at(file.referenced, what));
    }
    let (sha256, length) = hash(&path).map_err(unreadable)?;
    Ok(FileToSend { sha256, length, path })
}

/// The files of one image, as they are found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) in_image: Vec<v1::ImageFile>,
    pub(super) to_send: Vec<FileToSend>,
    destinations: BTreeSet<String>,
}

/// Finds everything that `copy` names. Sources are relative to `base`.
pub(super) fn collect(copy: &Ordered<Scalar>, base: &Path) -> Result<Collected, Problem> {
    let mut collected = Collected::default();
    for (source, destination) in &copy.0 {
        let path = base.join(&source.value);
        let at_source = |why: String| Problem::at(source.referenced, why);
        let metadata = fs::metadata(&path).map_err(|error| {
            at_source(format!("can't read {}: {error}", path.display()))
                .hint("sources are looked for beside the project file")
        })?;
        let mut target = destination.value.clone();
        if target.ends_with('/') && !metadata.is_dir() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            target.push_str(name);
        }
        let target = target.strip_suffix('/').filter(|_| metadata.is_dir()).unwrap_or(&target);
        let to_root = target.is_empty() && metadata.is_dir();
        if !is_image_path(target) && !to_root {
            let what = format!(
                "{} is no absolute path without `.`, `..` and empty parts",
                quoted(&destination.value)
            );
            return Err(Problem::at(destination.referenced, what).hint(
                "`copy` maps a source beside this file to its place in the image: `queens: /bin/queens`",
            ));
        }
        collected.add(&path, &metadata, target, 0).map_err(at_source)?;
    }
    Ok(collected)
}

impl Collected {
    fn add(&mut self, path: &Path, metadata: &Metadata, target: &str, depth: usize) -> Result<(), String> {
        if metadata.is_dir() {
            return self.add_directory(path, target, depth);
        }
        if !metadata.is_file() {
            return Err(format!("{} is neither a file nor a directory", path.display()));
        }
        if self.in_image.len() >= IMAGE_FILES_MAX {
            return Err(format!("more than {IMAGE_FILES_MAX} files are to be copied"));
        }
        if metadata.len() > IMAGE_FILE_BYTES_MAX {
            return Err(format!("{} is longer than {IMAGE_FILE_BYTES_MAX} bytes", path.display()));
        }
        if !is_image_path(target) {
            return Err(format!("{} can't be a path in the image", quoted(target)));
        }
        if !self.destinations.insert(target.to_owned()) {
            return Err(format!("another file is copied to {} already", quoted(target)));
        }
        let (sha256, length) =
            hash(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
        let mode = metadata.permissions().mode() & 0o777;
        self.in_image.push(v1::ImageFile { path: target.to_owned(), sha256: sha256.to_vec(), mode, length });
        if !self.to_send.iter().any(|file| file.sha256 == sha256) {
            self.to_send.push(FileToSend { sha256, length, path: path.to_owned() });
        }
        Ok(())
    }

    /// Walks a directory in the order of names, so that the image is the same each time.
    fn add_directory(&mut self, path: &Path, target: &str, depth: usize) -> Result<(), String> {
        let unreadable = |error: io::Error| format!("can't read {}: {error}", path.display());
        if depth >= DIRECTORY_DEPTH_MAX {
            return Err(format!("{} is more than {DIRECTORY_DEPTH_MAX} directories deep", path.display()));
        }
        let mut entries = fs::read_dir(path)
            .and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
            })
            .map_err(unreadable)?;
        entries.sort();
        for entry in entries {
            let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
                return Err(format!("the name of {} is not UTF-8", entry.display()));
            };
            let metadata =
                fs::metadata(&entry).map_err(|error| format!("can't read {}: {error}", entry.display()))?;
            self.add(&entry, &metadata, &format!("{target}/{name}"), depth + 1)?;
        }
        Ok(())
    }
}

fn hash(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut length = 0;
    loop {
        let block = read_block(&mut file)?;
        if block.is_empty() {
            return Ok((digest.finalize().into(), length));
        }
        length += block.len() as u64;
        digest.update(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_saphyr::Location;

    fn copy(pairs: &[(&str, &str)]) -> Ordered<Scalar> {
        let scalar = |text: &str| Scalar::new(text.to_owned(), Location::UNKNOWN, Location::UNKNOWN);
        Ordered(pairs.iter().map(|(from, to)| (scalar(from), scalar(to))).collect())
    }

    #[test]
    fn directories_are_walked_and_equal_files_sent_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib/sub")).unwrap();
        for (path, content) in [("tool", "x"), ("lib/b", "b"), ("lib/a", "x"), ("lib/sub/c", "")] {
            fs::write(dir.path().join(path), content).unwrap();
        }
        fs::set_permissions(dir.path().join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        let found = collect(&copy(&[("tool", "/bin/"), ("lib", "/usr/lib/")]), dir.path()).unwrap();
        let paths: Vec<&str> = found.in_image.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/bin/tool", "/usr/lib/a", "/usr/lib/b", "/usr/lib/sub/c"]);
        assert_eq!(found.in_image[0].mode, 0o755);
        assert_eq!(found.to_send.len(), 3);
        let empty = found.to_send.iter().find(|file| file.length == 0).unwrap();
        let blocks: Vec<_> = empty.blocks().unwrap().map(Result::unwrap).collect();
        assert!(matches!(&blocks[..], [only] if only.last && only.data.is_empty()));
    }

    #[test]
    fn a_changed_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        fs::write(&path, vec![1; BLOCK_BYTES + 1]).unwrap();
        let found = collect(&copy(&[("tool", "/tool")]), dir.path()).unwrap();
        let lengths: Vec<usize> =
            found.to_send[0].blocks().unwrap().map(|block| block.unwrap().data.len()).collect();
        assert_eq!(lengths, [BLOCK_BYTES, 1]);
        for content in [vec![2; BLOCK_BYTES + 1], vec![1; 5], vec![]] {
            fs::write(&path, content).unwrap();
            let last = found.to_send[0].blocks().unwrap().last().unwrap();
            assert!(matches!(last, Err(ProjectFileError::Changed(_))), "{last:?}");
        }
    }

    #[test]
    fn bad_destinations_and_sources_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "x").unwrap();
        for pairs in [
            &[("tool", "bin/tool")][..],
            &[("tool", "/a/../b")],
            &[("none", "/a")],
            &[("tool", "/a"), ("./tool", "/a")],
        ] {
            assert!(collect(&copy(pairs), dir.path()).is_err(), "{pairs:?}");
        }
    }
}
