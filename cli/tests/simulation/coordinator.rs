//! The coordinator's host: the real core, the real turns, the real store with faults.

use crate::{
    network::End,
    translate,
    witness::ProjectPlan,
    world::{CommitFault, Event, LEASE, RESERVE_AFTER, ShellBug, World},
};
use piecework_server::{
    broker::{Arrived, Broker, Embedded, Specs},
    coordinator::{Coordinator, Dispatch, Effects, Input, Job, Limits, NewProject, Reply, ReplyId, ToAgent},
    domain::{CoordinatorEpoch, Item},
    driver::turn,
    store::{Begun, StoreError},
};
use rand::RngExt;
use std::collections::BTreeSet;

/// A coordinator process.
#[derive(Debug)]
pub(crate) struct CoordinatorHost {
    pub(crate) core: Coordinator,
    broker: Todo,
    pub(crate) epoch: CoordinatorEpoch,
    pub(crate) inbox: Vec<Input>,
    /// Streams that have said Hello.
    pub(crate) sessions: BTreeSet<u64>,
    /// Those whose Hello was refused.
    refused: BTreeSet<u64>,
    turn_comes: bool,
}

/// The broker in use.
#[derive(Debug)]
enum Todo {
    Embedded(Embedded),
    /// Published tasks become events of the world.
    Distant,
}

impl Broker for Todo {
    fn is_view(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    fn publish(&mut self, dispatches: Vec<Dispatch>, specs: &Specs) {
        match self {
            Self::Embedded(broker) => broker.publish(dispatches, specs),
            Self::Distant => assert!(dispatches.is_empty(), "published before the commit"),
        }
    }

    fn prefetch(&mut self, deliveries_max: u32) {
        if let Self::Embedded(broker) = self {
            broker.prefetch(deliveries_max);
        }
    }

    fn ack(&mut self, dispatches: &[Dispatch]) {
        if let Self::Embedded(broker) = self {
            broker.ack(dispatches);
        }
    }

    fn take(&mut self) -> Arrived {
        match self {
            Self::Embedded(broker) => broker.take(),
            Self::Distant => Arrived::default(),
        }
    }
}

impl World {
    fn limits(&self) -> Limits {
        let mut limits =
            Limits { lease: LEASE, crashes_max: u32::MAX, reserve_after: RESERVE_AFTER, ..Limits::default() };
        if self.profile.distant_broker {
            limits.lookahead = self.profile.lookahead;
        }
        limits.planted = self.bugs.coordinator;
        limits
    }

    pub(crate) fn coordinator_starts(&mut self) {
        let epoch = self.writer.open_epoch().unwrap_or_else(|error| panic!("open_epoch: {error}"));
        self.tell(|| format!("coordinator starts, epoch {}", epoch.0));
        self.fold(epoch);
    }

    fn fold(&mut self, epoch: CoordinatorEpoch) {
        let snapshot = self.writer.load().unwrap_or_else(|error| panic!("load: {error}"));
        let (core, fx) = Coordinator::fold(epoch, snapshot, self.limits(), self.now);
        self.witness.coordinator_folds(self.now);
        self.coordinator = Some(CoordinatorHost {
            core,
            broker: if self.profile.distant_broker {
                Todo::Distant
            } else {
                Todo::Embedded(Embedded::default())
            },
            epoch,
            inbox: Vec::new(),
            sessions: BTreeSet::new(),
            refused: BTreeSet::new(),
            turn_comes: false,
        });
        self.perform(epoch, fx);
    }

    pub(crate) fn coordinator_crashes(&mut self) {
        let Some(dead) = self.coordinator.take() else { return };
        self.tell(|| "TROUBLE coordinator crashes".to_owned());
        self.close_wires_of(dead.epoch);
        let down = self.rng.random_range(10..4_000);
        self.at(down, Event::CoordinatorStarts);
        if self.rng.random_bool(0.3) {
            self.fenced_zombie(dead);
        }
    }

    /// It was not dead, only slow: its successor has begun, and it still tries to commit.
    fn fenced_zombie(&mut self, mut zombie: CoordinatorHost) {
        let _ = self.writer.open_epoch().unwrap_or_else(|error| panic!("open_epoch: {error}"));
        let inputs = std::mem::take(&mut zombie.inbox);
        let fx = turn(&mut zombie.core, &mut zombie.broker, &Specs::default(), inputs, self.now);
        if !fx.writes.is_empty() {
            let committed = self.writer.commit(zombie.epoch, &fx.writes);
            assert!(matches!(committed, Err(StoreError::Fenced { .. })), "a zombie's commit: {committed:?}");
        }
    }

    fn close_wires_of(&mut self, epoch: CoordinatorEpoch) {
        let open: Vec<_> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.epoch == epoch.0 && !wire.coordinator_knows)
            .map(|(&id, _)| id)
            .collect();
        for wire in open {
            self.close_wire(wire, End::Coordinator);
        }
    }

    /// Puts an input where the next turn finds it.
    pub(crate) fn coordinator_input(&mut self, input: Input) {
        let Some(coordinator) = &mut self.coordinator else { return };
        coordinator.inbox.push(input);
        if !std::mem::replace(&mut coordinator.turn_comes, true) {
            let wait = self.rng.random_range(0..5);
            self.at(wait, Event::Turn);
        }
    }

    pub(crate) fn coordinator_turn(&mut self) {
        let now = self.now;
        let Some(coordinator) = &mut self.coordinator else { return };
        coordinator.turn_comes = false;
        let mut inputs = std::mem::take(&mut coordinator.inbox);
        // As the driver does: whoever was heard in time is heard before leases end.
        inputs.sort_by_key(|input| matches!(input, Input::Tick));
        let mut said = Vec::new();
        for input in &inputs {
            if let Input::Hello { session, .. } | Input::FromAgent { session, .. } = input
                && let Some(wire) = self.wires.get(&session.0)
            {
                said.push((session.0, wire.host, matches!(input, Input::Hello { .. })));
            }
        }
        let mut fx = turn(&mut coordinator.core, &mut coordinator.broker, &Specs::default(), inputs, now);
        let epoch = coordinator.epoch;
        let writes = std::mem::take(&mut fx.writes);
        for (session, host, is_hello) in said {
            if is_hello && fx.closes.iter().any(|(closed, _)| closed.0 == session) {
                coordinator.refused.insert(session);
            }
            // A process whose Hello is refused says nothing for the agent that is there.
            if !coordinator.refused.contains(&session) {
                self.witness.heard(host, now);
            }
        }
        if writes.is_empty() {
            self.perform(epoch, fx);
            return;
        }
        for write in &writes {
            self.tell(|| format!("write {write:?}"));
        }
        if self.bugs.shell == Some(ShellBug::EffectsBeforeCommit) {
            self.perform_sends(&mut fx);
        }
        let fault = self.commit_fails.take();
        if fault != Some(CommitFault::NotMade) {
            self.witness.writes(&writes, now, &self.hosts);
            if let Err(error) = self.writer.commit(epoch, &writes) {
                panic!("a commit failed by itself: {error}");
            }
        }
        if let Some(fault) = fault
            && self.bugs.shell != Some(ShellBug::NotFoldedBack)
        {
            self.tell(|| format!("TROUBLE commit fails: {fault:?}"));
            self.close_wires_of(epoch);
            self.fold(epoch);
            // Whoever waits for an answer gets none, and asks again.
            for client in 0..self.clients.len() {
                if self.clients[client].project.is_some() && !self.clients[client].answered {
                    self.at(100, Event::Submit { client });
                }
            }
            return;
        }
        self.perform(epoch, fx);
    }

    fn perform_sends(&mut self, fx: &mut Effects) {
        for (session, message) in std::mem::take(&mut fx.sends) {
            if let ToAgent::Recall(attempts) = &message {
                self.witness.recalled(attempts);
            }
            self.send_down(session.0, &translate::to_agent(message));
        }
    }

    fn perform(&mut self, epoch: CoordinatorEpoch, mut fx: Effects) {
        self.perform_sends(&mut fx);
        for dispatch in fx.publish {
            // A purged queue; or one that only looks so, and the broker delivers after all.
            let copies = match self.rng.random_range(0..100) {
                0..3 if self.in_trouble() => 0,
                3..8 if self.in_trouble() => 2,
                _ => 1,
            };
            if copies == 0 || self.in_trouble() && self.rng.random_bool(0.02) {
                let after = self.rng.random_range(1..2_000);
                self.at(after, Event::BrokerLost(dispatch));
            }
            for _ in 0..copies {
                let after = self.rng.random_range(1..100);
                self.at(after, Event::Delivered(dispatch));
            }
        }
        for (session, why) in fx.closes {
            self.tell(|| format!("coordinator closes {}: {why}", session.0));
            self.close_wire(session.0, End::Coordinator);
        }
        for (ReplyId(client), reply) in fx.replies {
            if self.addition_is_answered(client, &reply) {
                continue;
            }
            if let (Reply::Done, Some(client)) =
                (reply, usize::try_from(client).ok().and_then(|client| self.clients.get_mut(client)))
            {
                client.answered = true;
            }
        }
        for warning in fx.warnings {
            self.witness.counts.quarantines += usize::from(warning.contains("gets no attempts for"));
            self.tell(|| warning);
        }
        for job in fx.jobs {
            let after = self.rng.random_range(1..200);
            let done = match job {
                Job::Split(project) => {
                    let Some(client) = self.clients.iter().find(|client| client.project == Some(project))
                    else {
                        panic!("a split of nobody's project")
                    };
                    let items = items(&client.plan);
                    let count = client.plan.tasks;
                    if let Err(error) = self.writer.put_items(project, 0, &items) {
                        panic!("put_items: {error}");
                    }
                    Input::SplitDone { project, items: Ok(count) }
                }
                Job::Reassemble(project) => Input::ReassembleDone { project, result: Ok(()) },
            };
            self.at(after, Event::JobDone { epoch: epoch.0, done });
        }
    }

    /// A client hands in its project under its own key, until it is answered.
    pub(crate) fn submit(&mut self, client: usize) {
        if self.clients[client].answered {
            return;
        }
        self.at(3_000, Event::Submit { client });
        let Some(coordinator) = &self.coordinator else { return };
        let project = self.clients[client].project;
        let is_its =
            |input: &Input| matches!(input, Input::Submit { project: new, .. } if Some(new.id) == project);
        if coordinator.inbox.iter().any(is_its) {
            // Its last try is complete, and no longer to be abandoned.
            return;
        }
        let key = format!("client {client}");
        if let Some(project) = self.clients[client].project {
            // What the service does when a submission breaks off.
            if let Err(error) = self.writer.abandon_submission(project) {
                panic!("abandon_submission: {error}");
            }
        }
        let begun =
            self.writer.begin_submission(&key).unwrap_or_else(|error| panic!("begin_submission: {error}"));
        match begun {
            Begun::Existing(project) => {
                assert_eq!(
                    self.clients[client].project,
                    Some(project.id),
                    "an existing project of another key"
                );
                self.clients[client].answered = true;
            }
            Begun::UnderWay => panic!("an abandoned submission is under way"),
            Begun::New(id) => {
                self.clients[client].project = Some(id);
                let plan = &self.clients[client].plan;
                let tasks = match (plan.split, plan.open) {
                    (true, _) => None,
                    (false, Some(_)) => Some(0),
                    (false, None) => Some(plan.tasks),
                };
                if tasks.is_some_and(|tasks| tasks > 0)
                    && let Err(error) = self.writer.put_items(id, 0, &items(plan))
                {
                    panic!("put_items: {error}");
                }
                self.witness.submitted(id, plan.clone());
                let project = NewProject { id, spec: plan.spec(), tasks };
                let reply = ReplyId(client as u64);
                self.coordinator_input(Input::Submit { project, reply });
            }
        }
    }

    pub(crate) fn cancel_project(&mut self, client: usize) {
        if let (Some(project), true) = (self.clients[client].project, self.coordinator.is_some()) {
            self.tell(|| format!("cancel {project}"));
            // Nobody waits for this answer: the number is no client's, nor an addition's.
            self.coordinator_input(Input::Cancel { project, reply: ReplyId(u64::from(u32::MAX)) });
        }
    }
}

fn items(plan: &ProjectPlan) -> Vec<Item> {
    (0..plan.tasks).map(|index| Item { text: format!("item {index}"), ..Item::default() }).collect()
}
