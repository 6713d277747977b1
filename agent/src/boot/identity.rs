//! The data directory: made, locked, and given an id that tells this agent's workers from others' on the same host.

use super::StartError;
use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// The length of an agent's id, in bytes; twice as many hexadecimal digits.
const ID_BYTES: usize = 16;

/// How much of it tells the agents of one host apart, in hexadecimal digits: names of workers have to be short.
const SHORT_DIGITS: usize = 8;

/// The length of a process' id, in bytes.
const INSTANCE_BYTES: usize = 8;

/// Makes the directory, and takes its lock for as long as the file is open.
pub(super) fn lock(data: &Path) -> Result<File, StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed(data))?;
    let path = data.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(data.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
    }
}

/// An agent's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AgentId(String);

impl AgentId {
    /// Tells it from all agents.
    pub(super) fn long(&self) -> &str {
        &self.0
    }

    /// Tells it from the agents of its host.
    pub(super) fn short(&self) -> &str {
        self.0.get(..SHORT_DIGITS).unwrap_or(&self.0)
    }
}

/// The agent's id, made when its data directory was.
pub(super) fn agent_id(data: &Path) -> Result<AgentId, StartError> {
    let path = data.join("agent-id");
    match fs::read_to_string(&path) {
        Ok(text) if is_id(text.trim()) => return Ok(AgentId(text.trim().to_owned())),
        Ok(_) => tracing::warn!(path = %path.display(), "no agent id in there; a new one is made"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&path)(error)),
    }
    let id = random_hex(ID_BYTES).map_err(failed(Path::new(RANDOM)))?;
    let part = path.with_extension("part");
    fs::write(&part, format!("{id}\n")).map_err(failed(&part))?;
    File::open(&part).and_then(|file| file.sync_all()).map_err(failed(&part))?;
    fs::rename(&part, &path).map_err(failed(&path))?;
    Ok(AgentId(id))
}

/// Told in Hello: made anew each time that the process starts.
pub(super) fn instance() -> Result<String, StartError> {
    random_hex(INSTANCE_BYTES).map_err(failed(Path::new(RANDOM)))
}

const RANDOM: &str = "/dev/urandom";

fn random_hex(count: usize) -> io::Result<String> {
    let mut bytes = vec![0; count];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    let mut hex = String::new();
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

fn is_id(text: &str) -> bool {
    text.len() == 2 * ID_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Path { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_agent_holds_a_directory_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("a/b");
        let held = lock(&data).expect("locks");
        assert!(matches!(lock(&data), Err(StartError::Locked(path)) if path == data));
        drop(held);
        lock(&data).expect("locks again");
        let mode = fs::metadata(&data).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn the_id_stays_and_is_made_again_if_it_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = agent_id(dir.path()).expect("makes one");
        assert!(is_id(id.long()), "{id:?}");
        assert_eq!(id.short().len(), SHORT_DIGITS);
        assert_eq!(agent_id(dir.path()).expect("reads it"), id);
        fs::write(dir.path().join("agent-id"), "../../etc").expect("writes");
        let other = agent_id(dir.path()).expect("makes one");
        assert!(is_id(other.long()) && other != id, "{other:?}");
    }
}
