//! Three nodes of RabbitMQ, each in a container of an engine of their own, in the coordinator's network: what carries TODO.

use crate::{
    engine::Engine,
    network::Namespace,
    place::Place,
    process::{output_within, run, succeeds, wait},
};
use std::{fmt::Write as _, fs, path::Path, process::Command, time::Duration};

/// How many nodes there are: one can be lost.
pub(crate) const NODES: usize = 3;

/// Their image, of this machine's own RabbitMQ.
const IMAGE: &str = "piecework-chaos-rabbitmq:local";

/// Their network.
const NETWORK: &str = "rabbitmq";
const SUBNET: &str = "172.31.0.0/24";

/// The queue of tasks that ask for no labels.
const TODO: &str = "piecework.todo";

/// After how many seconds of silence nodes take each other for gone.
const TICK_SECS: u32 = 4;

/// How long nodes may take to start, and to be one cluster.
const WHOLE_MAX: Duration = Duration::from_secs(120);

/// How long a node may take to do what it is told.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The cluster. Dropped, its engine ends, and all containers with it.
pub(crate) struct Cluster {
    engine: Engine,
}

impl Cluster {
    /// Starts one.
    pub(crate) fn start(place: &Place, network: &Namespace) -> Self {
        let mut engine = Engine::new(place.path("rabbitmq-engine"));
        engine.start(network);
        let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/rabbitmq_image");
        run(Command::new(maker).arg(IMAGE).env("DOCKER_HOST", engine.address()));
        run(&mut engine.docker(&["network", "create", "--subnet", SUBNET, NETWORK]));
        let config = place.path("rabbitmq.conf");
        fs::write(&config, configuration()).expect("a file");
        let cluster = Self { engine };
        for node in 0..NODES {
            cluster.create(node, &config);
        }
        cluster.until_whole();
        cluster
    }

    fn create(&self, node: usize, config: &Path) {
        let name = name(node);
        let mut command = self.engine.docker(&["run", "--detach", "--name", &name, "--hostname", &name]);
        command.args(["--network", NETWORK, "--ip", &address(node)]);
        for other in 0..NODES {
            command.args(["--add-host", &format!("{}:{}", self::name(other), address(other))]);
        }
        let server = format!("-setcookie chaos -kernel net_ticktime {TICK_SECS}");
        for setting in [
            format!("RABBITMQ_NODENAME=rabbit@{name}"),
            format!("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={server}"),
            "RABBITMQ_CTL_ERL_ARGS=-setcookie chaos".to_owned(),
            "RABBITMQ_CONFIG_FILE=/etc/rabbitmq.conf".to_owned(),
        ] {
            command.args(["--env", &setting]);
        }
        command.arg("--volume").arg(format!("{}:/etc/rabbitmq.conf:ro", config.display())).arg(IMAGE);
        run(&mut command);
    }

    /// As `PIECEWORK_BROKER` has it.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = (0..NODES).map(|node| format!("amqp://guest:guest@{}", address(node))).collect();
        urls.join(",")
    }

    /// Waits until all nodes are one cluster.
    pub(crate) fn until_whole(&self) {
        let is_whole = || (0..NODES).all(|node| self.running(node) == NODES);
        assert!(wait(WHOLE_MAX, is_whole).is_some(), "the cluster is not whole:\n{}", self.logs());
    }

    /// How many running nodes a node sees.
    fn running(&self, node: usize) -> usize {
        let script = "rabbit_nodes:all_running().";
        let Some(said) = self.said(node, &["eval", script]) else { return 0 };
        said.matches("rabbit@").count()
    }

    /// What `rabbitmqctl` says on a node.
    fn said(&self, node: usize, args: &[&str]) -> Option<String> {
        let mut command = self.engine.docker(&["exec", &name(node), "rabbitmqctl", "--quiet"]);
        let output = output_within(command.args(args), ANSWER_MAX)?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same on whichever node does it.
    fn control(&self, args: &[&str]) {
        let is_done = || (0..NODES).any(|node| self.said(node, args).is_some());
        assert!(wait(ANSWER_MAX, is_done).is_some(), "no node does {args:?}");
    }

    /// `kill -9` of a node.
    pub(crate) fn kill(&self, node: usize) {
        run(&mut self.engine.docker(&["kill", "--signal", "KILL", &name(node)]));
    }

    pub(crate) fn start_again(&self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            run(&mut self.engine.docker(&["start", &name(node)]));
        }
        self.until_whole();
    }

    /// Stops all nodes, in order.
    pub(crate) fn stop(&self) {
        for node in 0..NODES {
            run(&mut self.engine.docker(&["stop", "--time", "30", &name(node)]));
        }
    }

    /// Cuts a node off from the others, or joins it again. The coordinator still reaches it.
    pub(crate) fn cut(&self, node: usize, is_cut: bool) {
        let process = self.engine.first_process(&name(node)).expect("a node that runs");
        for other in (0..NODES).filter(|other| *other != node) {
            for (chain, side) in [("INPUT", "--source"), ("OUTPUT", "--destination")] {
                let rule = if is_cut { "--append" } else { "--delete" };
                run(Command::new("nsenter").arg(format!("--net=/proc/{process}/ns/net")).args([
                    "iptables",
                    "--wait",
                    rule,
                    chain,
                    side,
                    &address(other),
                    "--jump",
                    "DROP",
                ]));
            }
        }
    }

    /// Has all nodes take no messages, as if they lacked memory, or take them again.
    pub(crate) fn block(&self, is_blocked: bool) {
        let share = if is_blocked { "0.000001" } else { "0.4" };
        for node in 0..NODES {
            let set = self.said(node, &["set_vm_memory_high_watermark", share]);
            assert!(set.is_some(), "node {node} takes no limit");
        }
    }

    /// Closes every connection.
    pub(crate) fn close_connections(&self) {
        self.control(&["close_all_connections", "chaos"]);
    }

    pub(crate) fn purge(&self) {
        self.control(&["purge_queue", TODO]);
    }

    pub(crate) fn delete(&self) {
        self.control(&["delete_queue", TODO]);
    }

    /// The end of what each node said.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for node in 0..NODES {
            let said =
                output_within(&mut self.engine.docker(&["logs", "--tail", "40", &name(node)]), ANSWER_MAX);
            let said = said.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
            let _ = writeln!(all, "--- {}\n{}", name(node), String::from_utf8_lossy(&said));
        }
        all
    }
}

/// It can't run here without.
pub(crate) fn is_missing() -> bool {
    !succeeds(Command::new("test").args(["-x", "/usr/lib/rabbitmq/bin/rabbitmq-server"]))
}

fn name(node: usize) -> String {
    format!("mq{node}")
}

fn address(node: usize) -> String {
    format!("172.31.0.{}", node + 10)
}

fn configuration() -> String {
    let mut text =
        "loopback_users = none\nlisteners.tcp.default = 5672\nlog.console = true\nlog.file = false\n\
         disk_free_limit.absolute = 50MB\ncluster_partition_handling = pause_minority\n\
         cluster_formation.peer_discovery_backend = classic_config\n"
            .to_owned();
    for node in 0..NODES {
        let _ = writeln!(text, "cluster_formation.classic_config.nodes.{} = rabbit@{}", node + 1, name(node));
    }
    text
}
