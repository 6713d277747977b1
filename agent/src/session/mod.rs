//! The way to the coordinator. The agent dials, for ever: one connection for the control stream, and another for bulk
//! bytes, so that they can't delay a heartbeat.
//!
//! Nothing here knows what is said. A stream is announced to the core as Connected, what comes over it is parsed and
//! handed on, what the core says goes out as it is, and the end of the stream is Disconnected.

mod blobs;
mod dial;
mod follow;
mod lines;
mod stdin;
mod upload;
mod uploads;

pub use blobs::{BLOBS_BYTES_MAX, BlobCache};
pub use dial::Dialer;
pub use follow::Followers;
pub use lines::Lines;
pub use stdin::CoordinatorStdin;
pub use uploads::Uploads;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use hyper_util::rt::TokioIo;
use piecework_proto::{MESSAGE_BYTES_MAX, v1::agent_session_client::AgentSessionClient};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

/// The first wait before a retry, in milliseconds.
const BACKOFF_MIN_MILLIS: u64 = 50;

/// The longest wait before a retry, without its jitter, in milliseconds.
const BACKOFF_MAX_MILLIS: u64 = 5000;

/// How long a connection may take to open, in seconds.
const CONNECT_SECS: u64 = 5;

/// After how long without a word the other side is asked for a sign of life, in seconds.
const KEEP_ALIVE_EVERY_SECS: u64 = 5;

/// How long that sign of life may take, in seconds. After it the connection is broken.
const KEEP_ALIVE_ANSWER_SECS: u64 = 10;

/// Where the coordinator is.
#[derive(Clone, Debug)]
pub struct Coordinator {
    socket: Arc<PathBuf>,
    endpoint: Endpoint,
}

impl Coordinator {
    /// The one that listens on this Unix socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        // The name is never resolved: the connector below decides where to go.
        let endpoint = Endpoint::from(Uri::from_static("http://coordinator"))
            .connect_timeout(Duration::from_secs(CONNECT_SECS))
            .http2_keep_alive_interval(Duration::from_secs(KEEP_ALIVE_EVERY_SECS))
            .keep_alive_timeout(Duration::from_secs(KEEP_ALIVE_ANSWER_SECS))
            .keep_alive_while_idle(true);
        Self { socket: Arc::new(socket), endpoint }
    }

    /// Where it listens.
    fn socket(&self) -> &Path {
        &self.socket
    }

    /// Opens a connection now.
    async fn connect(&self) -> Result<AgentSessionClient<Channel>, tonic::transport::Error> {
        self.endpoint.connect_with_connector(connector(self.socket.clone())).await.map(client)
    }

    /// A connection that opens itself when it is used, and again after it broke.
    #[must_use]
    pub fn bulk(&self) -> AgentSessionClient<Channel> {
        client(self.endpoint.connect_with_connector_lazy(connector(self.socket.clone())))
    }
}

fn connector(
    socket: Arc<PathBuf>,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<UnixStream>,
    Error = std::io::Error,
    Future = impl Future<Output = Result<TokioIo<UnixStream>, std::io::Error>> + Send,
> + Send
+ 'static {
    service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(&*socket).await.map(TokioIo::new) }
    })
}

fn client(channel: Channel) -> AgentSessionClient<Channel> {
    AgentSessionClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Waits between tries, for ever.
struct Backoff(ExponentialBackoff);

impl Backoff {
    fn new() -> Self {
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(BACKOFF_MIN_MILLIS))
            .with_max_delay(Duration::from_millis(BACKOFF_MAX_MILLIS))
            .with_jitter()
            .without_max_times();
        Self(waits.build())
    }

    async fn wait(&mut self) {
        let wait = self.0.next().unwrap_or(Duration::from_millis(BACKOFF_MAX_MILLIS));
        tokio::time::sleep(wait).await;
    }
}

/// Whether the same call would be answered in the same way. All else is waited out.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
    )
}
