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
use piecework_proto::{
    MESSAGE_BYTES_MAX, address::Address, dial::connector, v1::agent_session_client::AgentSessionClient,
};
use rustls::ClientConfig;
use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

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

/// Where the coordinator is, and how this agent is known there.
#[derive(Clone)]
pub struct Coordinator {
    address: Arc<Address>,
    endpoint: Endpoint,
    tls: Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>,
    bulk: Bulk,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why a connection can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator at {address} can't be reached: {}", cause(.source))]
pub struct ConnectError {
    /// Where it should be.
    address: Arc<Address>,
    /// Why.
    source: tonic::transport::Error,
}

impl ConnectError {
    /// Somebody answers who is not the coordinator: trying again is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        let mut error: &(dyn std::error::Error + 'static) = &self.source;
        loop {
            if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)) =
                error.downcast_ref()
            {
                return true;
            }
            // An io::Error hides what it was made from behind its own source.
            if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
                && let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)) =
                    inner.downcast_ref()
            {
                return true;
            }
            match error.source() {
                Some(source) => error = source,
                None => return false,
            }
        }
    }
}

impl Coordinator {
    /// The one that listens there. `tls` is asked for each connection over TCP.
    #[must_use]
    pub fn new(
        address: Address,
        tls: impl Fn() -> Option<Arc<ClientConfig>> + Send + Sync + 'static,
    ) -> Self {
        // The name is never resolved: the connector decides where to go.
        let endpoint = Endpoint::from(Uri::from_static("http://coordinator"))
            .connect_timeout(Duration::from_secs(CONNECT_SECS))
            .http2_keep_alive_interval(Duration::from_secs(KEEP_ALIVE_EVERY_SECS))
            .keep_alive_timeout(Duration::from_secs(KEEP_ALIVE_ANSWER_SECS))
            .keep_alive_while_idle(true);
        let (address, tls): (_, Arc<dyn Fn() -> _ + Send + Sync>) = (Arc::new(address), Arc::new(tls));
        let bulk = Bulk(Arc::new(RwLock::new(lazy(&endpoint, &address, &tls))));
        Self { address, endpoint, tls, bulk }
    }

    /// Opens a connection now.
    pub(crate) async fn connect(&self) -> Result<AgentSessionClient<Channel>, ConnectError> {
        let tls = self.tls.clone();
        let connector = connector(self.address.clone(), move || tls());
        let channel = self.endpoint.connect_with_connector(connector).await;
        channel.map(client).map_err(|source| ConnectError { address: self.address.clone(), source })
    }

    /// The connection for bulk bytes.
    #[must_use]
    pub fn bulk(&self) -> Bulk {
        self.bulk.clone()
    }

    /// Has calls from here on use a new connection for bulk bytes; those under way end on the old one.
    pub(crate) fn renew_bulk(&self) {
        let new = lazy(&self.endpoint, &self.address, &self.tls);
        *self.bulk.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// A connection that opens itself when it is used, and again after it broke. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bulk(Arc<RwLock<AgentSessionClient<Channel>>>);

impl Bulk {
    /// For one call.
    #[must_use]
    pub fn client(&self) -> AgentSessionClient<Channel> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn lazy(
    endpoint: &Endpoint,
    address: &Arc<Address>,
    tls: &Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>,
) -> AgentSessionClient<Channel> {
    let tls = tls.clone();
    client(endpoint.connect_with_connector_lazy(connector(address.clone(), move || tls())))
}

fn client(channel: Channel) -> AgentSessionClient<Channel> {
    AgentSessionClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The innermost cause: those above it name the library's layers.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Waits between tries, for ever.
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(crate) fn new() -> Self {
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(BACKOFF_MIN_MILLIS))
            .with_max_delay(Duration::from_millis(BACKOFF_MAX_MILLIS))
            .with_jitter()
            .without_max_times();
        Self(waits.build())
    }

    pub(crate) async fn wait(&mut self) {
        self.wait_at_most(Duration::MAX).await;
    }

    async fn wait_at_most(&mut self, longest: Duration) {
        let wait = self.0.next().unwrap_or(Duration::from_millis(BACKOFF_MAX_MILLIS));
        tokio::time::sleep(wait.min(longest)).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_the_longest() {
        let (longest, mut backoff) = (Duration::from_millis(700), Backoff::new());
        let mut waits = Vec::new();
        for _ in 0..12 {
            let since = Instant::now();
            backoff.wait_at_most(longest).await;
            waits.push(since.elapsed());
        }
        assert!(waits[0] < longest && waits.iter().all(|wait| *wait <= longest), "{waits:?}");
        assert_eq!(waits.last(), Some(&longest));
    }
}
