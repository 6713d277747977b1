//! Workers that are Docker containers, over the engine's own socket. The engine makes, inspects and removes them; what
//! runs in them is between the agent and their init.
//!
//! Every container has two labels: `piecework.agent`, by which an agent finds its own, and `piecework.worker`. On the
//! host a worker has a directory for its socket, which is mounted into it.

mod container;
mod error;
mod image;

#[cfg(test)]
mod tests;

pub use error::ConnectError;

use super::{
    Begun, Blobs, Connection, Gone, ImageError, PreparedImage, Runtime, RuntimeKind, WorkerError, WorkerId,
    WorkerSpec, init_binary,
    place::{self, NoConnection, Places},
};
use crate::{
    domain::{AttemptKey, ImageSpec},
    images::Once,
};
use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::ContainerState,
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use error::{is_conflict, is_missing, words};
use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// The label whose value is the agent's unique id.
pub const AGENT_LABEL: &str = "piecework.agent";

/// The label whose value is the worker's id.
pub const WORKER_LABEL: &str = "piecework.worker";

/// `/etc/hosts` of a worker without a network.
const HOSTS: &str = "127.0.0.1\tlocalhost worker\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The file in a worker's directory that says which process its init is.
const PID_FILE: &str = "pid";

/// Where the engine listens if nobody says otherwise.
const SOCKET_DEFAULT: &str = "/var/run/docker.sock";

/// How long the engine may take to answer a request.
const REQUEST_SECS_MAX: u64 = 120;

/// How long it may take to say that it is there.
const PING_SECS_MAX: u64 = 5;

/// How long to wait for the engine to notice that a container ended, or to finish a removal that someone else began.
const SETTLE_SECS_MAX: u64 = 10;
const SETTLE_MILLIS: u64 = 20;

/// What a [`DockerRuntime`] is made from.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The agent's data directory, at the same path for the engine.
    pub data: PathBuf,
    /// The agent's short unique id: the value of [`AGENT_LABEL`].
    pub agent_id: String,
    /// The engine's socket; none means DOCKER_HOST, or else the usual one.
    pub socket: Option<PathBuf>,
}

/// The runtime.
#[derive(Clone, Debug)]
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    docker: Docker,
    socket: PathBuf,
    agent_id: String,
    places: Places,
    files: container::Files,
    preparing: Once<Result<Arc<PreparedImage>, ImageError>>,
}

impl DockerRuntime {
    /// Connects to the engine, and puts init where containers can have it.
    ///
    /// # Errors
    /// If no engine answers, or the data directory can't be used.
    pub async fn connect(config: DockerConfig) -> Result<Self, ConnectError> {
        let socket = match config.socket {
            Some(socket) => socket,
            None => socket_from_environment()?,
        };
        let no_engine = |error| ConnectError::NoEngine { socket: socket.clone(), message: words(&error) };
        let path = socket.to_str().ok_or_else(|| ConnectError::Remote(socket.display().to_string()))?;
        let docker =
            Docker::connect_with_unix(path, REQUEST_SECS_MAX, API_DEFAULT_VERSION).map_err(no_engine)?;
        let docker = match timeout(Duration::from_secs(PING_SECS_MAX), docker.negotiate_version()).await {
            Ok(docker) => docker.map_err(no_engine)?,
            Err(_) => return Err(no_engine(bollard::errors::Error::RequestTimeoutError)),
        };
        let unusable = |source| ConnectError::Path { path: config.data.clone(), source };
        place::private_dir(&config.data).map_err(unusable)?;
        let data = config.data.canonicalize().map_err(unusable)?;
        let places = Places::open(&data, RuntimeKind::Docker).map_err(unusable)?;
        let init = init_binary::install(&data).map_err(unusable)?;
        let hosts = init.with_file_name("hosts");
        std::fs::write(&hosts, HOSTS).map_err(unusable)?;
        let files = container::Files { init, hosts };
        let agent_id = config.agent_id;
        Ok(Self {
            inner: Arc::new(Inner { docker, socket, agent_id, places, files, preparing: Once::default() }),
        })
    }
}

fn socket_from_environment() -> Result<PathBuf, ConnectError> {
    match std::env::var("DOCKER_HOST") {
        Ok(host) if !host.is_empty() => {
            host.strip_prefix("unix://").map(PathBuf::from).ok_or(ConnectError::Remote(host))
        }
        _ => Ok(SOCKET_DEFAULT.into()),
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn ready(&self) -> Result<(), String> {
        let ping = timeout(Duration::from_secs(PING_SECS_MAX), self.inner.docker.ping()).await;
        match ping.unwrap_or(Err(bollard::errors::Error::RequestTimeoutError)) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.inner.engine_is_gone(&error)),
        }
    }

    async fn prepare(&self, image: &ImageSpec, blobs: &dyn Blobs) -> Result<Arc<PreparedImage>, ImageError> {
        self.inner.preparing.run(&image::key(image), self.inner.prepare(image, blobs)).await
    }

    /// Runs to its end even if the caller drops it: then what was made is removed again.
    async fn create(&self, spec: &WorkerSpec) -> Result<Box<dyn Connection>, WorkerError> {
        let (inner, spec) = (Arc::clone(&self.inner), spec.clone());
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let created = inner.create(&spec).await;
            let wanted = created.is_ok();
            if sender.send(created).is_err() && wanted {
                inner.discard_or_log(&spec.id).await;
            }
        });
        let stream = receiver.await.map_err(|_| WorkerError::Worker("the agent is stopping".into()))??;
        Ok(Box::new(stream))
    }

    async fn connect(&self, id: &WorkerId) -> Result<Box<dyn Connection>, WorkerError> {
        Ok(Box::new(self.inner.connect(id).await?))
    }

    fn note(&self, id: &WorkerId, runs: &[(u64, AttemptKey)], released: u64) -> std::io::Result<()> {
        self.inner.places.note(id, runs, released)
    }

    fn begun(&self, id: &WorkerId) -> Option<Begun> {
        self.inner.places.begun(id)
    }

    async fn why_gone(&self, id: &WorkerId) -> Gone {
        self.inner.why_gone(id).await
    }

    async fn discard(&self, id: &WorkerId) -> Result<(), WorkerError> {
        self.inner.discard(id).await
    }

    async fn workers(&self) -> Result<Vec<WorkerId>, WorkerError> {
        self.inner.workers().await
    }
}

/// A worker's name as a container.
fn container_name(id: &WorkerId) -> String {
    format!("piecework-{id}")
}

impl Inner {
    async fn create(&self, spec: &WorkerSpec) -> Result<UnixStream, WorkerError> {
        let dir = self.places.make(&spec.id).map_err(|error| {
            WorkerError::Worker(format!("no directory for the worker {}: {error}", spec.id))
        })?;
        let name = container_name(&spec.id);
        let body = container::body(spec, &self.agent_id, &self.files, &dir.join(place::INIT_DIR));
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let started = async {
            self.docker
                .create_container(Some(options), body)
                .await
                .map_err(|error| self.worker_error(&error))?;
            self.docker.start_container(&name, None).await.map_err(|error| self.worker_error(&error))?;
            let gone = || async { self.ended(&spec.id).await };
            let connected = place::connect_when_it_listens(&dir, gone).await;
            let stream = connected.map_err(|error| {
                WorkerError::Worker(match error {
                    NoConnection::Gone(why) => why,
                    NoConnection::Failed(error) => format!("the worker's init can't be reached: {error}"),
                })
            })?;
            self.check_peer(&spec.id, stream).await
        };
        let started = started.await;
        if started.is_err() {
            self.discard_or_log(&spec.id).await;
        }
        started
    }

    async fn connect(&self, id: &WorkerId) -> Result<UnixStream, WorkerError> {
        let no_worker = || WorkerError::Worker(format!("there is no worker {id}"));
        let dir = self.places.of(id).ok_or_else(no_worker)?;
        let stream = place::connect(&dir).await;
        let stream = stream.map_err(|error| {
            WorkerError::Worker(format!("the init of the worker {id} can't be reached: {error}"))
        })?;
        self.check_peer(id, stream).await
    }

    /// Whoever listens must be the container's PID 1. An agent that is itself in a container does not see that pid. Which it
    /// is, the engine is asked once: an agent that comes back can do without.
    async fn check_peer(&self, id: &WorkerId, stream: UnixStream) -> Result<UnixStream, WorkerError> {
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or(0);
        let file = self.places.of(id).map(|dir| dir.join(PID_FILE));
        if peer == 0
            || file.as_deref().and_then(piecework_init::running).is_some_and(|pid| pid.as_raw() == peer)
        {
            return Ok(stream);
        }
        let state = self.state(id).await.map_err(|error| self.worker_error(&error))?;
        match state.pid {
            Some(pid) if pid != i64::from(peer) => Err(WorkerError::Worker(format!(
                "not the init of the worker {id} (process {pid}), but process {peer} listens on its socket"
            ))),
            _ => {
                if let (Some(file), Some(identity)) = (file, piecework_init::identity(peer))
                    && let Err(error) = std::fs::write(&file, identity)
                {
                    tracing::debug!(worker = %id, %error, "which process its init is can't be written down");
                }
                Ok(stream)
            }
        }
    }

    async fn state(&self, id: &WorkerId) -> Result<ContainerState, bollard::errors::Error> {
        let found = self.docker.inspect_container(&container_name(id), None).await?;
        Ok(found.state.unwrap_or_default())
    }

    /// Why a worker has ended, if it has.
    async fn ended(&self, id: &WorkerId) -> Option<String> {
        let state = self.state(id).await.ok()?;
        (state.running == Some(false)).then(|| ending(&state))
    }

    /// The connection ends before the engine knows that the container has: it is given some time.
    async fn why_gone(&self, id: &WorkerId) -> Gone {
        let give_up = Instant::now() + Duration::from_secs(SETTLE_SECS_MAX);
        loop {
            match self.state(id).await {
                Err(error) if is_missing(&error) => {
                    return Gone::Engine(format!(
                        "the engine has no container {} any more",
                        container_name(id)
                    ));
                }
                Err(error) => return Gone::Engine(self.engine_is_gone(&error)),
                Ok(state) if state.running == Some(true) => {
                    if Instant::now() > give_up {
                        return Gone::Worker(
                            "its container is still running, but its init has hung up".into(),
                        );
                    }
                }
                Ok(state) if state.oom_killed == Some(true) => return Gone::OutOfMemory,
                Ok(state) => return Gone::Worker(ending(&state)),
            }
            sleep(Duration::from_millis(SETTLE_MILLIS)).await;
        }
    }

    async fn discard(&self, id: &WorkerId) -> Result<(), WorkerError> {
        let name = container_name(id);
        let give_up = Instant::now() + Duration::from_secs(SETTLE_SECS_MAX);
        loop {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match self.docker.remove_container(&name, Some(options)).await {
                Ok(()) => break,
                Err(error) if is_missing(&error) => break,
                // Someone else is removing it.
                Err(error) if is_conflict(&error) && Instant::now() < give_up => {}
                Err(error) => return Err(self.worker_error(&error)),
            }
            sleep(Duration::from_millis(SETTLE_MILLIS)).await;
        }
        let removed = self.places.remove(id);
        removed
            .map_err(|error| WorkerError::Worker(format!("the directory of the worker {id} stays: {error}")))
    }

    async fn discard_or_log(&self, id: &WorkerId) {
        if let Err(error) = self.discard(id).await {
            tracing::warn!(worker = %id, %error, "a worker can't be removed");
        }
    }

    /// Containers, and directories that have lost theirs.
    async fn workers(&self) -> Result<Vec<WorkerId>, WorkerError> {
        let filters = HashMap::from([("label", vec![format!("{AGENT_LABEL}={}", self.agent_id)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.worker_error(&error))?;
        let labelled = listed.into_iter().filter_map(|container| container.labels?.remove(WORKER_LABEL));
        let mut ids: BTreeSet<WorkerId> = labelled.map(WorkerId).collect();
        let places = self.places.list();
        ids.extend(places.map_err(|error| {
            WorkerError::Worker(format!("the directories of workers can't be listed: {error}"))
        })?);
        Ok(ids.into_iter().collect())
    }

    fn worker_error(&self, error: &bollard::errors::Error) -> WorkerError {
        if error::is_refusal(error) {
            WorkerError::Worker(format!("the engine refused: {}", words(error)))
        } else {
            WorkerError::Engine(self.engine_is_gone(error))
        }
    }

    fn engine_is_gone(&self, error: &bollard::errors::Error) -> String {
        format!("the Docker engine at {} does not answer: {}", self.socket.display(), words(error))
    }
}

/// How a container ended, for people.
fn ending(state: &ContainerState) -> String {
    let code = state.exit_code.unwrap_or(-1);
    let why = state.error.as_deref().filter(|error| !error.is_empty());
    match (code, why) {
        (_, Some(why)) => format!("its container could not go on: {why}"),
        (137, None) => "its container was killed".into(),
        // init ends by itself only when it is told to.
        (0, None) => "its container was stopped, by hand or by an engine that shuts down".into(),
        (code, None) => format!("its container ended with exit code {code}"),
    }
}
