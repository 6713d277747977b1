//! A fleet: a coordinator and three hosts, each a network, an engine, a small disk and an agent; all as real processes.

use crate::{
    cluster::Cluster,
    disk::Disk,
    engine::Engine,
    image::{self, IMAGE, built},
    network::{Cable, Hub, Namespace},
    place::Place,
    process::{Program, output_within, run, wait},
    witness::Witness,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// How many hosts there are.
pub(crate) const HOSTS: usize = 3;

/// How many tasks each runs at a time.
pub(crate) const SLOTS: usize = 4;

/// How long an agent may be silent before its attempts are taken from it.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// How many losses a task may have: here, losses are what is wanted.
const CRASHES_MAX: u32 = 1000;

/// The disks; an agent takes no work with less than 64 MiB free.
const SERVER_DISK_BYTES: u64 = 2 << 30;
const AGENT_DISK_BYTES: u64 = 256 << 20;

/// How long a program may take to start or to stop.
const PROGRAM_MAX: Duration = Duration::from_secs(60);

/// How long an answer of the coordinator may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How agents reach the coordinator, and how they join.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    token: String,
}

impl Access {
    const PORT: u16 = 7437;

    fn of_server(server: &mut Command) {
        server.args(["--listen", &format!("{}:{}", Hub::ADDRESS, Self::PORT), "--tls-name", Hub::ADDRESS]);
    }

    /// Has the coordinator make a token.
    fn make(fleet: &Fleet) -> Self {
        let made = fleet.ask(&["agents", "join-token", "--uses", &HOSTS.to_string()]);
        let token = made.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self { token: token.expect("a token to join with") }
    }

    fn of_agent(&self, agent: &mut Command) {
        agent.arg("--server").arg(format!("https://{}:{}", Hub::ADDRESS, Self::PORT));
        agent.env("PIECEWORK_JOIN_TOKEN", &self.token);
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) number: usize,
    pub(crate) agent: Option<Program>,
    pub(crate) engine: Engine,
    pub(crate) disk: Disk,
    pub(crate) cable: Cable,
    log: PathBuf,
}

impl Host {
    fn new(place: &Place, hub: &Hub, number: usize) -> Self {
        let name = Self::name_of(number);
        Self {
            number,
            agent: None,
            engine: Engine::new(place.path(&format!("{name}-engine"))),
            disk: Disk::new(place.path(&name), AGENT_DISK_BYTES),
            cable: Cable::new(hub, number),
            log: place.path(&format!("{name}.log")),
        }
    }

    pub(crate) fn name(&self) -> String {
        Self::name_of(self.number)
    }

    fn name_of(number: usize) -> String {
        format!("host{number}")
    }

    pub(crate) fn start_engine(&mut self) {
        self.engine.start(&self.cable.namespace);
    }

    pub(crate) fn start_agent(&mut self, access: &Access) {
        let mut command = self.cable.namespace.command(&built("piecework-agent").to_string_lossy());
        bare(&mut command);
        command
            .arg("--data")
            .arg(self.data())
            .args(["--name", &self.name(), "--slots", &SLOTS.to_string(), "--runtime", "docker"])
            .env("DOCKER_HOST", self.engine.address());
        access.of_agent(&mut command);
        self.agent = Some(Program::start(&mut command, &self.log));
    }

    /// The agent's directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.disk.path().join("agent")
    }

    /// The containers of its agent.
    pub(crate) fn containers(&self) -> Vec<String> {
        let id = fs::read_to_string(self.data().join("agent-id")).expect("the agent's id");
        // They are labelled with its first eight digits.
        self.engine.containers(&format!("piecework.agent={}", id.get(..8).expect("eight digits")))
    }

    /// `kill -9` of its agent.
    pub(crate) fn kill_agent(&mut self) {
        self.agent.take().expect("a running agent").kill();
    }

    pub(crate) fn agent(&self) -> &Program {
        self.agent.as_ref().expect("a running agent")
    }
}

/// The coordinator, its hosts, and who sees what they do. Dropped, all of it ends, in this order.
pub(crate) struct Fleet {
    pub(crate) server: Option<Program>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) server_disk: Disk,
    pub(crate) access: Access,
    pub(crate) witness: Witness,
    /// What carries TODO, if it is not the coordinator itself.
    pub(crate) cluster: Option<Cluster>,
    hub: Hub,
    pub(crate) place: Place,
}

impl Fleet {
    /// Starts it all, with or without a RabbitMQ that carries TODO.
    pub(crate) fn new(with_rabbitmq: bool) -> Self {
        let place = Place::new();
        let archive = image::write_archive(place.dir());
        let hub = Hub::new();
        let server_disk = Disk::new(place.path("server"), SERVER_DISK_BYTES);
        let hosts = (0..HOSTS).map(|number| Host::new(&place, &hub, number)).collect();
        let witness = Witness::default();
        let cluster = with_rabbitmq.then(|| Cluster::start(&place, &hub.namespace));
        let access = Access::default();
        let mut fleet = Self { server: None, hosts, server_disk, access, witness, cluster, hub, place };
        fleet.start_server();
        fleet.wait("the coordinator answers", PROGRAM_MAX, |fleet| fleet.ask(&["agents"]).is_some());
        fleet.access = Access::make(&fleet);
        for host in &mut fleet.hosts {
            fleet.witness.listen(host.number, &host.cable.namespace);
            host.start_engine();
            run(host.engine.docker(&["import"]).arg(&archive).arg(IMAGE));
            host.start_agent(&fleet.access);
        }
        fleet.wait("all agents are ready", PROGRAM_MAX, |fleet| fleet.ready() == HOSTS);
        fleet
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.server_disk.path().join("data")
    }

    pub(crate) fn network(&self) -> &Namespace {
        &self.hub.namespace
    }

    pub(crate) fn start_server(&mut self) {
        let mut command = self.network().command(&built("piecework-server").to_string_lossy());
        bare(&mut command);
        command.arg("--data").arg(self.data());
        command.args(["--lease-secs", &LEASE.as_secs().to_string()]);
        command.args(["--crashes-max", &CRASHES_MAX.to_string()]);
        Access::of_server(&mut command);
        if let Some(cluster) = &self.cluster {
            command.env("PIECEWORK_BROKER", cluster.urls());
        }
        self.server = Some(Program::start(&mut command, &self.place.path("server.log")));
    }

    pub(crate) fn server(&self) -> &Program {
        self.server.as_ref().expect("a running coordinator")
    }

    /// `piecework` with these arguments.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_piecework"));
        bare(&mut command);
        command.args(args).current_dir(self.place.dir()).env("PIECEWORK_DATA", self.data());
        command
    }

    /// What the coordinator says, if it does.
    pub(crate) fn ask(&self, args: &[&str]) -> Option<Output> {
        output_within(&mut self.client(args), ANSWER_MAX).filter(|output| output.status.success())
    }

    fn ask_json(&self, args: &[&str]) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.ask(&[args, &["--output", "json"]].concat())?.stdout).ok()
    }

    /// The projects, or the agents, as objects.
    pub(crate) fn list(&self, args: &[&str], field: &str) -> Option<Vec<serde_json::Value>> {
        self.ask_json(args)?.get(field)?.as_array().cloned()
    }

    /// How many agents are ready.
    pub(crate) fn ready(&self) -> usize {
        let agents = self.list(&["agents"], "agents").unwrap_or_default();
        agents.iter().filter(|agent| agent["state"] == "ready").count()
    }

    /// What the coordinator says of a host's agent.
    fn agent(&self, host: usize) -> Option<serde_json::Value> {
        let agents = self.list(&["agents"], "agents")?;
        agents.into_iter().find(|agent| agent["name"] == *Host::name_of(host))
    }

    /// The state of a host's agent, as the coordinator says.
    pub(crate) fn agent_state(&self, host: usize) -> String {
        let agent = self.agent(host);
        agent.and_then(|agent| Some(agent["state"].as_str()?.to_owned())).unwrap_or_default()
    }

    /// How many attempts a host's agent holds, as the coordinator says.
    pub(crate) fn held(&self, host: usize) -> Option<u64> {
        self.agent(host)?["held"].as_u64()
    }

    /// Waits until something holds, and says how long that took.
    pub(crate) fn wait(
        &self,
        what: &str,
        longest: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let took = wait(longest, || holds(self));
        took.unwrap_or_else(|| panic!("waited in vain until {what}\n{}", self.state()))
    }

    /// What the coordinator says of projects and agents.
    fn state(&self) -> String {
        let say = |args: &[&str]| match output_within(&mut self.client(args), ANSWER_MAX) {
            Some(output) => [output.stdout, output.stderr]
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .concat(),
            None => "no answer\n".to_owned(),
        };
        [&["ls"][..], &["agents"]].map(say).concat()
    }

    /// The end of what each program said, for the message of a failed run.
    pub(crate) fn logs(&self) -> String {
        let hosts = self.hosts.iter().map(|host| host.log.clone());
        let files = [self.place.path("server.log")].into_iter().chain(hosts);
        let nodes = self.cluster.as_ref().map(Cluster::logs);
        files
            .map(|file| format!("--- {}\n{}", file.display(), last_lines(&file)))
            .chain(nodes)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Nothing of the developer's own settings.
fn bare(command: &mut Command) {
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("PIECEWORK_")) {
        command.env_remove(key);
    }
    command.env("NO_COLOR", "1");
}

fn last_lines(file: &Path) -> String {
    const LINES: usize = 60;
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
