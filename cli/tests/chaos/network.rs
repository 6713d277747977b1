//! Hosts' networks: a namespace each, with a cable to a bridge in a namespace of the coordinator's. Nothing of it touches
//! the network of the machine itself.

use crate::process::{run, succeeds};
use nix::sched::{CloneFlags, setns};
use std::{fs::File, process::Command, thread};

/// All names begin so, then comes the process that made them.
pub(crate) const NAME: &str = "pwchaos";

/// The bridge in the coordinator's namespace.
const BRIDGE: &str = "bridge";

/// A host's end of its cable.
const CARD: &str = "card";

/// A network namespace; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    fn new(name: String) -> Self {
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self(name);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Starts a program in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.0)).arg(program);
        command
    }

    /// Does something in it, in a thread of its own.
    pub(crate) fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let file = File::open(format!("/run/netns/{}", self.0)).expect("the namespace");
            setns(file, CloneFlags::CLONE_NEWNET).expect("a way into the namespace");
            what()
        };
        thread::scope(|scope| scope.spawn(enter).join().expect("what is done there"))
    }

    fn ip(&self, args: &[&str]) {
        run(Command::new("ip").args(["-n", &self.0]).args(args));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        succeeds(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

/// The coordinator's network, with the bridge.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) namespace: Namespace,
}

impl Hub {
    /// Where hosts find the coordinator.
    pub(crate) const ADDRESS: &str = "10.77.0.1";

    pub(crate) fn new() -> Self {
        let namespace = Namespace::new(format!("{NAME}-{}-hub", std::process::id()));
        namespace.ip(&["link", "add", BRIDGE, "type", "bridge"]);
        namespace.ip(&["address", "add", &format!("{}/24", Self::ADDRESS), "dev", BRIDGE]);
        namespace.ip(&["link", "set", BRIDGE, "up"]);
        Self { namespace }
    }
}

/// A host's network, with the cable to the hub.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) namespace: Namespace,
    hub: String,
    /// The hub's end of it.
    plug: String,
}

/// What a cable can suffer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ill {
    /// Nothing goes through.
    Cut,
    /// Nothing goes through to the hub.
    Mute,
    /// Nothing goes through to the host.
    Deaf,
    /// Very little goes through at a time.
    Slow,
    /// Whoever sends is told that the connection is no more.
    Reset,
}

/// What goes through a slow one, and how long something may wait before it is dropped.
const SLOW: [&str; 7] = ["tbf", "rate", "1mbit", "burst", "32kb", "latency", "400ms"];

impl Cable {
    pub(crate) fn new(hub: &Hub, host: usize) -> Self {
        let namespace = Namespace::new(format!("{NAME}-{}-{host}", std::process::id()));
        let plug = format!("plug{host}");
        hub.namespace.ip(&[
            "link",
            "add",
            &plug,
            "type",
            "veth",
            "peer",
            "name",
            CARD,
            "netns",
            &namespace.0,
        ]);
        hub.namespace.ip(&["link", "set", &plug, "master", BRIDGE, "up"]);
        namespace.ip(&["address", "add", &format!("10.77.0.{}/24", host + 10), "dev", CARD]);
        namespace.ip(&["link", "set", CARD, "up"]);
        Self { namespace, hub: hub.namespace.0.clone(), plug }
    }

    /// From now on it suffers from this.
    pub(crate) fn harm(&self, ill: Ill) {
        self.set(ill, true);
    }

    /// It is well again.
    pub(crate) fn heal(&self, ill: Ill) {
        self.set(ill, false);
    }

    fn set(&self, ill: Ill, harmed: bool) {
        let (change, rule) = if harmed { ("add", "--append") } else { ("del", "--delete") };
        let filter = |args: &[&str]| {
            run(self.namespace.command("iptables").args(["--wait", rule]).args(args));
        };
        match ill {
            Ill::Cut => {
                let state = if harmed { "down" } else { "up" };
                run(Command::new("ip").args(["-n", &self.hub, "link", "set", &self.plug, state]));
            }
            Ill::Mute => filter(&["OUTPUT", "--out-interface", CARD, "--jump", "DROP"]),
            Ill::Deaf => filter(&["INPUT", "--in-interface", CARD, "--jump", "DROP"]),
            Ill::Reset => filter(&[
                "OUTPUT",
                "--out-interface",
                CARD,
                "--protocol",
                "tcp",
                "--jump",
                "REJECT",
                "--reject-with",
                "tcp-reset",
            ]),
            Ill::Slow => {
                for (namespace, device) in [(&self.hub, &*self.plug), (&self.namespace.0, CARD)] {
                    let mut tc = Command::new("tc");
                    tc.args(["-n", namespace, "qdisc", change, "dev", device, "root"]);
                    run(tc.args(if harmed { &SLOW[..] } else { &[] }));
                }
            }
        }
    }
}
