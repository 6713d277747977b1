//! The faults: what is done to the fleet, what that may cost, and how long it takes to be well again.

use crate::{
    cluster::NODES,
    engine::Engine,
    fleet::{Fleet, HOSTS, LEASE, SLOTS},
    network::Ill,
    process::{output_within, run, wait, with_descendants},
    work::{self, Work},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{RngExt, rngs::StdRng, seq::IteratorRandom};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// How long it may take until there is something to hit, or until it is well again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long it may take until half of all slots are taken; after that, less is enough.
const BUSY_MAX: Duration = Duration::from_secs(3);

/// How often the coordinator is asked what it has given up, and how much later than a lease that may be.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const GIVE_UP_MAX: Duration = Duration::from_secs(3);

/// How much longer than a lease it is waited for.
const GIVE_UP_WAIT: Duration = Duration::from_secs(10);

/// How long an agent may take to notice that its disk is full.
const NOTICE_MAX: Duration = Duration::from_secs(15);

/// Within what a lease is exceeded for certain, and within what it is not.
const LONGER: Duration = Duration::from_millis(1500);
const SHORTER: Duration = Duration::from_millis(2000);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ServerKilled,
    ServerStopped,
    ServerPaused,
    ServerPausedLong,
    ServerDiskFull,
    AgentKilled,
    AgentStopped,
    AgentHurried,
    AgentPaused,
    AgentPausedLong,
    AgentDiskFull,
    InitKilled,
    ContainerRemoved,
    EngineRestarted,
    EngineRestartedLive,
    HostLost,
    LinkCut,
    LinkCutLong,
    LinkMute,
    LinkDeaf,
    LinkSlow,
    LinkReset,
    BrokerNodeKilled,
    BrokerNodeCut,
    BrokerRestarted,
    BrokerBlocked,
    BrokerClosed,
    QueuePurged,
    QueueDeleted,
}

impl Kind {
    /// Those that there are with any broker.
    pub(crate) const ALL: [Self; 22] = [
        Self::ServerKilled,
        Self::ServerStopped,
        Self::ServerPaused,
        Self::ServerPausedLong,
        Self::ServerDiskFull,
        Self::AgentKilled,
        Self::AgentStopped,
        Self::AgentHurried,
        Self::AgentPaused,
        Self::AgentPausedLong,
        Self::AgentDiskFull,
        Self::InitKilled,
        Self::ContainerRemoved,
        Self::EngineRestarted,
        Self::EngineRestartedLive,
        Self::HostLost,
        Self::LinkCut,
        Self::LinkCutLong,
        Self::LinkMute,
        Self::LinkDeaf,
        Self::LinkSlow,
        Self::LinkReset,
    ];

    /// With RabbitMQ: what its operator and its machines can do, and what is hit while messages are on their way.
    pub(crate) const WITH_RABBITMQ: [Self; 10] = [
        Self::BrokerNodeKilled,
        Self::BrokerNodeCut,
        Self::BrokerRestarted,
        Self::BrokerBlocked,
        Self::BrokerClosed,
        Self::QueuePurged,
        Self::QueueDeleted,
        Self::ServerKilled,
        Self::AgentKilled,
        Self::LinkCut,
    ];

    /// For people.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::ServerKilled => "coordinator killed",
            Self::ServerStopped => "coordinator stopped and started",
            Self::ServerPaused => "coordinator paused, less than a lease",
            Self::ServerPausedLong => "coordinator paused, more than a lease",
            Self::ServerDiskFull => "coordinator's disk full",
            Self::AgentKilled => "agent killed",
            Self::AgentStopped => "agent stopped and started",
            Self::AgentHurried => "agent stopped in a hurry",
            Self::AgentPaused => "agent paused, less than a lease",
            Self::AgentPausedLong => "agent paused, more than a lease",
            Self::AgentDiskFull => "agent's disk full",
            Self::InitKilled => "worker's init killed",
            Self::ContainerRemoved => "container removed",
            Self::EngineRestarted => "engine restarted",
            Self::EngineRestartedLive => "engine restarted, live-restore",
            Self::HostLost => "host lost, and back",
            Self::LinkCut => "link cut, less than a lease",
            Self::LinkCutLong => "link cut, more than a lease",
            Self::LinkMute => "link half open: host not heard",
            Self::LinkDeaf => "link half open: host hears nothing",
            Self::LinkSlow => "link slow",
            Self::LinkReset => "connections reset",
            Self::BrokerNodeKilled => "RabbitMQ: a node killed",
            Self::BrokerNodeCut => "RabbitMQ: a node cut off from the others",
            Self::BrokerRestarted => "RabbitMQ: all nodes restarted",
            Self::BrokerBlocked => "RabbitMQ: memory alarm",
            Self::BrokerClosed => "RabbitMQ: connections closed",
            Self::QueuePurged => "RabbitMQ: queue purged",
            Self::QueueDeleted => "RabbitMQ: queue deleted",
        }
    }

    /// It hits RabbitMQ.
    const fn hits_the_broker(self) -> bool {
        matches!(
            self,
            Self::BrokerNodeKilled
                | Self::BrokerNodeCut
                | Self::BrokerRestarted
                | Self::BrokerBlocked
                | Self::BrokerClosed
                | Self::QueuePurged
                | Self::QueueDeleted
        )
    }

    /// It hits one host, not the coordinator.
    const fn hits_a_host(self) -> bool {
        !self.hits_the_broker()
            && !matches!(
                self,
                Self::ServerKilled
                    | Self::ServerStopped
                    | Self::ServerPaused
                    | Self::ServerPausedLong
                    | Self::ServerDiskFull
            )
    }

    /// How many attempts it may lose at the most, of those that are on its host while it lasts.
    const fn losses_max(self) -> usize {
        match self {
            Self::AgentPausedLong
            | Self::EngineRestarted
            | Self::HostLost
            | Self::LinkCutLong
            | Self::LinkMute
            | Self::LinkDeaf => usize::MAX,
            // What runs, and what has ended in the same moment.
            Self::InitKilled | Self::ContainerRemoved => 3,
            // What runs is killed, and handed back.
            Self::AgentHurried => SLOTS,
            _ => 0,
        }
    }

    /// The host lives, and is not heard for longer than a lease.
    pub(crate) const fn is_silence(self) -> bool {
        matches!(self, Self::AgentPausedLong | Self::LinkCutLong | Self::LinkMute | Self::LinkDeaf)
    }

    /// It is to end with what ran there given up, while it still lasts.
    const fn is_given_up(self) -> bool {
        self.is_silence() || matches!(self, Self::HostLost)
    }

    /// Within what it must be well again, counted as [`strike`] does.
    const fn recovery_max(self) -> Duration {
        match self {
            Self::ServerKilled | Self::ServerStopped => Duration::from_secs(3),
            Self::AgentKilled => Duration::from_secs(2),
            _ => WAIT_MAX,
        }
    }

    /// The kind of loss that the coordinator is to have charged somewhere, after such faults.
    pub(crate) const fn loss(self) -> Option<&'static str> {
        match self {
            Self::InitKilled | Self::ContainerRemoved => Some("worker_lost"),
            Self::EngineRestarted => Some("engine_lost"),
            Self::AgentPausedLong | Self::HostLost | Self::LinkCutLong | Self::LinkMute | Self::LinkDeaf => {
                Some("lease_lost")
            }
            _ => None,
        }
    }
}

/// A fault that was.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The host that it hit; none if it was the coordinator or RabbitMQ.
    pub(crate) host: Option<usize>,
    pub(crate) begin: Instant,
    /// When all was well again.
    pub(crate) end: Instant,
    /// How many attempts ran where it hit.
    pub(crate) running: usize,
    /// How many it may have lost.
    pub(crate) losses_max: usize,
    /// How long after its begin the coordinator had given up what ran there, if it was to.
    pub(crate) given_up: Option<Duration>,
    /// How long it took after its cause was gone, until what it had hit was of use again.
    pub(crate) recovery: Option<Duration>,
}

impl Fault {
    /// One that begins now, where so many attempts run.
    pub(crate) fn new(kind: Kind, host: Option<usize>, running: usize) -> Self {
        let now = Instant::now();
        let losses_max = kind.losses_max();
        Self { kind, host, begin: now, end: now, running, losses_max, given_up: None, recovery: None }
    }

    /// What took longer than promised.
    pub(crate) fn too_slow(&self) -> Vec<String> {
        let kind = self.kind;
        let max = kind.recovery_max();
        let mut slow = Vec::new();
        if self.recovery.is_none_or(|took| took > max) {
            slow.push(format!("{kind:?}: well again after {:?}, not {max:?}", self.recovery));
        }
        if kind.is_given_up() && self.given_up.is_none_or(|took| took > LEASE + GIVE_UP_MAX) {
            slow.push(format!("{kind:?}: its attempts were given up after {:?}", self.given_up));
        }
        slow
    }
}

/// Waits until there is something to hit, and hits it.
pub(crate) fn strike(kind: Kind, fleet: &mut Fleet, chance: &mut StdRng) -> Fault {
    wait(BUSY_MAX, || fleet.witness.running().values().sum::<usize>() >= HOSTS * SLOTS / 2);
    fleet.wait("something runs", WAIT_MAX, |fleet| !fleet.witness.running().is_empty());
    let running = fleet.witness.running();
    let host = (0..HOSTS).filter(|host| running.contains_key(host)).choose(chance);
    let host = host.filter(|_| kind.hits_a_host());
    let hit =
        running.iter().filter(|(on, _)| host.is_none_or(|host| host == **on)).map(|(_, count)| count).sum();
    let mut fault = Fault::new(kind, host, hit);
    match host {
        None if kind.hits_the_broker() => fault.recovery = strike_broker(kind, fleet, chance),
        None => fault.recovery = strike_server(kind, fleet, chance),
        Some(host) => strike_host(&mut fault, fleet, host, chance),
    }
    fault.end = Instant::now();
    fault
}

/// So many milliseconds.
fn some(from: u64, to: u64, chance: &mut StdRng) -> Duration {
    Duration::from_millis(chance.random_range(from..to))
}

fn strike_server(kind: Kind, fleet: &mut Fleet, chance: &mut StdRng) -> Option<Duration> {
    match kind {
        Kind::ServerKilled => {
            fleet.server.take()?.kill();
            thread::sleep(some(0, 2000, chance));
            fleet.start_server();
        }
        Kind::ServerStopped => {
            let ended = fleet.server.take()?.terminate(WAIT_MAX);
            assert!(
                ended.is_some_and(|status| status.success()),
                "the coordinator did not stop well: {ended:?}"
            );
            fleet.start_server();
        }
        Kind::ServerPaused | Kind::ServerPausedLong => {
            fleet.server().signal(Signal::SIGSTOP);
            thread::sleep(if kind == Kind::ServerPaused { LEASE - SHORTER } else { LEASE + LONGER });
            fleet.server().signal(Signal::SIGCONT);
        }
        _ => {
            fleet.server_disk.fill();
            assert_refused(fleet);
            thread::sleep(some(2000, 6000, chance));
            fleet.server_disk.clear();
        }
    }
    let since = Instant::now();
    wait(WAIT_MAX, || fleet.ready() == HOSTS && Work::done(fleet).is_some())?;
    Some(since.elapsed())
}

/// Well again once results come.
fn strike_broker(kind: Kind, fleet: &Fleet, chance: &mut StdRng) -> Option<Duration> {
    let cluster = fleet.cluster.as_ref().expect("a RabbitMQ");
    let node = chance.random_range(0..NODES);
    let before = Work::done(fleet);
    match kind {
        Kind::BrokerNodeKilled => {
            cluster.kill(node);
            thread::sleep(some(0, 4000, chance));
            cluster.start_again([node]);
        }
        Kind::BrokerNodeCut => {
            cluster.cut(node, true);
            thread::sleep(some(2000, 12_000, chance));
            cluster.cut(node, false);
            cluster.until_whole();
        }
        Kind::BrokerRestarted => {
            cluster.stop();
            cluster.start_again(0..NODES);
        }
        Kind::BrokerBlocked => {
            cluster.block(true);
            thread::sleep(some(2000, 6000, chance));
            cluster.block(false);
        }
        Kind::BrokerClosed => cluster.close_connections(),
        Kind::QueuePurged => cluster.purge(),
        _ => cluster.delete(),
    }
    let since = Instant::now();
    wait(WAIT_MAX, || Work::done(fleet).is_some_and(|done| before.is_none_or(|before| done > before)))?;
    Some(since.elapsed())
}

/// A coordinator whose disk is full takes no project, and says why.
fn assert_refused(fleet: &Fleet) {
    let file = fleet.place.path("refused.json");
    fs::write(&file, work::refused().to_string()).expect("a project file");
    let said = output_within(&mut fleet.client(&["submit", &file.to_string_lossy()]), WAIT_MAX);
    let said = said.expect("an answer to a submission");
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && why.contains("the coordinator's store is full"), "{said:?}");
}

fn strike_host(fault: &mut Fault, fleet: &mut Fleet, number: usize, chance: &mut StdRng) {
    let kind = fault.kind;
    let access = fleet.access.clone();
    let host = &mut fleet.hosts[number];
    match kind {
        Kind::AgentKilled => {
            host.kill_agent();
            thread::sleep(some(0, 1500, chance));
            host.start_agent(&access);
        }
        Kind::AgentStopped => {
            let ended = host.agent.take().and_then(|agent| agent.terminate(WAIT_MAX));
            assert!(ended.is_some_and(|status| status.success()), "an agent did not stop well: {ended:?}");
            host.start_agent(&access);
        }
        Kind::AgentHurried => {
            host.agent().signal(Signal::SIGTERM);
            thread::sleep(some(0, 1000, chance));
            let ended = host.agent.take().and_then(|agent| agent.terminate(WAIT_MAX));
            assert!(ended.is_some_and(|status| status.success()), "an agent did not stop well: {ended:?}");
            host.start_agent(&access);
        }
        Kind::AgentPaused | Kind::AgentPausedLong => {
            host.agent().signal(Signal::SIGSTOP);
            last(fault, fleet);
            fleet.hosts[number].agent().signal(Signal::SIGCONT);
        }
        Kind::AgentDiskFull => {
            host.disk.fill();
            fleet.wait("the agent notices that its disk is full", NOTICE_MAX, |fleet| {
                fleet.agent_state(number) == "not ready"
            });
            thread::sleep(some(1000, 5000, chance));
            fleet.hosts[number].disk.clear();
        }
        Kind::InitKilled => {
            let (_, init) = busy_container(fleet, number);
            kill(Pid::from_raw(init), Signal::SIGKILL).expect("a worker's init");
        }
        Kind::ContainerRemoved => {
            let (container, _) = busy_container(fleet, number);
            run(&mut fleet.hosts[number].engine.docker(&["rm", "--force", &container]));
        }
        Kind::EngineRestarted | Kind::EngineRestartedLive => {
            host.engine.set_live_restore(kind == Kind::EngineRestartedLive);
            host.engine.stop();
            thread::sleep(some(1000, 4000, chance));
            host.start_engine();
        }
        Kind::LinkCut
        | Kind::LinkCutLong
        | Kind::LinkMute
        | Kind::LinkDeaf
        | Kind::LinkSlow
        | Kind::LinkReset => {
            let ill = match kind {
                Kind::LinkMute => Ill::Mute,
                Kind::LinkDeaf => Ill::Deaf,
                Kind::LinkSlow => Ill::Slow,
                Kind::LinkReset => Ill::Reset,
                _ => Ill::Cut,
            };
            host.cable.harm(ill);
            last(fault, fleet);
            fleet.hosts[number].cable.heal(ill);
        }
        Kind::HostLost => {
            host.kill_agent();
            host.engine.lose();
            last(fault, fleet);
            let host = &mut fleet.hosts[number];
            host.start_engine();
            host.start_agent(&access);
        }
        _ => unreachable!("{kind:?} does not hit a host"),
    }
    let since = Instant::now();
    fault.recovery = wait(WAIT_MAX, || fleet.agent_state(number) == "ready").map(|_| since.elapsed());
}

/// Waits for as long as a fault lasts. If it outlives the lease, that is until the coordinator has given up what its host
/// holds.
fn last(fault: &mut Fault, fleet: &Fleet) {
    let until = Instant::now()
        + match fault.kind {
            Kind::LinkReset => LEASE / 4,
            Kind::AgentPaused | Kind::LinkCut => LEASE - SHORTER,
            kind if kind.is_given_up() => LEASE + GIVE_UP_WAIT,
            _ => LEASE + LONGER,
        };
    while fault.kind.is_given_up() && Instant::now() < until {
        let held = fault.host.and_then(|host| fleet.held(host));
        if held == Some(0) {
            fault.given_up = Some(fault.begin.elapsed());
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
    thread::sleep(until.saturating_duration_since(Instant::now()));
}

/// A container in which a task runs, and its first process.
fn busy_container(fleet: &Fleet, number: usize) -> (String, i32) {
    let host = &fleet.hosts[number];
    let mut found = None;
    let mut look = || {
        let of = |engine: &Engine, container: String| Some((engine.first_process(&container)?, container));
        let mut all = host.containers().into_iter().filter_map(|container| of(&host.engine, container));
        found = all.find(|(init, _)| with_descendants([*init]).len() > 1);
        found.is_some()
    };
    wait(WAIT_MAX, &mut look);
    let (init, container) = found.expect("a worker with a task");
    (container, init)
}
