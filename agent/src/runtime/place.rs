//! The directory of each worker on the host, and the way to the socket in it.

use super::{RuntimeKind, WorkerId};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    future::Future,
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

/// The name of the socket in a worker's directory.
pub(super) const SOCKET: &str = "init.sock";

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
        Ok(dir)
    }

    /// Removes it with all that is in it, if it is there.
    pub(super) fn remove(&self, id: &WorkerId) -> io::Result<()> {
        let Some(dir) = self.of(id) else { return Ok(()) };
        match fs::remove_dir_all(dir) {
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
    let dir: File = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
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
        fs::rename(&short, dir.join(SOCKET)).unwrap();
        connect_when_it_listens(&dir, || async { None }).await.unwrap();
    }

    #[test]
    fn ids_that_are_no_file_names_have_no_place() {
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
        places.remove(&id).unwrap();
        places.remove(&id).unwrap();
        assert_eq!(places.list().unwrap(), []);
    }
}
