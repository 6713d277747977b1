//! Clients that add tasks to their open projects: some early and some late, some twice, each until there is an answer. What
//! `piecework_server::intake` does with the store and the driver is done here step by step, so that anything can come between.

use crate::{
    witness::ProjectPlan,
    world::{Event, ShellBug, World},
};
use piecework_server::{
    coordinator::{Input, Reply, ReplyId},
    domain::{AddedTask, ClientKey, Item, NewTask},
    store::Staging,
};
use rand::{RngExt, rngs::StdRng};
use std::collections::BTreeMap;

/// Replies to additions have numbers from here on; smaller ones are clients' submissions.
const REPLIES_FROM: u64 = 1 << 32;

/// One call that adds tasks.
#[derive(Debug)]
pub(crate) struct Addition {
    /// Which of the client's tasks.
    keys: Vec<u32>,
    end: bool,
    /// The end comes last of all.
    waits: bool,
    /// Whether it was taken, once that is known.
    pub(crate) taken: Option<bool>,
}

/// A try that waits for its answer.
#[derive(Debug)]
pub(crate) struct Try {
    client: usize,
    nth: usize,
    tasks: Vec<AddedTask>,
}

/// What clients want to add, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    pub(crate) of_client: Vec<Addition>,
    /// The index of each task that was taken, by its key.
    pub(crate) indices: BTreeMap<u32, u32>,
}

impl Additions {
    /// All tasks in a few calls; some of them again.
    pub(crate) fn random(rng: &mut StdRng, plan: &ProjectPlan) -> Self {
        let Some(open) = plan.open else { return Self::default() };
        let mut of_client = Vec::new();
        let mut next = 0;
        while next < plan.tasks {
            let end = (next + rng.random_range(1..=plan.tasks.div_ceil(2))).min(plan.tasks);
            let mut keys: Vec<u32> = (next..end).collect();
            if rng.random_bool(0.4) {
                keys.push(rng.random_range(0..end));
            }
            of_client.push(Addition { keys, end: false, waits: false, taken: None });
            next = end;
        }
        if open.is_told {
            let waits = rng.random_bool(0.7);
            of_client.push(Addition { keys: Vec::new(), end: true, waits, taken: None });
        }
        Self { of_client, ..Self::default() }
    }

    pub(crate) fn are_settled(&self) -> bool {
        self.of_client.iter().all(|addition| addition.taken.is_some())
    }

    fn may_go(&self, nth: usize) -> bool {
        let others_are_settled =
            || self.of_client.iter().enumerate().all(|(n, addition)| n == nth || addition.taken.is_some());
        !self.of_client[nth].waits || others_are_settled()
    }
}

impl World {
    pub(crate) fn schedule_additions(&mut self, client: usize) {
        for nth in 0..self.clients[client].additions.of_client.len() {
            let at = self.rng.random_range(0..15_000);
            self.at(at, Event::Add { client, nth });
        }
    }

    /// A client adds some tasks, or tries again.
    pub(crate) fn add(&mut self, client: usize, nth: usize) {
        let whose = &self.clients[client];
        let addition = &whose.additions.of_client[nth];
        if addition.taken.is_some() && self.rng.random_bool(0.9) {
            return;
        }
        let (Some(project), true, true, true) =
            (whose.project, whose.answered, whose.additions.may_go(nth), self.coordinator.is_some())
        else {
            let later = self.rng.random_range(50..500);
            return self.at(later, Event::Add { client, nth });
        };
        if addition.taken.is_none() {
            self.at(3_000, Event::Add { client, nth });
        }
        self.tries += 1;
        let number = REPLIES_FROM + self.tries;
        let addition = &self.clients[client].additions.of_client[nth];
        let (end, tasks) = (addition.end, self.new_tasks(&addition.keys));
        let staging = self.writer.stage_tasks(project, &tasks);
        let staging = staging.unwrap_or_else(|error| panic!("stage_tasks: {error}"));
        self.tell(|| format!("client {client} adds {nth}: {staging:?}"));
        let is_open = || matches!(self.writer.reads().project(project), Ok(Some(found)) if found.open);
        let (tasks, total) = match staging {
            Staging::Staged { tasks, total } => (tasks, total),
            Staging::Known(tasks) if end && is_open() => (tasks, 0),
            Staging::Known(tasks) => {
                self.witness.counts.known += tasks.len();
                return self.settle(&Try { client, nth, tasks }, true);
            }
            Staging::NotOpen => {
                self.witness.counts.refused += 1;
                return self.settle(&Try { client, nth, tasks: Vec::new() }, false);
            }
            Staging::TooMany => panic!("too many tasks"),
        };
        if end {
            self.witness.end_is_asked_for(project);
        }
        self.awaited.insert(number, Try { client, nth, tasks });
        self.coordinator_input(Input::AddTasks { project, tasks: total, end, reply: ReplyId(number) });
    }

    fn new_tasks(&self, keys: &[u32]) -> Vec<NewTask> {
        let one = |key: &u32| {
            let name = match self.bugs.shell {
                Some(ShellBug::KeysIgnored) => format!("key {key} of try {}", self.tries),
                _ => format!("key {key}"),
            };
            let key = ClientKey::new(name).unwrap_or_else(|error| panic!("{error}"));
            NewTask { item: Item { text: format!("item of {key}"), ..Item::default() }, key }
        };
        keys.iter().map(one).collect()
    }

    /// The coordinator has answered somebody; whether that was a client that adds.
    pub(crate) fn addition_is_answered(&mut self, number: u64, reply: &Reply) -> bool {
        let Some(tried) = self.awaited.remove(&number) else { return number >= REPLIES_FROM };
        match reply {
            Reply::Done => self.settle(&tried, true),
            // Another look: then all are known, or it is refused.
            Reply::NotOpen => self.at(1, Event::Add { client: tried.client, nth: tried.nth }),
            other => panic!("an addition was answered with {other:?}"),
        }
        true
    }

    fn settle(&mut self, tried: &Try, taken: bool) {
        let additions = &mut self.clients[tried.client].additions;
        let addition = &mut additions.of_client[tried.nth];
        let before = addition.taken.replace(taken);
        assert!(before.is_none_or(|before| before == taken), "{addition:?} was {before:?} before");
        for (key, task) in addition.keys.iter().zip(&tried.tasks) {
            let before = additions.indices.insert(*key, task.index);
            assert!(
                before.is_none_or(|before| before == task.index),
                "key {key} is task {before:?} and {task:?}"
            );
        }
    }
}
