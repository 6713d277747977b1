//! The coordinator and the agent that are measured: each a process of its own, made of this program, on a data directory of
//! its own. They live until their stdin ends.

use super::error::BenchError;
use crate::{client::Client, context::Context, embedded::part::PartRuntime, output::human};
use piecework_proto::{address::Address, v1};
use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

/// How long a start and a stop may take, in seconds.
const START_SECS_MAX: u64 = 30;
const STOP_SECS_MAX: u64 = 60;

/// How often it is looked whether something has come or gone.
const POLL: Duration = Duration::from_millis(20);
const LIFE_POLL: Duration = Duration::from_millis(500);

/// How long a coordinator that went away is waited for: it won't come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of a log a message tells.
const LOG_LINES_MAX: usize = 10;

/// Settings of the user's that are not for the processes that are measured.
const SETTINGS: &[&str] = &["PIECEWORK_SERVER", "PIECEWORK_DATA"];

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
    pub(super) client: Client,
    pub(super) pid: u32,
    data: PathBuf,
}

impl Parts {
    /// Starts a coordinator on a new data directory.
    pub(super) async fn coordinator(
        &self,
        context: &Context,
        data: PathBuf,
    ) -> Result<Coordinator, BenchError> {
        fs::create_dir(&data).map_err(BenchError::file(&data))?;
        let args = [OsStr::new("--data"), data.as_os_str(), OsStr::new("coordinator")];
        let pid = self.spawn("coordinator", &args, data.with_extension("coordinator.log")).await?;
        let socket = data.join("piecework.sock");
        let client = self
            .until("the coordinator's start", async || {
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
    ) -> Result<u32, BenchError> {
        let data = coordinator.data.join("agent");
        let address = coordinator.client.address().to_string();
        let slots = slots.to_string();
        let runtime = match runtime {
            PartRuntime::Docker => "docker",
            PartRuntime::Process => "process",
            PartRuntime::Scripted => "scripted",
        };
        let args = [
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
        let pid = self.spawn("agent", &args, coordinator.data.with_extension("agent.log")).await?;
        let is_ready = |agents: Vec<v1::Agent>| {
            agents.iter().any(|agent| agent.state() == v1::AgentState::Ready).then_some(())
        };
        self.until("the agent's start", async || coordinator.client.agents().await.ok().and_then(is_ready))
            .await?;
        Ok(pid)
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
    async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T, BenchError> {
        let deadline = Instant::now() + Duration::from_secs(START_SECS_MAX);
        loop {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                return Err(BenchError::TooLong { what: what.to_owned(), secs: START_SECS_MAX });
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

    /// Stops all of them, the agent first.
    pub(super) async fn stop(&self) {
        let mut parts = self.0.lock().await;
        // Each stays in the list until it has ended: nobody may wait for this any more.
        while let Some(part) = parts.last_mut() {
            drop(part.child.stdin.take());
            let ended = timeout(Duration::from_secs(STOP_SECS_MAX), part.child.wait()).await;
            if ended.is_err() {
                // What it leaves is found by its label.
                let _ = part.child.kill().await;
            }
            parts.pop();
        }
    }
}

/// The end of a log, for a message.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = human::tail(&text, LOG_LINES_MAX);
    if tail.is_empty() { tail } else { format!(":\n{tail}") }
}
