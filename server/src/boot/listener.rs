//! The Unix socket: nobody but its owner can open it, at no moment.

use super::StartError;
use futures_util::{Stream, stream};
use nix::sys::stat::{Mode, fchmod};
use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// The longest path that fits into a Unix socket's address on Linux, without the closing zero.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How many connections may wait to be accepted.
const BACKLOG_MAX: u32 = 1024;

/// How long to wait when the process has no file descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket.
#[derive(Debug)]
pub(super) struct Listener(UnixListener);

/// The socket's file. Dropping it removes the file; connections that are open stay so.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Listener {
    /// Binds the socket; one that a dead coordinator has left over is replaced. To be called under the data directory's
    /// lock.
    pub(super) fn bind(path: &Path) -> Result<(Self, SocketFile), StartError> {
        if path.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
            return Err(StartError::SocketPathTooLong { path: path.to_owned(), max: SOCKET_PATH_BYTES_MAX });
        }
        let bound = remove_stale(path).and_then(|()| {
            let socket = UnixSocket::new_stream()?;
            // Before bind: Linux gives the file the socket's mode, so that it is never open to others, and nobody else's
            // umask needs to be changed for it.
            fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
            socket.bind(path)?;
            socket.listen(BACKLOG_MAX)
        });
        match bound {
            Ok(listener) => Ok((Self(listener), SocketFile(path.to_owned()))),
            Err(source) => Err(StartError::Path { path: path.to_owned(), source }),
        }
    }

    /// The connections. A failure to accept one is told and waited out: it ends none of the others.
    pub(super) fn connections(self) -> impl Stream<Item = io::Result<UnixStream>> {
        stream::unfold(self.0, |listener| async move {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => return Some((Ok(connection), listener)),
                    Err(error) => {
                        tracing::warn!(%error, "a connection can't be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        })
    }
}

/// Removes a socket on which nobody listens; leaves anything else alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and is no socket"));
        }
        Ok(_) => {}
    }
    // A socket outside of the data directory may be that of a coordinator with another one.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody else listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If that fails, the next coordinator finds it stale.
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the socket can't be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn the_socket_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (_listener, file) = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        // Its file stays when it is dropped, as a killed coordinator leaves it.
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let said = Listener::bind(&path).map_err(|error| error.to_string()).unwrap_err();
        assert!(said.ends_with("somebody else listens there"), "{said}");
        drop(live);
        assert!(path.exists());
        assert!(Listener::bind(&path).is_ok());
    }

    #[tokio::test]
    async fn another_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(StartError::Path { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_told() {
        let path = Path::new("/tmp").join("x".repeat(SOCKET_PATH_BYTES_MAX));
        let said = Listener::bind(&path).map_err(|error| error.to_string()).unwrap_err();
        assert!(said.contains("longer than 107 bytes: choose a shorter data directory or socket"), "{said}");
    }
}
