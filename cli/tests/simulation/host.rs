//! An agent's host: the real core of the agent, an outbox that survives its process, workers that do too, until the host
//! goes down.

use crate::{
    lanes::Worker,
    network::End,
    translate,
    world::{Event, World},
};
use piecework_agent::{
    domain::{AttemptKey, Report},
    supervisor::{ConnectionId, Core, CoreConfig, Effects, Input, Planted, Stop, ToCoordinator},
};
use rand::RngExt;
use std::{collections::BTreeMap, time::Duration};

/// The label that projects may ask for.
pub(crate) const GPU: &str = "gpu";

/// One host with its agent.
#[derive(Debug)]
pub(crate) struct AgentHost {
    pub(crate) name: String,
    pub(crate) slots: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cpus_milli: u32,
    pub(crate) memory_bytes: u64,
    /// Raised with each start of the agent's process.
    pub(crate) instance: u64,
    pub(crate) core: Option<Core>,
    pub(crate) wire: Option<u64>,
    pub(crate) cut_off: bool,
    /// It never comes back.
    pub(crate) gone: bool,
    pub(crate) outbox: BTreeMap<AttemptKey, Report>,
    pub(crate) workers: BTreeMap<AttemptKey, Worker>,
    /// Endings on their way to the agent's core.
    pub(crate) endings: Vec<Report>,
    /// How many attempts were started, ever.
    pub(crate) started: u64,
    /// The most attempts that were asked for, ever.
    pub(crate) asked_max: u32,
}

impl AgentHost {
    /// The first one can run everything; each other one lacks something.
    pub(crate) fn new(number: usize) -> Self {
        let label = if number.is_multiple_of(2) { "true" } else { "false" };
        Self {
            name: format!("host-{number}"),
            slots: 2,
            labels: BTreeMap::from([(GPU.to_owned(), label.to_owned())]),
            cpus_milli: if number.is_multiple_of(3) { 2000 } else { 1000 },
            memory_bytes: if number.is_multiple_of(2) { 2 << 30 } else { 1 << 30 },
            instance: 0,
            core: None,
            wire: None,
            cut_off: false,
            gone: false,
            outbox: BTreeMap::new(),
            workers: BTreeMap::new(),
            endings: Vec::new(),
            started: 0,
            asked_max: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone || (self.core.is_some() && self.outbox.is_empty() && self.workers.is_empty())
    }
}

impl World {
    pub(crate) fn agent_starts(&mut self, host: usize) {
        let planted = self.bugs.agent.map_or_else(Planted::default, Planted::one);
        if self.hosts[host].core.is_some() {
            return;
        }
        if self.rng.random_bool(0.5) {
            // What the new process finds waiting in its inits it may let be forgotten.
            self.take_waiting(host, |_| true);
        }
        let near = &mut self.hosts[host];
        near.instance += 1;
        near.wire = None;
        let config = CoreConfig { planted, ..CoreConfig::new(near.slots) };
        let adopted: Vec<_> =
            near.workers.keys().copied().filter(|key| !near.outbox.contains_key(key)).collect();
        // Workers whose ending is in the outbox already are only released.
        near.workers.retain(|key, _| !near.outbox.contains_key(key));
        near.core = Some(Core::new(config, adopted, near.outbox.values().cloned().collect()));
        let ended: Vec<_> = near.workers.values().filter_map(|worker| worker.ended().cloned()).collect();
        let instance = near.instance;
        let spooled: Vec<_> = near
            .outbox
            .values()
            .filter(|report| report.stdout.is_spooled())
            .map(|report| report.attempt)
            .collect();
        self.tell(|| format!("agent of host {host} starts, instance {instance}"));
        for attempt in spooled {
            self.upload(host, attempt);
        }
        self.begin_all(host);
        self.agent_input(host, Input::Ended(ended));
        self.at(5, Event::AgentDials { host });
    }

    /// The process dies, and with the host its workers too. A host may be gone for good.
    pub(crate) fn agent_crashes(&mut self, host: usize, whole_host: bool, for_good: bool) {
        let near = &mut self.hosts[host];
        if near.core.take().is_none() {
            return;
        }
        let wire = near.wire.take();
        near.endings.clear();
        if whole_host {
            for attempt in std::mem::take(&mut near.workers).into_keys() {
                self.witness.worker_lost(translate::up(attempt));
            }
        }
        self.tell(|| {
            format!("TROUBLE agent of host {host} crashes, host too: {whole_host}, for good: {for_good}")
        });
        if let Some(wire) = wire {
            self.close_wire(wire, End::Agent);
        }
        self.hosts[host].gone = for_good;
        if !for_good {
            let down = self.rng.random_range(10..5_000);
            self.at(down, Event::AgentStarts { host });
        }
    }

    /// The agent is told to stop, in one of its ways.
    pub(crate) fn agent_stops(&mut self, host: usize) {
        let stop = if self.rng.random_bool(0.5) {
            Stop::Leave
        } else {
            Stop::Drain(Duration::from_millis(self.rng.random_range(0..3_000)))
        };
        self.tell(|| format!("TROUBLE agent of host {host} is stopped: {stop:?}"));
        self.agent_input(host, Input::Stop(stop));
    }

    /// The shell has asked the lanes for what has not begun.
    pub(crate) fn taken_back(&mut self, host: usize, instance: u64) {
        if self.hosts[host].instance == instance {
            let back = self.take_waiting(host, |_| true);
            self.give_back(host, back);
            self.agent_input(host, Input::TakenBack);
        }
    }

    /// The core has stopped: the process ends.
    fn agent_ends(&mut self, host: usize) {
        let near = &mut self.hosts[host];
        near.core = None;
        near.endings.clear();
        let wire = near.wire.take();
        for (attempt, worker) in &near.workers {
            assert!(!worker.waits(), "{attempt} has not begun, and nobody was told");
        }
        self.tell(|| format!("agent of host {host} has stopped"));
        if let Some(wire) = wire {
            self.close_wire(wire, End::Agent);
        }
        let down = self.rng.random_range(10..1_000);
        self.at(down, Event::AgentStarts { host });
    }

    /// Gives the agent's core an input, and performs what it wants; or the process dies on the way.
    pub(crate) fn agent_input(&mut self, host: usize, input: Input) {
        let Some(core) = &mut self.hosts[host].core else { return };
        let mut fx = Effects::default();
        core.handle(input, self.now, &mut fx);
        let changes = !fx.persist.is_empty() || !fx.forget.is_empty();
        if changes && self.in_trouble() && self.rng.random_bool(0.01) {
            // Before the outbox's transaction: nothing of it happened.
            self.agent_crashes(host, false, false);
            return;
        }
        let near = &mut self.hosts[host];
        for report in fx.persist {
            near.outbox.insert(report.attempt, report);
        }
        for attempt in fx.forget {
            near.outbox.remove(&attempt);
        }
        if changes && self.in_trouble() && self.rng.random_bool(0.01) {
            // After it, and before anything else.
            self.agent_crashes(host, false, false);
            return;
        }
        let near = &mut self.hosts[host];
        for attempt in fx.release {
            near.workers.remove(&attempt);
        }
        if fx.take_back {
            let (instance, after) = (self.hosts[host].instance, self.rng.random_range(0..20));
            self.at(after, Event::TakenBack { host, instance });
        }
        for attempt in fx.kill {
            self.kill(host, attempt);
        }
        for assignment in fx.start {
            self.start(host, assignment);
        }
        for attempt in fx.upload {
            self.upload(host, attempt);
        }
        for (ConnectionId(wire), seq, message) in fx.sends {
            if let ToCoordinator::Credits { attempts_max, .. } = message {
                let near = &mut self.hosts[host];
                near.asked_max = near.asked_max.max(attempts_max);
            }
            self.send_up(wire, seq, &message);
        }
        for (ConnectionId(wire), why) in fx.closes {
            self.tell(|| format!("host {host} closes {wire}: {why}"));
            self.close_wire(wire, End::Agent);
        }
        if fx.stopped {
            self.agent_ends(host);
        }
    }

    fn upload(&mut self, host: usize, attempt: AttemptKey) {
        let (instance, after) = (self.hosts[host].instance, self.rng.random_range(1..500));
        self.at(after, Event::Uploaded { host, instance, attempt });
    }
}
