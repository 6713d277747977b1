//! The world: what exists, what will happen, and what goes wrong.

use crate::{
    additions::{Additions, Try},
    coordinator::CoordinatorHost,
    host::AgentHost,
    network::Wire,
    witness::Witness,
};
use piecework_agent::supervisor::{FromCoordinator, PlantedBug, ToCoordinator};
use piecework_server::{
    coordinator::{Dispatch, Input, Planted},
    domain::ProjectId,
    store::sqlite::Writer,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// For how long things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// How long everything may take after that.
const PATIENCE: Duration = Duration::from_secs(300);
pub(crate) const LEASE: Duration = Duration::from_secs(2);
pub(crate) const RESERVE_AFTER: Duration = Duration::from_millis(300);
/// How long others may go before what needs much. Tasks last up to 8 s, and a wait for such a one may be in vain once or twice.
const STARVED_MAX: Duration = Duration::from_secs(20);
/// How many lines of the story are kept.
const STORY_LINES_MAX: usize = 400;

/// A bug of the shell around the coordinator's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShellBug {
    /// Messages leave before the commit.
    EffectsBeforeCommit,
    /// After a failed commit the core goes on as if it had been made.
    NotFoldedBack,
    /// What is added again is taken for new.
    KeysIgnored,
}

/// The bugs planted in one world.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bugs {
    pub(crate) coordinator: Option<Planted>,
    pub(crate) shell: Option<ShellBug>,
    pub(crate) agent: Option<PlantedBug>,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// The coordinator takes what waits.
    Turn,
    CoordinatorTick,
    CoordinatorStarts,
    /// The broker delivers, to whoever is the coordinator then.
    Delivered(Dispatch),
    /// The broker has lost a task, or seems to have.
    BrokerLost(Dispatch),
    /// A job of the coordinator ends.
    JobDone {
        epoch: u64,
        done: Input,
    },
    /// A client hands in its project, or tries again.
    Submit {
        client: usize,
    },
    CancelProject {
        client: usize,
    },
    /// A client adds tasks to its open project, or tries again.
    Add {
        client: usize,
        nth: usize,
    },
    AgentStarts {
        host: usize,
    },
    AgentTick {
        host: usize,
    },
    AgentDials {
        host: usize,
    },
    /// The agent's stream is open.
    Connected {
        host: usize,
        wire: u64,
    },
    ToCoordinator {
        wire: u64,
        seq: u64,
        message: ToCoordinator,
    },
    ToAgent {
        wire: u64,
        seq: u64,
        message: FromCoordinator,
    },
    /// One end of a stream notices that it ended.
    CoordinatorNotices {
        wire: u64,
    },
    AgentNotices {
        wire: u64,
    },
    WorkerEnds {
        host: usize,
        worker: u64,
    },
    /// The shell looks at the lane of this worker: what waits behind it may be stuck.
    LaneIsLookedAt {
        host: usize,
        worker: u64,
    },
    EndingsArrive {
        host: usize,
    },
    /// What has not begun comes back to an agent that stops.
    TakenBack {
        host: usize,
        instance: u64,
    },
    Uploaded {
        host: usize,
        instance: u64,
        attempt: piecework_agent::domain::AttemptKey,
    },
    Trouble,
    LinkHeals {
        host: usize,
    },
}

/// All there is.
pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    pub(crate) bugs: Bugs,
    pub(crate) writer: Writer,
    pub(crate) coordinator: Option<CoordinatorHost>,
    pub(crate) hosts: Vec<AgentHost>,
    pub(crate) wires: BTreeMap<u64, Wire>,
    pub(crate) witness: Witness,
    pub(crate) clients: Vec<Client>,
    /// Additions that wait for their answer, and how many there were.
    pub(crate) awaited: BTreeMap<u64, Try>,
    pub(crate) tries: u64,
    /// The next commit fails: before it is made, or after.
    pub(crate) commit_fails: Option<CommitFault>,
    pub(crate) profile: Profile,
    story: Vec<String>,
}

/// What kind of world it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    /// Something goes wrong at least so often; in calm worlds hardly ever, so that nothing hides what a lost message does.
    trouble_within_millis: u64,
    pub(crate) bad_messages_per_mille: u32,
    /// TODO is far away: deliveries come late, in any order, and twice.
    pub(crate) distant_broker: bool,
    pub(crate) lookahead: u32,
    /// Most tasks take milliseconds, so that agents ask for a backlog.
    pub(crate) quick: bool,
    /// As long as things go wrong, nearly everything fails on this host.
    pub(crate) sick: Option<usize>,
}

impl Profile {
    fn random(rng: &mut StdRng) -> Self {
        Self {
            trouble_within_millis: *[1_500, 1_500, 5_000, 40_000].choose(rng).unwrap_or(&1_500),
            bad_messages_per_mille: rng.random_range(0..40),
            distant_broker: rng.random_bool(0.4),
            lookahead: rng.random_range(0..8),
            quick: rng.random_bool(0.4),
            sick: rng.random_bool(0.3).then(|| rng.random_range(0..3)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitFault {
    NotMade,
    MadeAllTheSame,
}

/// A client with one project.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) plan: crate::witness::ProjectPlan,
    /// Known once the submission was begun.
    pub(crate) project: Option<ProjectId>,
    pub(crate) answered: bool,
    /// What it adds, if the project is open.
    pub(crate) additions: Additions,
}

impl World {
    pub(crate) fn new(seed: u64, bugs: Bugs) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let profile = Profile::random(&mut rng);
        let hosts_max = if profile.quick { 4 } else { 3 };
        let hosts = (0..rng.random_range(1..=hosts_max)).map(AgentHost::new).collect::<Vec<_>>();
        let clients: Vec<_> = (0..rng.random_range(1..=3))
            .map(|_| {
                let plan = crate::witness::ProjectPlan::random(&mut rng, profile.quick);
                let additions = Additions::random(&mut rng, &plan);
                Client { plan, project: None, answered: false, additions }
            })
            .collect();
        let mut world = Self {
            rng,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            events: 0,
            bugs,
            writer: Writer::in_memory().unwrap_or_else(|error| panic!("no store: {error}")),
            coordinator: None,
            hosts,
            wires: BTreeMap::new(),
            witness: Witness::default(),
            clients,
            awaited: BTreeMap::new(),
            tries: 0,
            commit_fails: None,
            profile,
            story: Vec::new(),
        };
        world.at(0, Event::CoordinatorStarts);
        world.at(0, Event::CoordinatorTick);
        for host in 0..world.hosts.len() {
            world.at(0, Event::AgentStarts { host });
            world.at(0, Event::AgentTick { host });
        }
        for client in 0..world.clients.len() {
            let at = world.rng.random_range(0..5_000);
            world.at(at, Event::Submit { client });
            world.schedule_additions(client);
            if world.rng.random_bool(0.1) {
                let at = world.rng.random_range(5_000..15_000);
                world.at(at, Event::CancelProject { client });
            }
        }
        world.at(500, Event::Trouble);
        world
    }

    /// Lets something happen so many milliseconds from now.
    pub(crate) fn at(&mut self, millis: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + Duration::from_millis(millis), self.events), event);
    }

    /// Lets something happen at a time.
    pub(crate) fn at_time(&mut self, at: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.story.len() >= 2 * STORY_LINES_MAX {
            self.story.drain(..STORY_LINES_MAX);
        }
        self.story.push(format!("{:>9.3} {}", self.now.as_secs_f64(), line()));
    }

    /// The last lines of what happened.
    pub(crate) fn story(&self) -> String {
        let mut text = String::new();
        for line in self.story.iter().rev().take(STORY_LINES_MAX).rev() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    pub(crate) fn in_trouble(&self) -> bool {
        self.now < TROUBLE
    }

    /// Runs until all has healed and everything has ended.
    pub(crate) fn run(&mut self) {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.handle(event);
            self.check();
            if !self.in_trouble() && self.is_quiet() {
                self.final_check();
                return;
            }
            assert!(self.now < TROUBLE + PATIENCE, "something never ends: {}", self.what_is_open());
        }
        panic!("nothing happens any more: {}", self.what_is_open());
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Turn => self.coordinator_turn(),
            Event::CoordinatorTick => {
                self.coordinator_input(Input::Tick);
                self.at(50, Event::CoordinatorTick);
            }
            Event::CoordinatorStarts => self.coordinator_starts(),
            Event::Delivered(dispatch) => self.coordinator_input(Input::Delivered(vec![dispatch])),
            Event::BrokerLost(dispatch) => self.coordinator_input(Input::Lost(vec![dispatch])),
            Event::JobDone { epoch, done } => {
                if self.coordinator.as_ref().is_some_and(|coordinator| coordinator.epoch.0 == epoch) {
                    self.coordinator_input(done);
                }
            }
            Event::Submit { client } => self.submit(client),
            Event::CancelProject { client } => self.cancel_project(client),
            Event::Add { client, nth } => self.add(client, nth),
            Event::AgentStarts { host } => self.agent_starts(host),
            Event::AgentTick { host } => {
                self.agent_input(host, piecework_agent::supervisor::Input::Tick);
                self.at(20, Event::AgentTick { host });
            }
            Event::AgentDials { host } => self.agent_dials(host),
            Event::Connected { host, wire } => self.connected(host, wire),
            Event::ToCoordinator { wire, seq, message } => self.reaches_coordinator(wire, seq, message),
            Event::ToAgent { wire, seq, message } => self.reaches_agent(wire, seq, message),
            Event::CoordinatorNotices { wire } => self.coordinator_notices(wire),
            Event::AgentNotices { wire } => self.agent_notices(wire),
            Event::WorkerEnds { host, worker } => self.worker_ends(host, worker),
            Event::LaneIsLookedAt { host, worker } => self.lane_is_looked_at(host, worker),
            Event::EndingsArrive { host } => self.endings_arrive(host),
            Event::TakenBack { host, instance } => self.taken_back(host, instance),
            Event::Uploaded { host, instance, attempt } => {
                if self.hosts[host].instance == instance {
                    self.agent_input(host, piecework_agent::supervisor::Input::Uploaded(attempt));
                }
            }
            Event::Trouble => self.trouble(),
            Event::LinkHeals { host } => self.hosts[host].cut_off = false,
        }
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        if !self.in_trouble() {
            return;
        }
        let next = self.rng.random_range(50..self.profile.trouble_within_millis);
        self.at(next, Event::Trouble);
        let host = self.rng.random_range(0..self.hosts.len());
        match self.rng.random_range(0..100) {
            0..20 => self.cut_wire(host),
            20..25 => self.agent_stops(host),
            25..40 => self.agent_crashes(host, false, false),
            40..47 => self.agent_crashes(host, true, false),
            47..49 => {
                // The first host alone can run everything.
                if host > 0 {
                    self.agent_crashes(host, true, true);
                }
            }
            49..65 => self.coordinator_crashes(),
            65..82 => {
                let fault = if self.rng.random_bool(0.5) {
                    CommitFault::NotMade
                } else {
                    CommitFault::MadeAllTheSame
                };
                self.commit_fails = Some(fault);
            }
            _ => self.cut_off(host),
        }
    }

    fn check(&self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.core.check();
            let starved = coordinator.core.starved_for();
            assert!(starved < STARVED_MAX, "something was passed over for {starved:?}");
        }
        for host in &self.hosts {
            if let Some(core) = &host.core {
                core.check();
            }
        }
    }

    /// Nothing is open any more.
    fn is_quiet(&self) -> bool {
        self.coordinator
            .as_ref()
            .is_some_and(|coordinator| coordinator.core.is_idle() && coordinator.inbox.is_empty())
            && self.clients.iter().all(|client| client.answered && client.additions.are_settled())
            && self.hosts.iter().all(AgentHost::is_empty)
    }

    fn what_is_open(&self) -> String {
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|host| format!("{}: outbox {:?}, workers {:?}", host.name, host.outbox.keys(), host.workers))
            .collect();
        let answered: Vec<_> = self.clients.iter().map(|client| (client.project, client.answered)).collect();
        format!(
            "clients {answered:?}; hosts {hosts:?}; coordinator {:?}",
            self.coordinator.as_ref().map(|c| &c.core)
        )
    }

    fn final_check(&self) {
        for client in &self.clients {
            let Some(project) = client.project else { panic!("a client without a project is quiet") };
            self.witness.final_check(&self.writer, project, client);
        }
    }
}
