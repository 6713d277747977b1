//! Boot as a list: lock the data directory, open the store, fold the core, serve, and stop in the reverse order.

mod data;
mod listener;
mod tcp;

use crate::{
    broker::{
        Brokers,
        rabbitmq::{RabbitMq, RabbitMqConfig, RabbitMqError},
    },
    coordinator::Limits,
    domain::ProjectId,
    driver::{self, Jobs, Running},
    feed, inbox,
    intake::Intake,
    output::{OutputError, Outputs},
    queues::{QueueError, Queues, limits::Bounds},
    reassemble::{JobError, Reassembler},
    service::{self, Context, Health},
    store::{Store, StoreError, sqlite::SqliteStore},
    tls::{self, AGENT_LIFE_DEFAULT, CertificateFiles, TlsError},
};
use async_trait::async_trait;
use data::DataDir;
use listener::{Listener, SocketFile};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long attempts stay with an agent that is not heard from, if nothing else is said.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(15);

/// How many attempts of one task may be lost by the infrastructure's fault before the task fails, if nothing else is said.
pub const CRASHES_MAX_DEFAULT: u32 = 5;

/// The socket's name in the data directory, if nothing else is said.
pub const SOCKET_NAME: &str = "piecework.sock";

/// How long open calls may take to end when the coordinator stops.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// The store's name in the data directory.
const STORE_NAME: &str = "piecework.db";

/// The name of the queues' database in the data directory.
const QUEUES_NAME: &str = "queues.db";

/// The name of the bulk bytes' directory in the data directory.
const OUTPUT_NAME: &str = "output";

/// What a coordinator is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Holds the store, the output and the lock; made with mode 0700 if missing.
    pub data: PathBuf,
    /// Where to listen; none means `piecework.sock` in the data directory.
    pub socket: Option<PathBuf>,
    /// How long attempts stay with an agent that is not heard from.
    pub lease: Duration,
    /// How many attempts of one task may be lost by the infrastructure's fault before the task fails.
    pub crashes_max: u32,
    /// Where to listen for agents and clients of other hosts, too.
    pub listen: Option<ListenConfig>,
    /// The RabbitMQ that carries TODO; none means that this process does.
    pub broker: Option<RabbitMqConfig>,
}

impl ServerConfig {
    /// One with this data directory, and all else as it is by default.
    #[must_use]
    pub const fn new(data: PathBuf) -> Self {
        Self {
            data,
            socket: None,
            lease: LEASE_DEFAULT,
            crashes_max: CRASHES_MAX_DEFAULT,
            listen: None,
            broker: None,
        }
    }
}

/// How a coordinator listens on TCP, which it does with TLS alone.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Where. Port 0 takes a free one.
    pub address: SocketAddr,
    /// Names and addresses under which others know this host, for the certificate.
    pub names: Vec<String>,
    /// The operator's own certificate; none means that the coordinator makes one.
    pub certificate: Option<CertificateFiles>,
    /// How long an agent's certificate is good.
    pub agent_life: Duration,
    /// The origins of web pages that may call, such as `https://app.example`; `*` is all.
    pub cors_origins: Vec<String>,
}

impl ListenConfig {
    /// Listens there, and all else as it is by default.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            names: Vec::new(),
            certificate: None,
            agent_life: AGENT_LIFE_DEFAULT,
            cors_origins: Vec::new(),
        }
    }
}

/// Why a coordinator did not start. For people; says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another coordinator holds the data directory.
    #[error("another coordinator is running on {}", .0.display())]
    Locked(PathBuf),
    /// A path can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The socket's path does not fit in an address.
    #[error("the socket path {} is longer than {max} bytes: choose a shorter data directory or socket", .path.display())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS can't be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The broker refuses.
    #[error(transparent)]
    Broker(#[from] RabbitMqError),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bulk bytes can't be opened.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The queues can't be opened.
    #[error("the queues can't be opened: {0}")]
    Queues(#[from] QueueError),
    /// The compiled-in schema can't be read back, so reflection can't be served.
    #[error("the compiled-in schema is damaged: {0}")]
    Schema(#[from] tonic_reflection::server::Error),
}

/// A running coordinator.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    socket_file: SocketFile,
    driver: Running,
    address: Option<SocketAddr>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    health: Health,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Last, so that the lock is released after everything else is gone.
    _data: DataDir,
}

impl Server {
    /// Starts one, and returns when it accepts connections.
    ///
    /// # Errors
    /// If the data directory, the store or the socket can't be used.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        let started = Instant::now();
        let data = DataDir::lock(&config.data)?;
        let socket = config.socket.unwrap_or_else(|| config.data.join(SOCKET_NAME));
        let (listener, socket_file) = Listener::bind(&socket)?;
        let origins = config.listen.as_ref().map(|listen| listen.cors_origins.clone()).unwrap_or_default();
        let (tcp, tls) = match config.listen {
            Some(listen) => {
                let (tcp, tls) = tcp::bind(&config.data, listen).await?;
                (Some(tcp), Some(tls))
            }
            None => (None, None),
        };

        let broker = config.broker.clone();
        let brokers = match config.broker {
            Some(broker) => Brokers::RabbitMq(Box::pin(RabbitMq::start(broker)).await?),
            None => Brokers::Embedded,
        };
        let store: Arc<dyn Store> = Arc::new(open_store(config.data.join(STORE_NAME)).await?);
        let queues = Queues::open(&config.data.join(QUEUES_NAME), Bounds::default(), broker).await?;
        let outputs = Outputs::open(&config.data.join(OUTPUT_NAME))?;
        let epoch = store.open_epoch().await?;
        let reassembler = Reassembler::new(store.clone(), outputs.clone());
        let limits = Limits { lease: config.lease, crashes_max: config.crashes_max, ..Limits::default() };
        let jobs = Arc::new(Work(reassembler.clone()));
        let (handle, driver) = driver::start(store.clone(), jobs, brokers.clone(), epoch, limits);

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        if let Brokers::RabbitMq(rabbitmq) = &brokers {
            let config = rabbitmq.config();
            let done = feed::publish(config.clone(), store.clone(), handle.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(done));
            let intake = Intake::new(store.clone(), handle.clone());
            let inbox = inbox::take(config.clone(), store.clone(), intake);
            tasks.spawn(stop.clone().run_until_cancelled_owned(inbox));
        }
        let context = Context {
            driver: handle,
            brokers,
            store,
            outputs,
            queues,
            reassembler,
            tls: tls.clone(),
            strangers: Arc::new(Semaphore::new(service::STRANGERS_MAX)),
            lease: config.lease,
            started,
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let (routes, health) = service::routes(&context)?;
        let serve = |routes| service::router(&context, routes, &origins);
        let socket_serving = serve(routes.clone())
            .serve_with_incoming_shutdown(listener.connections(), stop.clone().cancelled_owned());
        let address = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        let serving = match tcp.zip(tls) {
            Some((tcp, tls)) => {
                let connections = tls::connections(tcp, tls.config, stop.clone());
                let tcp_serving =
                    serve(routes).serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
                tokio::spawn(async { tokio::try_join!(socket_serving, tcp_serving).map(|_| ()) })
            }
            None => tokio::spawn(socket_serving),
        };
        health.set_serving(true).await;
        tracing::info!(socket = %socket.display(), epoch = epoch.0, "the coordinator listens");
        if let Some(address) = address {
            tracing::info!(%address, "the coordinator listens for agents and clients of other hosts");
        }
        Ok(Self { socket, address, socket_file, driver, serving, health, stop, tasks, _data: data })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens on TCP, if it does.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits until it ends by itself, which it does only when it can't go on; says why.
    pub async fn failed(&mut self) -> String {
        tokio::select! {
            why = self.driver.failed() => why,
            served = &mut self.serving => match served {
                Ok(Ok(())) => "the server has stopped".to_owned(),
                Ok(Err(error)) => format!("the server failed: {error}"),
                Err(error) => format!("the server crashed: {error}"),
            },
        }
    }

    /// Stops it: no more requests, what was answered is durable, the socket is gone.
    pub async fn shutdown(mut self) {
        self.health.close().await;
        // Nobody finds it any more; connections that are open stay so.
        drop(self.socket_file);
        self.stop.cancel();
        self.tasks.close();
        let ending = async {
            if !self.serving.is_finished() {
                // A failure to serve has been told by `failed`.
                let _ = (&mut self.serving).await;
            }
            self.tasks.wait().await;
        };
        if timeout(SHUTDOWN_MAX, ending).await.is_err() {
            tracing::warn!("some calls did not end in time, and are cut off");
            self.serving.abort();
        }
        self.driver.stop();
        tracing::info!("the coordinator has stopped");
    }
}

async fn open_store(path: PathBuf) -> Result<SqliteStore, StoreError> {
    tokio::task::spawn_blocking(move || SqliteStore::open(&path)).await.map_err(|_| StoreError::Closed)?
}

/// The driver's long work.
struct Work(Reassembler);

#[async_trait]
impl Jobs for Work {
    async fn split(&self, project: ProjectId) -> Result<u32, JobError> {
        self.0.run_split(project).await
    }

    async fn reassemble(&self, project: ProjectId) -> Result<(), JobError> {
        self.0.run_builtin(project).await
    }
}
