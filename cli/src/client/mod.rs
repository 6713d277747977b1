//! The connection to a coordinator: tonic over a Unix socket, or over TCP with TLS and a token.
//!
//! Calls that ask for something once fail at once if no coordinator is there. Submissions, and the streams that follow a
//! project, outlive a restart of the coordinator: `submit` tries again under the same idempotency key, and `follow`
//! reconnects with its cursor.

mod fleet;
mod follow;
mod queues;
mod submit;
mod target;

pub use follow::{ResultsStream, WatchStream, has_ended};
pub use queues::Settled;
pub(crate) use submit::unique_key;
pub use target::Target;

use crate::project_file::ProjectFileError;
use piecework_proto::{
    MESSAGE_BYTES_MAX,
    address::Address,
    dial,
    v1::{
        self, admin_client::AdminClient, agents_client::AgentsClient, projects_client::ProjectsClient,
        queues_client::QueuesClient,
    },
};
use std::{
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use target::Bearer;
use tonic::{
    Code, Status, Streaming,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};

/// How often a silent coordinator is asked whether it is there, and how long its answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_MAX: Duration = Duration::from_secs(30);

/// How long a connection may take to open.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a lost coordinator is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or somebody who is not the coordinator.
    #[error("no coordinator can be reached at {address}: {source}")]
    NoCoordinator {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The coordinator is on TCP, and there is no token.
    #[error("a token is needed to use the coordinator at {0}")]
    NoToken(Address),
    /// The coordinator went away and did not come back.
    #[error("the coordinator was lost for {patience:?}: {status}")]
    Lost {
        /// How long it was waited for.
        patience: Duration,
        /// The last failure.
        status: Box<Status>,
    },
    /// The coordinator said no.
    #[error("{0}")]
    Refused(Box<Status>),
    /// An answer lacks what it must have.
    #[error("the coordinator's answer makes no sense: {0}")]
    BadAnswer(&'static str),
    /// What is submitted can't be read.
    #[error(transparent)]
    Input(#[from] ProjectFileError),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Says what the user should know of the connection while it is waited for.
pub type Note = Arc<dyn Fn(&str) + Send + Sync>;

type Transport = InterceptedService<Channel, Bearer>;

/// A client of one coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    address: Arc<Address>,
    projects: ProjectsClient<Transport>,
    agents: AgentsClient<Transport>,
    admin: AdminClient<Transport>,
    queues: QueuesClient<Transport>,
    patience: Duration,
    note: Note,
    /// The user was told that the coordinator is away. Shared by all streams, so that it is told once.
    away: Arc<AtomicBool>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the coordinator that listens there.
    ///
    /// # Errors
    /// If none does.
    pub async fn connect(target: Target, note: Note) -> Result<Self, ClientError> {
        let Target { address, token } = target;
        let missing = |source| ClientError::NoCoordinator { address: address.clone(), source };
        let tls = target::tls(&address, token.as_ref())?;
        // tonic would tell less of what is wrong.
        let tried = tokio::time::timeout(CONNECT_MAX, dial::connect(&address, tls.clone())).await;
        tried.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(missing)?;
        let address = Arc::new(address);
        // The name is never resolved: the connector decides where to go.
        let channel = Endpoint::from(Uri::from_static("http://coordinator"))
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_MAX)
            .connect_with_connector_lazy(dial::connector(address.clone(), move || tls.clone()));
        let channel = InterceptedService::new(channel, Bearer::new(token.as_ref()));
        Ok(Self {
            address,
            projects: ProjectsClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            agents: AgentsClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            admin: AdminClient::new(channel.clone()),
            queues: QueuesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            patience: PATIENCE,
            note,
            away: Arc::default(),
        })
    }

    /// With another patience than [`PATIENCE`].
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn is_away(&self) {
        if !self.away.swap(true, Ordering::Relaxed) {
            (self.note)("the coordinator is away; waiting for it");
        }
    }

    fn is_back(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            (self.note)("the coordinator is back");
        }
    }

    /// Where the coordinator listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Who answers.
    ///
    /// # Errors
    /// If the coordinator can't be reached or refuses, as of all calls.
    pub async fn server_info(&self) -> Result<v1::ServerInfo, ClientError> {
        Ok(self.admin.clone().get_server_info(v1::GetServerInfoRequest {}).await?.into_inner())
    }

    /// One project, by number or name.
    ///
    /// # Errors
    /// If there is none.
    pub async fn project(&self, project: &str) -> Result<v1::Project, ClientError> {
        let request = v1::GetProjectRequest { project: project.to_owned() };
        Ok(self.projects.clone().get(request).await?.into_inner())
    }

    /// Projects, newest first.
    ///
    /// # Errors
    /// As of all calls.
    pub async fn list(
        &self,
        request: v1::ListProjectsRequest,
    ) -> Result<v1::ListProjectsResponse, ClientError> {
        Ok(self.projects.clone().list(request).await?.into_inner())
    }

    /// Tasks of a project.
    ///
    /// # Errors
    /// If there is no such project.
    pub async fn tasks(&self, request: v1::ListTasksRequest) -> Result<v1::ListTasksResponse, ClientError> {
        Ok(self.projects.clone().list_tasks(request).await?.into_inner())
    }

    /// Cancels a project.
    ///
    /// # Errors
    /// If there is no such project.
    pub async fn cancel(&self, project: &str) -> Result<v1::Project, ClientError> {
        let request = v1::CancelProjectRequest { project: project.to_owned() };
        Ok(self.projects.clone().cancel(request).await?.into_inner())
    }

    /// The output of one task.
    ///
    /// # Errors
    /// If there is no such task.
    pub async fn logs(&self, request: v1::LogsRequest) -> Result<Streaming<v1::LogsChunk>, ClientError> {
        Ok(self.projects.clone().logs(request).await?.into_inner())
    }
}

/// Whether a failure is one of the connection, so that the same call may do better later.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A status that a coordinator sent has no source; one that tonic made of a broken connection has.
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}
