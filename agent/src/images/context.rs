//! The generated Dockerfile, and the archive that is sent to the engine with it.

use crate::domain::ImageFile;
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

/// The directory of the archive that has the files, named by their position.
pub const CONTEXT_FILES: &str = "files";

/// How many bytes of the archive are sent at once.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// The label that every image of a build has, also what a failed one leaves; its value is the digest.
pub const BUILD_LABEL: &str = "piecework.build";

/// The Dockerfile of a build. All words are in JSON form, so that no shell and no Dockerfile syntax gets at them.
#[must_use]
pub fn dockerfile(digest: &str, from: &str, files: &[ImageFile], run: &[String]) -> String {
    let mut text = format!("FROM {from}\nLABEL {BUILD_LABEL}={digest}\n");
    for (index, file) in files.iter().enumerate() {
        let words = [format!("{CONTEXT_FILES}/{index}"), literal(&file.path.to_string_lossy())];
        text += &format!("COPY {}\n", json(&words));
    }
    for command in run {
        text += &format!("RUN {}\n", json(&["/bin/sh".into(), "-c".into(), command.clone()]));
    }
    text
}

/// COPY replaces variables and takes quotes away even in JSON form; this is what it leaves alone.
fn literal(path: &str) -> String {
    let mut text = String::new();
    for character in path.chars() {
        if matches!(character, '\\' | '\'' | '"' | '$') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

fn json(words: &[String]) -> String {
    serde_json::Value::from(words).to_string()
}

/// Writes the archive of a build into a channel; for a thread in which blocking is allowed. `sources` are the local files
/// with the contents of `files`. If the receiver is gone, it stops.
///
/// # Errors
/// If a file can't be read or has not the length that was said.
pub fn context(
    dockerfile: &str,
    files: &[ImageFile],
    sources: &[PathBuf],
    chunks: mpsc::Sender<Result<Bytes, io::Error>>,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(Chunks { chunks, buffer: Vec::with_capacity(CHUNK_BYTES_MAX) });
    append(&mut archive, Path::new("Dockerfile"), 0o644, dockerfile.len() as u64, dockerfile.as_bytes())?;
    for (index, (file, source)) in files.iter().zip(sources).enumerate() {
        let contents = File::open(source)?;
        if contents.metadata()?.len() != file.length {
            return Err(io::Error::other(format!(
                "{} has not the length that was said",
                file.path.display()
            )));
        }
        let path = Path::new(CONTEXT_FILES).join(index.to_string());
        append(&mut archive, &path, file.mode, file.length, contents)?;
    }
    archive.into_inner()?.flush()
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    mode: u32,
    length: u64,
    contents: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode & 0o777);
    header.set_size(length);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    // Takes no more than was said, in case that the file grows meanwhile.
    archive.append_data(&mut header, path, contents.take(length))
}

/// A writer that sends what it is given in chunks.
struct Chunks {
    chunks: mpsc::Sender<Result<Bytes, io::Error>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES_MAX {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer).into();
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, length: u64) -> ImageFile {
        ImageFile { path: path.into(), sha256: [0; 32], mode: 0o755, length }
    }

    #[test]
    fn a_dockerfile_has_no_syntax_from_outside() {
        let text = dockerfile(
            "12ab",
            "debian:bookworm-slim",
            &[file("/bin/queens", 1), file("/a b/$HOME \"q\"\\n'", 1)],
            &["apt-get update && echo \"$HOME\"\necho next".into()],
        );
        let expected = r#"FROM debian:bookworm-slim
LABEL piecework.build=12ab
COPY ["files/0","/bin/queens"]
COPY ["files/1","/a b/\\$HOME \\\"q\\\"\\\\n\\'"]
RUN ["/bin/sh","-c","apt-get update && echo \"$HOME\"\necho next"]
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn the_archive_has_the_dockerfile_and_all_files_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let contents = vec![42; 600_000];
        std::fs::write(&source, &contents).unwrap();
        let (sender, mut receiver) = mpsc::channel(100);
        context("FROM scratch\n", &[file("/x", 600_000)], std::slice::from_ref(&source), sender).unwrap();
        let mut archive = Vec::new();
        while let Some(chunk) = receiver.blocking_recv() {
            archive.extend_from_slice(&chunk.unwrap());
        }
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            seen.push((entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), bytes));
        }
        let expected =
            [("Dockerfile".into(), 0o644, b"FROM scratch\n".to_vec()), ("files/0".into(), 0o755, contents)];
        assert_eq!(seen, expected);

        let (sender, _receiver) = mpsc::channel(100);
        let error = context("", &[file("/x", 1)], &[source], sender).unwrap_err();
        assert!(error.to_string().contains("/x has not the length"), "{error}");
    }
}
