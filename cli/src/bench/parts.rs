//! The coordinator and the agents that are measured: each a process of its own, made of this program, on a data directory of
//! its own. They live until their stdin ends.

use super::error::BenchError;
use crate::{
    client::{Client, ClientError, Target},
    context::Context,
    embedded::part::PartRuntime,
    output::human,
};
use piecework_proto::{address::Address, v1};
use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

/// How long a start and a stop may take, in seconds; that of a fleet for each hundred agents.
const START_SECS_MAX: u64 = 30;
const STOP_SECS_MAX: u64 = 60;

/// How often it is looked whether something has come or gone.
const POLL: Duration = Duration::from_millis(20);
const LIFE_POLL: Duration = Duration::from_millis(500);

/// The client's token of a bench, for people.
const TOKEN_NAME: &str = "bench";

/// How long a coordinator that went away is waited for: it won't come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of a log a message tells.
const LOG_LINES_MAX: usize = 10;

/// What the names of all queues begin with, apart from whatever else uses the RabbitMQ.
pub(super) const BROKER_PREFIX: &str = "piecework-bench";

/// Settings of the user's that are not for the processes that are measured.
const SETTINGS: &[&str] = &["PIECEWORK_SERVER", "PIECEWORK_DATA", "PIECEWORK_BROKER_PREFIX"];

/// The processes that run now.
#[derive(Debug, Default)]
pub(super) struct Parts(Mutex<Vec<Part>>);

#[derive(Debug)]
struct Part {
    what: &'static str,
    child: Child,
    log: PathBuf,
}

/// A coordinator that answers.
#[derive(Debug)]
pub(super) struct Coordinator {
    /// Over the socket.
    pub(super) client: Client,
    pub(super) pid: u32,
    data: PathBuf,
}

/// Where a coordinator listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// On its Unix socket alone.
    Socket,
    /// On TCP, with TLS, too.
    Tls,
    /// On its Unix socket; RabbitMQ carries the tasks.
    RabbitMq,
}

/// The agents of one process.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    /// Where their data directories are.
    pub(super) data: PathBuf,
    pub(super) agents: u32,
    /// Of each of them.
    pub(super) slots: u32,
}

impl Coordinator {
    /// Connects to it over TCP, as a client of another host would.
    pub(super) async fn client_over_tls(&self, context: &Context) -> Result<Client, BenchError> {
        let request = v1::CreateClientTokenRequest { name: TOKEN_NAME.into(), life_millis: 0 };
        let made = self.client.create_client_token(request).await?;
        let address = made.address.parse().map_err(|_| ClientError::BadAnswer("its address is none"))?;
        let token = made.token.parse().map_err(|_| ClientError::BadAnswer("its token is none"))?;
        let client = context.connect_to(Target { address, token: Some(token) }).await?;
        Ok(client.with_patience(PATIENCE))
    }

    /// What so many agents need to join it over TCP: its address, and a file with a token.
    async fn invite(&self, agents: u32) -> Result<(String, PathBuf), BenchError> {
        let request = v1::CreateJoinTokenRequest { uses: agents, ..v1::CreateJoinTokenRequest::default() };
        let made = self.client.create_join_token(request).await?;
        let path = self.data.with_extension("join");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(made.token.as_bytes())).map_err(BenchError::file(&path))?;
        Ok((made.address, path))
    }

    /// How many agents it has as ready.
    async fn ready(&self) -> Option<usize> {
        let agents = self.client.agents().await.ok()?;
        Some(agents.iter().filter(|agent| agent.state() == v1::AgentState::Ready).count())
    }
}

impl Parts {
    /// Starts a coordinator on a new data directory.
    pub(super) async fn coordinator(
        &self,
        context: &Context,
        data: PathBuf,
        way: Way,
    ) -> Result<Coordinator, BenchError> {
        fs::create_dir(&data).map_err(BenchError::file(&data))?;
        let mut args = vec![OsStr::new("--data"), data.as_os_str(), OsStr::new("coordinator")];
        match way {
            Way::Socket => {}
            Way::Tls => args.push(OsStr::new("--listen")),
            // Its other options are in the environment, where no one sees a password.
            Way::RabbitMq => args.extend(["--rabbitmq", "--broker-prefix", BROKER_PREFIX].map(OsStr::new)),
        }
        let pid = self.spawn("coordinator", &args, data.with_extension("coordinator.log")).await?;
        let socket = data.join("piecework.sock");
        let client = self
            .until("the coordinator's start", START_SECS_MAX, async || {
                // A failed try is told by the process that ends.
                context.connect_to(Address::Socket(socket.clone()).into()).await.ok()
            })
            .await?;
        Ok(Coordinator { client: client.with_patience(PATIENCE), pid, data })
    }

    /// Starts the agent of a coordinator, and returns its process when the coordinator has it as ready.
    pub(super) async fn agent(
        &self,
        coordinator: &Coordinator,
        slots: u32,
        runtime: PartRuntime,
        way: Way,
    ) -> Result<u32, BenchError> {
        let data = coordinator.data.join("agent");
        let (address, join) = match way {
            Way::Socket | Way::RabbitMq => (coordinator.client.address().to_string(), None),
            Way::Tls => coordinator.invite(1).await.map(|(address, join)| (address, Some(join)))?,
        };
        let slots = slots.to_string();
        let runtime = match runtime {
            PartRuntime::Docker => "docker",
            PartRuntime::Process => "process",
            PartRuntime::Scripted => "scripted",
        };
        let mut args = vec![
            OsStr::new("--data"),
            data.as_os_str(),
            OsStr::new("--server"),
            OsStr::new(&address),
            OsStr::new("agent"),
            OsStr::new("--slots"),
            OsStr::new(&slots),
            OsStr::new("--runtime"),
            OsStr::new(runtime),
        ];
        if let Some(join) = &join {
            args.extend([OsStr::new("--join-file"), join.as_os_str()]);
        }
        let pid = self.spawn("agent", &args, coordinator.data.with_extension("agent.log")).await?;
        self.until("the agent's start", START_SECS_MAX, async || {
            coordinator.ready().await.filter(|ready| *ready > 0)
        })
        .await?;
        Ok(pid)
    }

    /// Starts many agents in one process, which run no tasks but say that they did, and returns when the coordinator has all of
    /// them as ready. Those that have joined it earlier, on the same data directory, come back.
    pub(super) async fn fleet(&self, coordinator: &Coordinator, fleet: &Fleet) -> Result<(), BenchError> {
        let (address, join) = coordinator.invite(fleet.agents).await?;
        let (agents, slots) = (fleet.agents.to_string(), fleet.slots.to_string());
        let args = [
            OsStr::new("--data"),
            fleet.data.as_os_str(),
            OsStr::new("--server"),
            OsStr::new(&address),
            OsStr::new("fleet"),
            OsStr::new("--agents"),
            OsStr::new(&agents),
            OsStr::new("--slots"),
            OsStr::new(&slots),
            OsStr::new("--join-file"),
            join.as_os_str(),
        ];
        self.spawn("fleet", &args, coordinator.data.with_extension("fleet.log")).await?;
        let secs = START_SECS_MAX * u64::from(fleet.agents.div_ceil(100));
        self.until("the fleet's start", secs, async || {
            coordinator.ready().await.filter(|ready| *ready >= fleet.agents as usize)
        })
        .await?;
        Ok(())
    }

    async fn spawn(&self, what: &'static str, args: &[&OsStr], log: PathBuf) -> Result<u32, BenchError> {
        let failed = |why: String| BenchError::Part { what, why, log: String::new() };
        let program = std::env::current_exe().map_err(|error| failed(format!("has no program: {error}")))?;
        let file = File::create(&log).map_err(BenchError::file(&log))?;
        let mut command = Command::new(program);
        command.arg("bench-part").args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(file);
        for setting in SETTINGS {
            command.env_remove(setting);
        }
        // A group of its own: Ctrl-C is for this program, which then stops them in order.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|error| failed(format!("can't be started: {error}")))?;
        let pid = child.id().unwrap_or_default();
        self.0.lock().await.push(Part { what, child, log });
        Ok(pid)
    }

    /// Asks again and again until there is an answer. A process that ends meanwhile is told by [`Parts::failed`].
    async fn until<T>(
        &self,
        what: &str,
        secs: u64,
        mut ask: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T, BenchError> {
        let deadline = Instant::now() + Duration::from_secs(secs);
        loop {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                return Err(BenchError::TooLong { what: what.to_owned(), secs });
            }
            sleep(POLL).await;
        }
    }

    /// Waits until one of them ends, which none should.
    pub(super) async fn failed(&self) -> BenchError {
        loop {
            for part in self.0.lock().await.iter_mut() {
                let why = match part.child.try_wait() {
                    Ok(None) => continue,
                    Ok(Some(status)) => format!("has ended by itself with {status}"),
                    Err(error) => format!("can't be looked after: {error}"),
                };
                return BenchError::Part { what: part.what, why, log: tail(&part.log) };
            }
            sleep(LIFE_POLL).await;
        }
    }

    /// Stops all of them, the agents first.
    pub(super) async fn stop(&self) {
        while self.stop_newest().await {}
    }

    /// Stops the one that was started last; says whether there was one.
    pub(super) async fn stop_newest(&self) -> bool {
        let mut parts = self.0.lock().await;
        // It stays in the list until it has ended: nobody may wait for this any more.
        let Some(part) = parts.last_mut() else { return false };
        drop(part.child.stdin.take());
        let ended = timeout(Duration::from_secs(STOP_SECS_MAX), part.child.wait()).await;
        if ended.is_err() {
            // What it leaves is found by its label.
            let _ = part.child.kill().await;
        }
        parts.pop();
        true
    }
}

/// The end of a log, for a message.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = human::tail(&text, LOG_LINES_MAX);
    if tail.is_empty() { tail } else { format!(":\n{tail}") }
}
