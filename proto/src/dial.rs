//! The way to a coordinator: a Unix socket, or TCP with TLS.

use crate::address::Address;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Uri;
use tower::{Service, service_fn};

/// A connection to a coordinator.
#[derive(Debug)]
pub enum Connection {
    /// Over a Unix socket.
    Socket(UnixStream),
    /// Over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens a connection. TLS needs a configuration.
///
/// # Errors
/// If nobody answers there, or somebody else does.
pub async fn connect(address: &Address, tls: Option<Arc<ClientConfig>>) -> io::Result<Connection> {
    match address {
        Address::Socket(path) => UnixStream::connect(path).await.map(Connection::Socket),
        Address::Tls { host, port } => {
            let tls = tls.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "a token is needed to know the coordinator by")
            })?;
            let name = ServerName::try_from(host.clone())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Else a small message waits for the acknowledgement of the one before.
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok(Connection::Tls(Box::new(stream)))
        }
    }
}

/// [`connect`] for a tonic endpoint, whose own address is not looked at. `tls` is asked for each connection, so that an
/// identity may change.
pub fn connector<F>(
    address: Arc<Address>,
    tls: F,
) -> impl Service<
    Uri,
    Response = TokioIo<Connection>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<Connection>>> + Send,
> + Send
+ 'static
where
    F: Fn() -> Option<Arc<ClientConfig>> + Send + 'static,
{
    service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls());
        async move { connect(&address, tls).await.map(TokioIo::new) }
    })
}

macro_rules! either {
    ($connection:expr, $stream:ident => $body:expr) => {
        match $connection.get_mut() {
            Connection::Socket($stream) => {
                let $stream = Pin::new($stream);
                $body
            }
            Connection::Tls($stream) => {
                let $stream = Pin::new($stream);
                $body
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Socket(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
