//! TCP connections, each with TLS from its first byte: no more than so many at a time, and none that is slow to shake hands.

use super::Sha256;
use futures_util::Stream;
use piecework_proto::trust::certificate_sha256;
use rustls::ServerConfig;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// How many TCP connections there may be at a time. Each agent has two, each client one.
const CONNECTIONS_MAX: usize = 8192;

/// How many of them may be nobody's yet: before and after their handshake, until a call has shown who calls.
const UNKNOWN_MAX: usize = 1024;

/// How long a handshake may take; and again, how long a connection may be nobody's after that.
const UNKNOWN_TIME_MAX: Duration = Duration::from_secs(10);

/// How many connections may wait for the server.
const READY_MAX: usize = 64;

/// How long to wait when the process has no file descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a TCP connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// SHA-256 of the certificate that it has shown, if it has: signed by our authority, and not expired.
    pub certificate: Option<Sha256>,
    known: Arc<AtomicBool>,
}

impl Peer {
    /// A call over this connection has shown who calls, and that they may. Until then it is not kept for long.
    pub fn is_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }
}

/// A connection that is nobody's yet.
#[derive(Debug)]
struct Unknown {
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// A connection that has shaken hands.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    unknown: Option<Unknown>,
    _place: OwnedSemaphorePermit,
}

/// The connections that come in, until `stop`.
pub fn connections(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready, receiver) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, TlsAcceptor::from(config), ready) => {}
            () = stop.cancelled() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<io::Result<Connection>>) {
    let (places, unknowns) =
        (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(UNKNOWN_MAX)));
    loop {
        // Without a place, whoever comes waits in the kernel's queue. The semaphores are never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok(unknown) = unknowns.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if ready.is_closed() {
            return;
        }
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match timeout(UNKNOWN_TIME_MAX, shake_hands(acceptor, stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    let certificate =
                        certificates.and_then(<[_]>::first).map(|first| certificate_sha256(first));
                    let peer = Peer { address, certificate, known: Arc::default() };
                    let until = Box::pin(sleep(UNKNOWN_TIME_MAX));
                    let unknown = Some(Unknown { until, _place: unknown });
                    // If the server has ended, so does the connection.
                    let _ = ready.send(Ok(Connection { stream, peer, unknown, _place: place })).await;
                }
                // Anybody can knock: nothing to wake an operator for.
                Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
        });
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    // Else a small message waits for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(unknown) = &mut this.unknown {
            if this.peer.known.load(Ordering::Relaxed) {
                this.unknown = None;
            } else if unknown.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
