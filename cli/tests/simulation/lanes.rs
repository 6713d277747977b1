//! The workers of a host, as many lanes as slots: each runs what was started on it one after another. What has not begun
//! may be given back to the agent's core: because it is stuck behind a long run, or because the worker died before.

use crate::{
    translate,
    world::{Event, World},
};
use bytes::Bytes;
use piecework_agent::{
    domain::{Assignment, AttemptKey, Outcome, Output, Report, Usage},
    supervisor::Input,
};
use rand::RngExt;

/// What is in an init.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its number on the host.
    id: u64,
    lane: u32,
    assignment: Assignment,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Not begun.
    Waits,
    Runs,
    Ended(Report),
}

impl Worker {
    /// How the attempt ended, once it has.
    pub(crate) fn ended(&self) -> Option<&Report> {
        match &self.stage {
            Stage::Ended(report) => Some(report),
            Stage::Waits | Stage::Runs => None,
        }
    }

    pub(crate) fn waits(&self) -> bool {
        matches!(self.stage, Stage::Waits)
    }
}

impl World {
    pub(crate) fn start(&mut self, host: usize, assignment: Assignment) {
        let attempt = assignment.attempt;
        self.tell(|| format!("host {host} starts {attempt}"));
        let slots = self.hosts[host].slots;
        let in_lane = |lane| {
            let there = |worker: &&Worker| worker.lane == lane && worker.ended().is_none();
            self.hosts[host].workers.values().filter(there).count()
        };
        let emptiest = (0..slots).min_by_key(|lane| in_lane(*lane)).unwrap_or(0);
        // Not always the best choice: some are stuck.
        let lane = if in_lane(emptiest) > 0 && self.rng.random_bool(0.3) {
            self.rng.random_range(0..slots)
        } else {
            emptiest
        };
        let near = &mut self.hosts[host];
        near.started += 1;
        let worker = Worker { id: near.started, lane, assignment, stage: Stage::Waits };
        let before = near.workers.insert(attempt, worker);
        assert!(before.is_none(), "{attempt} was started, and is there already");
        self.begin_next(host, lane);
    }

    /// Lets each lane go on, after a new agent process has taken them over.
    pub(crate) fn begin_all(&mut self, host: usize) {
        for lane in 0..self.hosts[host].slots {
            self.begin_next(host, lane);
        }
    }

    /// The next run of a lane begins, if none runs. An init whose agent is gone begins nothing.
    fn begin_next(&mut self, host: usize, lane: u32) {
        let near = &mut self.hosts[host];
        if near.core.is_none() {
            return;
        }
        let mut in_lane: Vec<_> = near.workers.iter_mut().filter(|(_, worker)| worker.lane == lane).collect();
        if in_lane.iter().any(|(_, worker)| matches!(worker.stage, Stage::Runs)) {
            return;
        }
        in_lane.sort_by_key(|(_, worker)| worker.id);
        let Some((&attempt, worker)) = in_lane.into_iter().find(|(_, worker)| worker.waits()) else { return };
        worker.stage = Stage::Runs;
        let id = worker.id;
        self.witness.began(translate::up(attempt));
        self.tell(|| format!("host {host} begins {attempt} in lane {lane}"));
        // Quick tasks fill the backlogs; then come some slow ones, on which the others wait.
        let slow_per_cent = match (self.profile.quick, attempt.index % 40) {
            (true, 0..24) => 1,
            (true, _) => 50,
            (false, _) => 10,
        };
        let millis = match (self.profile.quick, self.rng.random_range(0..100) < slow_per_cent) {
            (true, false) => 3..15,
            (true, true) => 100..1_500,
            (false, false) => 1..1_500,
            (false, true) => 3_000..8_000,
        };
        let millis = self.rng.random_range(millis);
        self.at(millis, Event::WorkerEnds { host, worker: id });
        let patience = self.rng.random_range(10..80);
        self.at(patience, Event::LaneIsLookedAt { host, worker: id });
    }

    fn worker(&self, host: usize, id: u64) -> Option<(AttemptKey, &Worker)> {
        let found = self.hosts[host].workers.iter().find(|(_, worker)| worker.id == id);
        found.map(|(attempt, worker)| (*attempt, worker))
    }

    /// What waits behind a run for too long is given back.
    pub(crate) fn lane_is_looked_at(&mut self, host: usize, id: u64) {
        let Some((_, worker)) = self.worker(host, id) else { return };
        if matches!(worker.stage, Stage::Runs) && self.hosts[host].core.is_some() {
            let lane = worker.lane;
            let stuck = self.take_waiting(host, |worker| worker.lane == lane);
            self.give_back(host, stuck);
        }
    }

    /// Takes what has not begun off its lane, in order.
    pub(crate) fn take_waiting(&mut self, host: usize, which: impl Fn(&Worker) -> bool) -> Vec<Assignment> {
        let workers = &mut self.hosts[host].workers;
        let mut taken: Vec<_> = workers
            .extract_if(.., |_, worker| worker.waits() && which(worker))
            .map(|(_, worker)| worker)
            .collect();
        taken.sort_by_key(|worker| worker.id);
        taken.into_iter().map(|worker| worker.assignment).collect()
    }

    pub(crate) fn give_back(&mut self, host: usize, assignments: Vec<Assignment>) {
        if !assignments.is_empty() {
            self.tell(|| {
                let attempts: Vec<_> = assignments.iter().map(|back| back.attempt.to_string()).collect();
                format!("host {host} gives back {attempts:?}")
            });
            self.witness.given_back(assignments.len());
            self.agent_input(host, Input::NotBegun(assignments));
        }
    }

    pub(crate) fn kill(&mut self, host: usize, attempt: AttemptKey) {
        let after = self.rng.random_range(1..100);
        if let Some(worker) = self.hosts[host].workers.get(&attempt)
            && worker.ended().is_none()
        {
            let id = worker.id;
            self.witness.killed(translate::up(attempt));
            self.at(after, Event::WorkerEnds { host, worker: id });
        }
    }

    /// A command ends by itself, or was killed, perhaps before it began; or its worker dies.
    pub(crate) fn worker_ends(&mut self, host: usize, id: u64) {
        let Some((attempt, worker)) = self.worker(host, id) else { return };
        if worker.ended().is_some() {
            return;
        }
        let (lane, waits) = (worker.lane, worker.waits());
        if waits && self.rng.random_bool(0.5) {
            let killed = self.take_waiting(host, |worker| worker.id == id);
            return self.give_back(host, killed);
        }
        let deaths = if self.profile.sick == Some(host) { 0.97 } else { 0.02 };
        let dies = self.in_trouble() && self.rng.random_bool(deaths);
        let outcome = if dies {
            self.witness.worker_lost(translate::up(attempt));
            Outcome::WorkerLost("the worker died".to_owned())
        } else {
            match self.witness.ending(translate::up(attempt)) {
                piecework_server::domain::Outcome::Exited(code) => Outcome::Exited(code),
                _ => Outcome::Cancelled,
            }
        };
        let stdout = if self.rng.random_bool(0.2) {
            Output::Spooled { length: 100_000, sha256: [7; 32] }
        } else {
            Output::Inline(Bytes::from(attempt.to_string()))
        };
        let stderr = Output::Inline(Bytes::new());
        let report = Report { attempt, outcome, usage: Usage::default(), stdout, stderr };
        if let Some(worker) = self.hosts[host].workers.get_mut(&attempt) {
            worker.stage = Stage::Ended(report.clone());
        }
        self.hosts[host].endings.push(report);
        let unbegun = if dies { self.take_waiting(host, |worker| worker.lane == lane) } else { Vec::new() };
        if self.rng.random_bool(0.5) {
            self.endings_arrive(host);
            self.give_back(host, unbegun);
        } else {
            // Together with what ends until then.
            let after = self.rng.random_range(0..5);
            self.at(after, Event::EndingsArrive { host });
            self.give_back(host, unbegun);
        }
        self.begin_next(host, lane);
    }

    /// The agent takes all endings that wait.
    pub(crate) fn endings_arrive(&mut self, host: usize) {
        let endings = std::mem::take(&mut self.hosts[host].endings);
        if !endings.is_empty() {
            self.agent_input(host, Input::Ended(endings));
        }
    }
}
