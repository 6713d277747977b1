//! The directory of each worker on the host, and the way to the socket in it.

use super::{Begun, RuntimeKind, WorkerId};
use crate::{
    blocking::blocking,
    domain::{AttemptKey, Phase},
};
use piecework_init::frame;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    future::Future,
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

/// The name of the socket in the part of a worker's directory that is init's.
pub(super) const SOCKET: &str = "init.sock";

/// That part. The rest is the agent's own, and nothing in a worker can reach it.
pub(super) const INIT_DIR: &str = "init";

/// Where the agent notes which attempts it sends: a ring of records, more than an init can hold, and after it the number of
/// the last run that was released.
const NOTES: &str = "runs";

/// What init's file says before any run has begun: they are counted from 1.
const NO_RUN: u64 = 0;

const NOTES_MAX: u64 = 256;
const NOTE_BYTES: usize = 32;

/// How long a new worker's init may take to listen.
pub(super) const LISTEN_SECS_MAX: u64 = 20;

/// How long init may take to accept, when it listens.
const ACCEPT_SECS_MAX: u64 = 5;

/// How often the socket is looked for, and how often it is asked whether the worker still lives.
const LOOK_MILLIS: u64 = 2;
const ASK_MILLIS: u64 = 250;

/// Longest worker id: it becomes a file name and a container name.
const ID_BYTES_MAX: usize = 200;

/// Where the workers of one agent and one runtime have their directories.
#[derive(Clone, Debug)]
pub(super) struct Places {
    dir: PathBuf,
}

/// Why a worker's socket could not be connected to.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// The worker has ended, and why.
    Gone(String),
    /// Its init did not listen in time, or something else is wrong.
    Failed(io::Error),
}

impl Places {
    /// Below the data directory. Each runtime has its own: it could not remove what another made.
    pub(super) fn open(data: &Path, kind: RuntimeKind) -> io::Result<Self> {
        let dir = dir_of(data, kind);
        private_dir(&dir)?;
        Ok(Self { dir: dir.canonicalize()? })
    }

    /// The directory of a worker. None for an id that is not fit for a file name.
    pub(super) fn of(&self, id: &WorkerId) -> Option<PathBuf> {
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let id = id.0.as_str();
        (!id.is_empty() && id.len() <= ID_BYTES_MAX && !id.starts_with('.') && id.bytes().all(fit))
            .then(|| self.dir.join(id))
    }

    /// Makes it, for nobody but the agent's user. It must not be there.
    pub(super) fn make(&self, id: &WorkerId) -> io::Result<PathBuf> {
        let dir =
            self.of(id).ok_or_else(|| io::Error::other(format!("`{id}` is not fit for a worker's name")))?;
        DirBuilder::new().mode(0o700).create(&dir)?;
        DirBuilder::new().mode(0o700).create(dir.join(INIT_DIR))?;
        // The agent's own, so that it can read it whoever init is. As long as it will ever be, so that init needs no room for it
        // on a disk that is full by then.
        let begun = dir.join(INIT_DIR).join(frame::BEGUN);
        let begun = OpenOptions::new().write(true).create_new(true).mode(0o644).open(begun)?;
        begun.write_all_at(&NO_RUN.to_le_bytes(), 0)?;
        Ok(dir)
    }

    /// As [`super::Runtime::note`].
    pub(super) fn note(&self, id: &WorkerId, runs: &[(u64, AttemptKey)], released: u64) -> io::Result<()> {
        let dir = self.of(id).ok_or(io::ErrorKind::NotFound)?;
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(NOTES))?;
        // Neighbours in the ring are written at once.
        for runs in runs.chunk_by(|one, next| one.0 % NOTES_MAX + 1 == next.0 % NOTES_MAX) {
            let records: Vec<u8> = runs.iter().flat_map(|(run, attempt)| note(*run, *attempt)).collect();
            file.write_all_at(&records, runs[0].0 % NOTES_MAX * NOTE_BYTES as u64)?;
        }
        file.write_all_at(&released.to_le_bytes(), NOTES_MAX * NOTE_BYTES as u64)
    }

    /// As [`super::Runtime::unnote`].
    pub(super) fn unnote(&self, id: &WorkerId, runs: &[u64]) -> io::Result<()> {
        let dir = self.of(id).ok_or(io::ErrorKind::NotFound)?;
        let file = OpenOptions::new().write(true).open(dir.join(NOTES))?;
        for run in runs {
            file.write_all_at(&[0; NOTE_BYTES], run % NOTES_MAX * NOTE_BYTES as u64)?;
        }
        Ok(())
    }

    /// As [`super::Runtime::begun`].
    pub(super) fn begun(&self, id: &WorkerId) -> Option<Begun> {
        let dir = self.of(id)?;
        // A task that shares its uid with init may have put anything there.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let open = |path: PathBuf| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = open(dir.join(INIT_DIR).join(frame::BEGUN)).ok()?;
        let mut number = [0; 8];
        match file.read_at(&mut number, 0) {
            Ok(0) => return Some(Begun::default()),
            Ok(8) => {}
            _ => return None,
        }
        let run = u64::from_le_bytes(number);
        if run == NO_RUN {
            return Some(Begun::default());
        }
        let mut notes = [0; (NOTES_MAX as usize) * NOTE_BYTES + 8];
        open(dir.join(NOTES)).and_then(|file| file.read_exact_at(&mut notes, 0)).ok()?;
        let (records, released) = notes.split_at(NOTES_MAX as usize * NOTE_BYTES);
        let released = released.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (records, _) = records.as_chunks::<NOTE_BYTES>();
        let mut attempts: Vec<_> = records
            .iter()
            .filter_map(noted)
            .filter(|(noted, _)| (released + 1..=run).contains(noted))
            .collect();
        attempts.sort_unstable_by_key(|(run, _)| *run);
        Some(Begun { run, attempts })
    }

    /// Removes it with all that is in it, if it is there.
    pub(super) async fn remove(&self, id: &WorkerId) -> io::Result<()> {
        let Some(dir) = self.of(id) else { return Ok(()) };
        // It may hold all that tasks have left in their working directory.
        match blocking(move || fs::remove_dir_all(dir)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All that are there.
    pub(super) fn list(&self) -> io::Result<Vec<WorkerId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                ids.push(WorkerId(name));
            }
        }
        Ok(ids)
    }
}

/// A record: the run's number, project, index, attempt, phase.
fn note(run: u64, attempt: AttemptKey) -> [u8; NOTE_BYTES] {
    let mut record = [0; NOTE_BYTES];
    record[0..8].copy_from_slice(&run.to_le_bytes());
    record[8..16].copy_from_slice(&attempt.project.to_le_bytes());
    record[16..20].copy_from_slice(&attempt.index.to_le_bytes());
    record[20..24].copy_from_slice(&attempt.attempt.to_le_bytes());
    record[24] = attempt.phase as u8;
    record
}

/// The run and the attempt of a record; none of one that was never written.
fn noted(record: &[u8; NOTE_BYTES]) -> Option<(u64, AttemptKey)> {
    let long = |at: usize| record[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let short = |at: usize| record[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let phases = [Phase::Split, Phase::Task, Phase::Reassemble];
    let phase = phases.into_iter().find(|phase| *phase as u8 == record[24])?;
    let attempt = AttemptKey { project: long(8)?, phase, index: short(16)?, attempt: short(20)? };
    Some((long(0).filter(|run| *run > 0)?, attempt))
}

fn dir_of(data: &Path, kind: RuntimeKind) -> PathBuf {
    data.join("workers").join(match kind {
        RuntimeKind::Docker => "docker",
        RuntimeKind::Process => "process",
        RuntimeKind::Scripted => "scripted",
    })
}

/// Whether a runtime has workers in a data directory. Makes nothing.
pub(super) fn has_any(data: &Path, kind: RuntimeKind) -> bool {
    fs::read_dir(dir_of(data, kind)).is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes a directory that nobody else can enter, if it is not there.
pub(super) fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Connects to the socket in a worker's directory. Its path may be longer than an address: the directory is opened, and
/// the address goes by its descriptor.
pub(super) async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY;
    let dir: File = OpenOptions::new().read(true).custom_flags(flags).open(dir.join(INIT_DIR))?;
    let address = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    match timeout(Duration::from_secs(ACCEPT_SECS_MAX), UnixStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Connects to a worker that was started just now, as soon as it listens. Asks now and then whether it still lives.
pub(super) async fn connect_when_it_listens<F, G>(dir: &Path, gone: F) -> Result<UnixStream, NoConnection>
where
    F: Fn() -> G,
    G: Future<Output = Option<String>>,
{
    let begin = Instant::now();
    let mut ask_at = begin + Duration::from_millis(ASK_MILLIS);
    loop {
        match connect(dir).await {
            Ok(stream) => return Ok(stream),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(error) => return Err(NoConnection::Failed(error)),
        }
        let now = Instant::now();
        if now >= ask_at {
            if let Some(why) = gone().await {
                return Err(NoConnection::Gone(why));
            }
            if now.duration_since(begin) > Duration::from_secs(LISTEN_SECS_MAX) {
                return Err(NoConnection::Failed(io::ErrorKind::TimedOut.into()));
            }
            ask_at = now + Duration::from_millis(ASK_MILLIS);
        }
        sleep(Duration::from_millis(LOOK_MILLIS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_long_path_can_be_connected_to() {
        let data = tempfile::tempdir().unwrap();
        let places = Places::open(&data.path().join("d".repeat(150)), RuntimeKind::Process).unwrap();
        let dir = places.make(&WorkerId("a-1-task-0-1".into())).unwrap();
        // Bound by a short path, and moved.
        let short = data.path().join("s");
        let _listener = UnixListener::bind(&short).unwrap();
        let none = connect_when_it_listens(&dir, || async { Some("it died".into()) }).await;
        assert!(matches!(none, Err(NoConnection::Gone(why)) if why == "it died"));
        fs::rename(&short, dir.join(INIT_DIR).join(SOCKET)).unwrap();
        connect_when_it_listens(&dir, || async { None }).await.unwrap();
    }

    #[tokio::test]
    async fn ids_that_are_no_file_names_have_no_place() {
        let data = tempfile::tempdir().unwrap();
        let places = Places::open(data.path(), RuntimeKind::Docker).unwrap();
        let others = Places::open(data.path(), RuntimeKind::Process).unwrap();
        for bad in ["", ".", "..", "a/b", "../x", "a b", &"x".repeat(300)] {
            assert_eq!(places.of(&WorkerId(bad.into())), None, "{bad}");
        }
        let id = WorkerId("a1-7-task-12-2".into());
        places.make(&id).unwrap();
        places.make(&id).unwrap_err();
        assert_eq!(places.list().unwrap(), std::slice::from_ref(&id));
        assert_eq!(others.list().unwrap(), [], "another runtime's");
        assert!(has_any(data.path(), RuntimeKind::Docker));
        assert!(!has_any(data.path(), RuntimeKind::Process));
        places.remove(&id).await.unwrap();
        places.remove(&id).await.unwrap();
        assert_eq!(places.list().unwrap(), []);
    }
}
