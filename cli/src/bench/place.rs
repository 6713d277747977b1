//! Where the measurements take place: a temporary directory, programs of this machine, an image with the same programs, and
//! the processes that run.

use super::{
    Options,
    docker::Docker,
    error::BenchError,
    host,
    parts::{Coordinator, Parts, Way},
};
use crate::{
    commands::new::QUEENS,
    context::Context,
    embedded::{RuntimeArg, part::PartRuntime},
    output::bench::{BenchWhy, Machine},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// How the temporary directory, and with it the image, is called.
pub(super) const PREFIX: &str = "piecework-bench-";

/// After how long an agent with two slots has workers waiting again: creating one takes about a fifth of that.
pub(super) const SPARES_PAUSE: Duration = Duration::from_millis(1500);

/// What a measurement can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// Programs of this machine, and the image of them if tasks run in Docker.
    Programs,
    /// The image.
    Docker,
    /// A RabbitMQ.
    RabbitMq,
}

/// Programs of this machine.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) nothing: String,
    pub(super) seq: String,
    pub(super) sleep: String,
    pub(super) queens: String,
}

/// Where the measurements take place.
pub(super) struct Place<'a> {
    pub(super) context: &'a Context,
    pub(super) options: Options,
    pub(super) parts: Parts,
    dir: TempDir,
    engine: Option<String>,
    docker: Option<Docker>,
    programs: Option<Programs>,
}

impl<'a> Place<'a> {
    pub(super) fn new(context: &'a Context, options: Options) -> Result<Self, BenchError> {
        let dir = std::path::absolute(&options.dir).map_err(BenchError::file(&options.dir))?;
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&dir).map_err(BenchError::file(dir))?;
        let parts = Parts::default();
        Ok(Self { context, options, parts, dir, engine: None, docker: None, programs: None })
    }

    /// Makes what the measurements need, and says which of them can't be had, and why.
    pub(super) async fn furnish(&mut self) -> Result<Vec<BenchWhy>, BenchError> {
        let needs: Vec<Needs> = self.options.names.iter().map(|name| name.needs()).collect();
        let engine = Docker::engine().await;
        self.engine = engine.as_ref().ok().cloned();
        let mut without = Vec::new();
        if self.options.broker.is_none() {
            let why = "it needs a RabbitMQ that has nothing else to do: name it in PIECEWORK_BROKER";
            let lacking = self.options.names.iter().filter(|name| name.needs() == Needs::RabbitMq);
            without.extend(lacking.map(|name| BenchWhy { name: name.name(), why: why.to_owned() }));
        }
        if needs.iter().all(|needs| matches!(needs, Needs::Nothing | Needs::RabbitMq)) {
            return Ok(without);
        }
        let programs = self.programs()?;
        let docker = match (self.options.runtime, programs.as_ref(), engine.as_ref()) {
            (_, Err(why), _) | (RuntimeArg::Auto | RuntimeArg::Docker, _, Err(why)) => Err(why.clone()),
            (RuntimeArg::Process, ..) => Err("it is about Docker".to_owned()),
            (_, Ok(programs), Ok(_)) => {
                let Programs { nothing, seq, sleep, queens } = programs;
                let files = [nothing, seq, sleep, queens].map(Path::new);
                self.say("making the image");
                // Known before it is made: an interruption must find it.
                let docker = self.docker.insert(Docker::new(self.dir.path()));
                let made = docker.make_image(&files, self.dir.path()).await;
                made.map_err(|error| format!("the image can't be made: {error}"))
            }
        };
        for name in &self.options.names {
            let why = match (name.needs(), programs.as_ref(), docker.as_ref()) {
                (Needs::Programs, Err(why), _) | (Needs::Docker, _, Err(why)) => why,
                (Needs::Programs, _, Err(why)) if self.options.runtime == RuntimeArg::Docker => why,
                _ => continue,
            };
            without.push(BenchWhy { name: name.name(), why: why.clone() });
        }
        if docker.is_err() {
            self.docker = None;
        }
        self.programs = programs.ok();
        Ok(without)
    }

    fn programs(&self) -> Result<Result<Programs, String>, BenchError> {
        let dir = self.path("bin");
        fs::create_dir(&dir).map_err(BenchError::file(&dir))?;
        let path = dir.join("queens");
        fs::write(&path, QUEENS).map_err(BenchError::file(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(BenchError::file(&path))?;
        let queens = path.to_string_lossy().into_owned();
        let find = |name| host::program(name).map(|path| path.to_string_lossy().into_owned());
        let programs = (|| {
            find("xargs")?;
            Ok(Programs { nothing: find("true")?, seq: find("seq")?, sleep: find("sleep")?, queens })
        })();
        Ok(programs)
    }

    /// What tasks call a program of this machine.
    pub(super) fn inside(&self, program: &str) -> String {
        if self.docker.is_none() {
            return program.to_owned();
        }
        Docker::inside(Path::new(program), self.dir.path()).to_string_lossy().into_owned()
    }

    /// A new path in the temporary directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a coordinator on a new data directory of this name.
    pub(super) async fn coordinator(&self, name: &str) -> Result<Coordinator, BenchError> {
        self.parts.coordinator(self.context, self.path(name), Way::Socket).await
    }

    /// Starts one that listens on TCP, too.
    pub(super) async fn coordinator_on_tcp(&self, name: &str) -> Result<Coordinator, BenchError> {
        self.parts.coordinator(self.context, self.path(name), Way::Tls).await
    }

    /// Starts one whose tasks RabbitMQ carries.
    pub(super) async fn coordinator_on_rabbitmq(&self, name: &str) -> Result<Coordinator, BenchError> {
        self.parts.coordinator(self.context, self.path(name), Way::RabbitMq).await
    }

    /// The RabbitMQ, of a measurement that said that it needs it.
    pub(super) fn broker(&self) -> Result<&str, BenchError> {
        self.options
            .broker
            .as_deref()
            .ok_or_else(|| BenchError::Wrong("it was begun without RabbitMQ".into()))
    }

    /// Starts an agent that runs tasks as it was asked for.
    pub(super) async fn agent(&self, coordinator: &Coordinator) -> Result<u32, BenchError> {
        self.parts.agent(coordinator, self.options.slots, self.runtime(), Way::Socket).await
    }

    /// Starts an agent that runs no tasks, but says that it did.
    pub(super) async fn scripted_agent(&self, coordinator: &Coordinator) -> Result<u32, BenchError> {
        self.scripted_agent_over(coordinator, Way::Socket).await
    }

    /// The same, by this way.
    pub(super) async fn scripted_agent_over(
        &self,
        coordinator: &Coordinator,
        way: Way,
    ) -> Result<u32, BenchError> {
        self.parts.agent(coordinator, self.options.slots, PartRuntime::Scripted, way).await
    }

    /// What tasks run in.
    const fn runtime(&self) -> PartRuntime {
        if self.docker.is_some() { PartRuntime::Docker } else { PartRuntime::Process }
    }

    /// In a few words, for a table.
    pub(super) const fn workers(&self) -> &'static str {
        if self.docker.is_some() { "in Docker" } else { "as processes" }
    }

    /// The image of tasks. The process runtime does not look at it.
    pub(super) fn image(&self) -> &str {
        self.docker.as_ref().map_or("none", |docker| &docker.image)
    }

    /// The engine, of a measurement that said that it needs it.
    pub(super) fn docker(&self) -> Result<&Docker, BenchError> {
        self.docker.as_ref().ok_or_else(|| BenchError::Wrong("it was begun without Docker".into()))
    }

    /// The engine, if tasks run in it.
    pub(super) const fn docker_if_used(&self) -> Option<&Docker> {
        self.docker.as_ref()
    }

    /// The programs, of a measurement that said that it needs them.
    pub(super) fn tools(&self) -> Result<&Programs, BenchError> {
        self.programs.as_ref().ok_or_else(|| BenchError::Wrong("it was begun without programs".into()))
    }

    /// How many tasks, unless the user says otherwise.
    pub(super) fn tasks(&self, default: u32) -> u32 {
        self.options.tasks.unwrap_or(default)
    }

    /// Tells how far it is.
    pub(super) fn say(&self, text: &str) {
        self.context.screen.note(text);
    }

    /// Measures both sides in turn, and says each figure.
    pub(super) async fn in_turn(
        &self,
        unit: &str,
        mut ours: impl AsyncFnMut(u32) -> Result<f64, BenchError>,
        mut theirs: impl AsyncFnMut(u32) -> Result<f64, BenchError>,
    ) -> Result<(Vec<f64>, Vec<f64>), BenchError> {
        let (mut all_ours, mut all_theirs) = (Vec::new(), Vec::new());
        for round in 1..=self.options.rounds {
            let ours = ours(round).await?;
            let theirs = theirs(round).await?;
            self.say(&format!("  {ours:.3} {unit} against {theirs:.3} {unit}"));
            all_ours.push(ours);
            all_theirs.push(theirs);
        }
        Ok((all_ours, all_theirs))
    }

    /// What it is measured on.
    pub(super) fn machine(&self) -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            processors: u32::try_from(processors).unwrap_or(u32::MAX),
            processor: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            docker: self.engine.clone(),
        }
    }

    /// Leaves nothing behind. What can't be removed is said.
    pub(super) async fn clear(self) {
        self.parts.stop().await;
        if let Some(docker) = &self.docker
            && let Err(error) = docker.clean_up(&labels(self.dir.path())).await
        {
            self.say(&format!("the image {} or containers of it may be left over: {error}", docker.image));
        }
        let (path, context) = (self.dir.path().to_owned(), self.context);
        if let Err(error) = self.dir.close() {
            context.screen.note(&format!("{} can't be removed: {error}", path.display()));
        }
    }
}

/// The labels of the workers of all agents that ran here: one that was killed leaves its workers.
fn labels(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| fs::read_to_string(entry.path().join("agent/agent-id")).ok());
    // Workers are labelled with the first eight digits.
    ids.filter_map(|id| Some(format!("piecework.agent={}", id.get(..8)?))).collect()
}
