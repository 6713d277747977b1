//! What is in TODO as far as we know: a task waits to be sent, is with the broker, or has arrived. No I/O, and no waiting:
//! the driver, the publisher and the consumer each hold it for a moment.

use super::topology::{Labels, todo_name};
use crate::{broker::Arrived, coordinator::Dispatch};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// The name of a queue.
pub(super) type QueueName = Arc<str>;

/// A queue that has held no task for so many looks is not consumed any more.
const IDLE_LOOKS_MAX: u64 = 600;

/// A message to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) queue: QueueName,
    pub(super) generation: Arc<str>,
    pub(super) dispatch: Dispatch,
}

/// A delivery, to be acknowledged where it has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    /// Which of the consumer's connections, counted from 1.
    pub(super) connection: u64,
    /// Its number there.
    pub(super) tag: u64,
}

/// A task in TODO that has not arrived.
#[derive(Debug)]
struct Entry {
    dispatch: Dispatch,
    queue: QueueName,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Is to be sent.
    Waits,
    /// Was sent, and is not confirmed yet.
    Sent,
    /// The broker has confirmed it, before this look.
    Confirmed(u64),
}

/// A queue of tasks that ask for the same labels.
#[derive(Debug, Default)]
struct Queue {
    has_labels: bool,
    /// How many tasks are in it.
    tasks: usize,
    /// The last look at which there were some.
    used: u64,
    /// The last look at which the broker had none.
    empty: Option<u64>,
}

/// Who is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Publisher,
    Consumer,
}

/// TODO.
#[derive(Debug)]
pub(super) struct State {
    prefix: String,
    /// Which core published: what another one has published is stale.
    generation: Arc<str>,
    /// By the dispatch's number.
    entries: HashMap<u64, Entry>,
    waiting: VecDeque<u64>,
    queues: BTreeMap<QueueName, Queue>,
    arrived: Arrived,
    /// What has arrived and is not acknowledged, by the dispatch's number.
    unacked: HashMap<u64, Tag>,
    acks: Vec<Tag>,
    prefetch: u32,
    look: u64,
    trouble: BTreeMap<Side, String>,
}

impl State {
    pub(super) fn new(prefix: &str) -> Self {
        let queues = BTreeMap::from([(todo_name(prefix, &Labels::new()).into(), Queue::default())]);
        Self {
            prefix: prefix.to_owned(),
            generation: "".into(),
            entries: HashMap::new(),
            waiting: VecDeque::new(),
            queues,
            arrived: Arrived::default(),
            unacked: HashMap::new(),
            acks: Vec::new(),
            prefetch: 0,
            look: 0,
            trouble: BTreeMap::new(),
        }
    }

    // For the driver.

    /// A new core publishes from here on. Whatever was published before is stale.
    pub(super) fn open(&mut self, generation: Arc<str>) {
        self.generation = generation;
        self.entries.clear();
        self.waiting.clear();
        self.arrived = Arrived::default();
        self.acks.extend(self.unacked.drain().map(|(_, tag)| tag));
        for queue in self.queues.values_mut() {
            queue.tasks = 0;
        }
    }

    pub(super) fn publish(&mut self, dispatch: Dispatch, labels: &Labels) {
        let name = todo_name(&self.prefix, labels);
        let queue = match self.queues.get_key_value(name.as_str()) {
            Some((name, _)) => name.clone(),
            None => name.into(),
        };
        let state = self.queues.entry(queue.clone()).or_default();
        state.has_labels = !labels.is_empty();
        state.tasks += 1;
        state.used = self.look;
        self.entries.insert(dispatch.number, Entry { dispatch, queue, standing: Standing::Waits });
        self.waiting.push_back(dispatch.number);
    }

    pub(super) fn set_prefetch(&mut self, deliveries_max: u32) {
        self.prefetch = deliveries_max;
    }

    pub(super) fn ack(&mut self, dispatches: &[Dispatch]) {
        let tags = dispatches.iter().filter_map(|dispatch| self.unacked.remove(&dispatch.number));
        self.acks.extend(tags);
    }

    pub(super) fn take(&mut self) -> Arrived {
        std::mem::take(&mut self.arrived)
    }

    pub(super) fn has_arrived(&self) -> bool {
        self.arrived != Arrived::default()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.values().next().cloned()
    }

    /// Says whether that is news.
    pub(super) fn set_trouble(&mut self, side: Side, trouble: Option<String>) -> bool {
        match trouble {
            Some(trouble) => self.trouble.insert(side, trouble.clone()) != Some(trouble),
            None => self.trouble.remove(&side).is_some(),
        }
    }

    // For the publisher.

    /// The next messages to send, in order.
    pub(super) fn take_waiting(&mut self, messages_max: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < messages_max
            && let Some(number) = self.waiting.pop_front()
        {
            // One that was lost while it waited.
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.standing = Standing::Sent;
            messages.push(Message {
                queue: entry.queue.clone(),
                generation: self.generation.clone(),
                dispatch: entry.dispatch,
            });
        }
        messages
    }

    /// The broker has taken it. It may have arrived meanwhile.
    pub(super) fn confirmed(&mut self, message: &Message) {
        let look = self.look;
        if *message.generation == *self.generation
            && let Some(entry) = self.entries.get_mut(&message.dispatch.number)
        {
            entry.standing = Standing::Confirmed(look);
        }
    }

    /// The broker has not taken it.
    pub(super) fn refused(&mut self, message: &Message) {
        if *message.generation == *self.generation {
            self.lose(|entry| entry.dispatch == message.dispatch);
        }
    }

    /// The publisher's connection is gone: whatever is not confirmed may not have come through.
    pub(super) fn publisher_gone(&mut self) {
        self.lose(|entry| entry.standing == Standing::Sent);
    }

    // For the consumer.

    /// The queues to consume, and whether their tasks ask for labels.
    pub(super) fn queues(&self) -> impl Iterator<Item = (QueueName, bool)> {
        self.queues.iter().map(|(name, queue)| (name.clone(), queue.has_labels))
    }

    pub(super) const fn prefetch(&self) -> u32 {
        self.prefetch
    }

    /// A delivery has come in: it is for the driver, or stale.
    pub(super) fn deliver(&mut self, generation: &str, dispatch: Dispatch, tag: Tag) {
        let number = dispatch.number;
        if *generation != *self.generation {
            self.acks.push(tag);
        } else if let Some(entry) = self.entries.remove(&number) {
            self.left(&entry.queue);
            self.unacked.insert(number, tag);
            self.arrived.delivered.push(dispatch);
        } else if let Some(unacked) = self.unacked.get_mut(&number) {
            // Delivered again, as the channel of the first delivery is gone before its claim was durable; or somebody has copied it.
            self.acks.push(std::mem::replace(unacked, tag));
        } else {
            self.acks.push(tag);
        }
    }

    /// What can't be understood is kept elsewhere.
    pub(super) fn put_aside(&mut self, tag: Tag) {
        self.acks.push(tag);
    }

    /// The deliveries to acknowledge on this connection.
    pub(super) fn take_acks(&mut self, connection: u64) -> Vec<u64> {
        self.acks.drain(..).filter(|tag| tag.connection == connection).map(|tag| tag.tag).collect()
    }

    /// A queue was deleted: what was in it is lost.
    pub(super) fn queue_gone(&mut self, name: &str) {
        self.lose(|entry| &*entry.queue == name && entry.standing != Standing::Waits);
    }

    /// Looks for tasks that should have arrived: returns the queues in which some were at the last look already.
    pub(super) fn look(&mut self) -> Vec<QueueName> {
        self.look += 1;
        let look = self.look;
        for queue in self.queues.values_mut().filter(|queue| queue.tasks > 0) {
            queue.used = look;
        }
        self.queues.retain(|_, queue| !queue.has_labels || look - queue.used < IDLE_LOOKS_MAX);
        let mut late: Vec<_> = self
            .entries
            .values()
            .filter(|entry| entry.is_late(look))
            .map(|entry| entry.queue.clone())
            .collect();
        late.sort_unstable();
        late.dedup();
        late
    }

    /// The broker has so many messages in a queue that is consumed. If it has none twice in a row, what should have arrived is lost.
    pub(super) fn counted(&mut self, name: &str, messages: u32) {
        let look = self.look;
        let Some(queue) = self.queues.get_mut(name) else { return };
        if messages > 0 {
            queue.empty = None;
            return;
        }
        if queue.empty.replace(look) == Some(look - 1) {
            self.lose(|entry| &*entry.queue == name && entry.is_late(look));
        }
    }

    fn lose(&mut self, which: impl Fn(&Entry) -> bool) {
        let lost: Vec<_> = self.entries.extract_if(|_, entry| which(entry)).collect();
        for (_, entry) in lost {
            self.left(&entry.queue);
            self.arrived.lost.push(entry.dispatch);
        }
    }

    fn left(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.tasks = queue.tasks.saturating_sub(1);
        }
    }
}

impl Entry {
    /// It was with the broker before the last look.
    fn is_late(&self, look: u64) -> bool {
        matches!(self.standing, Standing::Confirmed(at) if at + 2 <= look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Phase, ProjectId, TaskKey};

    const CONNECTION: u64 = 1;

    fn dispatch(number: u64) -> Dispatch {
        Dispatch { task: TaskKey { project: ProjectId(1), phase: Phase::Task, index: 0 }, number }
    }

    fn tag(tag: u64) -> Tag {
        Tag { connection: CONNECTION, tag }
    }

    /// With these tasks published, and sent.
    fn state(numbers: impl IntoIterator<Item = u64>) -> (State, Vec<Message>) {
        let mut state = State::new("piecework");
        state.open("g1".into());
        for number in numbers {
            state.publish(dispatch(number), &Labels::new());
        }
        let messages = state.take_waiting(usize::MAX);
        (state, messages)
    }

    fn lost(state: &mut State) -> Vec<u64> {
        let mut lost: Vec<_> = state.take().lost.iter().map(|dispatch| dispatch.number).collect();
        lost.sort_unstable();
        lost
    }

    #[test]
    fn what_arrives_is_acknowledged_once_it_is_claimed() {
        let (mut state, _) = state([1, 2]);
        state.deliver("g1", dispatch(1), tag(10));
        state.deliver("g1", dispatch(2), tag(11));
        assert_eq!(state.take().delivered, [dispatch(1), dispatch(2)]);
        assert!(state.take_acks(CONNECTION).is_empty());
        state.ack(&[dispatch(2)]);
        assert_eq!(state.take_acks(CONNECTION), [11]);
        state.ack(&[dispatch(1)]);
        assert!(state.take_acks(CONNECTION + 1).is_empty());
    }

    #[test]
    fn stale_deliveries_are_acknowledged_and_go_no_further() {
        let (mut state, _) = state([1]);
        state.deliver("g0", dispatch(1), tag(1));
        state.deliver("g1", dispatch(7), tag(2));
        assert!(!state.has_arrived());
        assert_eq!(state.take_acks(CONNECTION), [1, 2]);
    }

    #[test]
    fn a_delivery_that_comes_again_is_told_once() {
        let (mut state, _) = state([1]);
        state.deliver("g1", dispatch(1), tag(1));
        state.deliver("g1", dispatch(1), Tag { connection: 2, tag: 1 });
        assert_eq!(state.take().delivered, [dispatch(1)]);
        state.ack(&[dispatch(1)]);
        assert_eq!(state.take_acks(2), [1]);
        state.deliver("g1", dispatch(1), Tag { connection: 3, tag: 1 });
        assert!(!state.has_arrived());
        assert_eq!(state.take_acks(3), [1]);
    }

    #[test]
    fn a_copy_leaves_nothing_unacknowledged() {
        let (mut state, _) = state([1]);
        state.deliver("g1", dispatch(1), tag(1));
        state.deliver("g1", dispatch(1), tag(2));
        assert_eq!(state.take().delivered, [dispatch(1)]);
        assert_eq!(state.take_acks(CONNECTION), [1]);
        state.ack(&[dispatch(1)]);
        assert_eq!(state.take_acks(CONNECTION), [2]);
    }

    #[test]
    fn a_new_core_finds_nothing_and_what_was_delivered_goes() {
        let (mut state, _) = state([1, 2]);
        state.deliver("g1", dispatch(1), tag(1));
        state.open("g2".into());
        assert!(!state.has_arrived() && state.take_waiting(9).is_empty());
        assert_eq!(state.take_acks(CONNECTION), [1]);
    }

    #[test]
    fn what_is_not_confirmed_when_the_publisher_goes_is_lost() {
        let (mut state, messages) = state([1, 2, 3]);
        state.confirmed(&messages[0]);
        state.publish(dispatch(4), &Labels::new());
        state.publisher_gone();
        assert_eq!(lost(&mut state), [2, 3]);
        assert_eq!(state.take_waiting(9).len(), 1);
    }

    #[test]
    fn what_the_broker_refuses_is_lost() {
        let (mut state, messages) = state([1, 2]);
        state.refused(&messages[1]);
        assert_eq!(lost(&mut state), [2]);
        state.open("g2".into());
        state.publish(dispatch(1), &Labels::new());
        state.refused(&messages[0]);
        assert!(lost(&mut state).is_empty());
    }

    #[test]
    fn a_deleted_queue_loses_what_was_in_it() {
        let (mut state, messages) = state([1]);
        let labels = Labels::from([("gpu".to_owned(), "true".to_owned())]);
        state.publish(dispatch(2), &labels);
        state.take_waiting(9);
        state.confirmed(&messages[0]);
        state.queue_gone("piecework.todo.gpu=true");
        assert_eq!(lost(&mut state), [2]);
    }

    #[test]
    fn what_should_have_arrived_is_lost_if_its_queue_is_found_empty_twice() {
        let (mut state, messages) = state([1, 2]);
        let name = messages[0].queue.clone();
        state.confirmed(&messages[0]);
        assert!(state.look().is_empty(), "it may be on its way");
        for (messages, expected) in [(0, vec![]), (3, vec![]), (0, vec![]), (0, vec![1])] {
            assert_eq!(state.look(), std::slice::from_ref(&name));
            state.counted(&name, messages);
            assert_eq!(lost(&mut state), expected);
        }
        assert!(state.look().is_empty(), "the second is not confirmed");
    }

    #[test]
    fn queues_of_labels_are_forgotten_when_nobody_needs_them() {
        let (mut state, _) = state([]);
        let labels = Labels::from([("gpu".to_owned(), "true".to_owned())]);
        state.publish(dispatch(1), &labels);
        for _ in 0..IDLE_LOOKS_MAX * 2 {
            state.look();
        }
        assert_eq!(state.queues().count(), 2);
        state.take_waiting(1);
        state.deliver("g1", dispatch(1), tag(1));
        for _ in 0..IDLE_LOOKS_MAX {
            state.look();
        }
        let queues: Vec<_> = state.queues().map(|(name, _)| name.to_string()).collect();
        assert_eq!(queues, ["piecework.todo"]);
    }
}
