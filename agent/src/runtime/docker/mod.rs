//! Workers that are Docker containers, over the engine's own socket. The engine makes, inspects and removes them; what
//! runs in them is between the agent and their init.
//!
//! Every container has two labels: `piecework.agent`, by which an agent finds its own, and `piecework.worker`. On the
//! host a worker has a directory for its socket, which is mounted into it.

mod container;
mod error;
mod image;
mod names;
pub mod service;

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
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder,
    },
};
use container::Setting;
use error::{is_conflict, is_missing, words};
use futures_util::StreamExt as _;
use names::Names;
use std::{
    collections::{BTreeSet, HashMap},
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
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

/// Of how many places it is known whether an image has something there.
const FREE_PLACES_MAX: usize = 1024;

/// As much of a directory's archive as tells whether something is in it.
const LOOK_BYTES_MAX: usize = 4096;

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
    names: Names,
    /// Whether images, by their handle, have nothing at a place.
    free_places: Mutex<HashMap<(String, PathBuf), bool>>,
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
        let docker = engine(&socket).await?;
        let names = Names::default();
        names.look(&docker).await;
        let unusable = |source| ConnectError::Path { path: config.data.clone(), source };
        place::private_dir(&config.data).map_err(unusable)?;
        let data = config.data.canonicalize().map_err(unusable)?;
        let places = Places::open(&data, RuntimeKind::Docker).map_err(unusable)?;
        let init = init_binary::install(&data).map_err(unusable)?;
        let hosts = init.with_file_name("hosts");
        write_hosts(&hosts).map_err(unusable)?;
        let files = container::Files { init, hosts };
        let agent_id = config.agent_id;
        Ok(Self {
            inner: Arc::new(Inner {
                docker,
                socket,
                agent_id,
                places,
                files,
                preparing: Once::default(),
                names,
                free_places: Mutex::default(),
            }),
        })
    }
}

/// The engine that listens there, if it answers.
async fn engine(socket: &Path) -> Result<Docker, ConnectError> {
    let no_engine = |error| ConnectError::NoEngine { socket: socket.to_owned(), message: words(&error) };
    let path = socket.to_str().ok_or_else(|| ConnectError::Remote(socket.display().to_string()))?;
    let docker = Docker::connect_with_unix(path, REQUEST_SECS_MAX, API_DEFAULT_VERSION).map_err(no_engine)?;
    match timeout(Duration::from_secs(PING_SECS_MAX), docker.negotiate_version()).await {
        Ok(docker) => docker.map_err(no_engine),
        Err(_) => Err(no_engine(bollard::errors::Error::RequestTimeoutError)),
    }
}

/// Every user in a container reads it, whatever this process' umask is; and containers of an earlier agent may have it.
fn write_hosts(path: &Path) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    std::fs::write(&draft, HOSTS)?;
    std::fs::set_permissions(&draft, Permissions::from_mode(0o644))?;
    std::fs::rename(&draft, path)
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
            if sender.send(created).is_err() {
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

    fn unnote(&self, id: &WorkerId, runs: &[u64]) -> std::io::Result<()> {
        self.inner.places.unnote(id, runs)
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
        async {
            self.create_container(spec, &name, &dir.join(place::INIT_DIR)).await.map_err(|error| {
                if is_missing(&error) {
                    self.names.forget_all();
                }
                self.worker_error(&error)
            })?;
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
        }
        .await
    }

    /// Makes the container. What its image has in the working directory decides how, and is looked up in the first one.
    async fn create_container(
        &self,
        spec: &WorkerSpec,
        name: &str,
        socket_dir: &Path,
    ) -> Result<(), bollard::errors::Error> {
        let shape = &*spec.shape;
        let workdir = container::workdir(shape);
        let key = workdir.map(|workdir| (shape.image.handle.clone(), workdir.to_owned()));
        let known = key.as_ref().and_then(|key| self.known_as_free(key));
        let create = async |mounts_workdir| {
            let files = &self.files;
            let setting = Setting { agent_id: &self.agent_id, files, socket_dir, mounts_workdir };
            let options = CreateContainerOptionsBuilder::default().name(name).build();
            self.docker.create_container(Some(options), container::body(spec, setting)).await
        };
        create(known.unwrap_or(false)).await?;
        let (Some(key), None) = (key, known) else { return Ok(()) };
        let is_free = self.is_free(name, &key.1).await?;
        self.learn_free(key, is_free);
        if is_free {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            self.docker.remove_container(name, Some(options)).await?;
            create(true).await?;
        }
        Ok(())
    }

    fn known_as_free(&self, place: &(String, PathBuf)) -> Option<bool> {
        self.free_places.lock().unwrap_or_else(PoisonError::into_inner).get(place).copied()
    }

    fn learn_free(&self, place: (String, PathBuf), is_free: bool) {
        let mut free_places = self.free_places.lock().unwrap_or_else(PoisonError::into_inner);
        if free_places.len() >= FREE_PLACES_MAX {
            free_places.clear();
        }
        free_places.insert(place, is_free);
    }

    /// Whether a container that was not started has nothing at this place: it is not there, or an empty directory.
    async fn is_free(&self, container: &str, place: &Path) -> Result<bool, bollard::errors::Error> {
        let options = DownloadFromContainerOptionsBuilder::default().path(&place.to_string_lossy()).build();
        let mut archive = self.docker.download_from_container(container, Some(options));
        let mut bytes = Vec::new();
        while bytes.len() < LOOK_BYTES_MAX
            && let Some(chunk) = archive.next().await
        {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(error) if is_missing(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        let mut archive = tar::Archive::new(&*bytes);
        let Ok(mut entries) = archive.entries() else { return Ok(false) };
        let is_dir = matches!(entries.next(), Some(Ok(entry)) if entry.header().entry_type().is_dir());
        Ok(is_dir && entries.next().is_none())
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
        let removed = self.places.remove(id).await;
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
        self.names.start_anew();
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
