//! Messages that are delivered and not yet settled: on which channel, under which number, and until when.

use crate::queues::{carrier::Receipt, error::QueueError, limits::HELD_MAX};
use lapin::Channel;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// A delivery, as RabbitMQ knows it. Of a channel that is closed, it is in its queue again.
#[derive(Clone, Debug)]
pub(super) struct Tag {
    pub(super) channel: Channel,
    pub(super) tag: u64,
}

impl Tag {
    pub(super) fn is_good(&self) -> bool {
        self.channel.status().connected()
    }
}

/// All that is held.
pub(super) struct Held {
    process: u64,
    most: usize,
    state: Mutex<State>,
    /// The earliest end may be another one.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    receipts: u64,
    held: HashMap<u64, One>,
    expiries: BTreeSet<(Instant, u64)>,
}

struct One {
    queue: i64,
    tag: Tag,
    since: Instant,
    until: Instant,
}

impl State {
    fn release(&mut self, number: u64) -> Option<Tag> {
        let one = self.held.remove(&number)?;
        self.expiries.remove(&(one.until, number));
        Some(one.tag)
    }

    fn drop_if(&mut self, drops: impl Fn(&One) -> bool) -> u64 {
        let dropped = self.held.extract_if(|_, one| drops(one));
        let mut many = 0;
        for (number, one) in dropped {
            self.expiries.remove(&(one.until, number));
            many += 1;
        }
        many
    }
}

impl Held {
    pub(super) fn new(process: u64, most: usize) -> Self {
        Self { process, most, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done with it leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how many more there is room.
    pub(super) fn room(&self) -> Result<usize, QueueError> {
        let mut state = self.state();
        if state.held.len() >= self.most {
            // What was on a channel that is closed is held no more.
            state.drop_if(|one| !one.tag.is_good());
        }
        match self.most.saturating_sub(state.held.len()) {
            0 => Err(QueueError::TooMany(format!(
                "{} messages are delivered and not yet acknowledged: acknowledge some first",
                self.most
            ))),
            room => Ok(room),
        }
    }

    pub(super) fn hold(&self, queue: i64, tag: Tag, visibility: Duration) -> Receipt {
        let mut state = self.state();
        state.receipts += 1;
        let (number, since) = (state.receipts, Instant::now());
        let until = since + visibility;
        state.held.insert(number, One { queue, tag, since, until });
        state.expiries.insert((until, number));
        drop(state);
        self.changed.notify_one();
        Receipt { process: self.process, number }
    }

    /// Holds nothing of a queue that was deleted; returns how many that were.
    pub(super) fn forget(&self, queue: i64) -> u64 {
        let mut state = self.state();
        state.drop_if(|one| !one.tag.is_good());
        state.drop_if(|one| one.queue == queue)
    }

    /// How many of a queue are held.
    pub(super) fn count(&self, queue: i64) -> u64 {
        self.state().held.values().filter(|one| one.queue == queue && one.tag.is_good()).count() as u64
    }

    /// Holds these no longer: their deliveries in order, and those receipts that were of none.
    pub(super) fn take(&self, queue: i64, receipts: Vec<Receipt>) -> (Vec<(Receipt, Tag)>, Vec<Receipt>) {
        let mut state = self.state();
        let (mut found, mut gone) = (Vec::with_capacity(receipts.len()), Vec::new());
        for receipt in receipts {
            let is_ours = self.process == receipt.process
                && state.held.get(&receipt.number).is_some_and(|one| one.queue == queue);
            match is_ours.then(|| state.release(receipt.number)).flatten() {
                Some(tag) if tag.is_good() => found.push((receipt, tag)),
                _ => gone.push(receipt),
            }
        }
        found.sort_by_key(|(_, tag)| tag.tag);
        (found, gone)
    }

    /// Holds these for longer, all or none; returns which are not held.
    pub(super) fn extend(
        &self,
        queue: i64,
        receipts: Vec<Receipt>,
        visibility: Duration,
    ) -> Result<Vec<Receipt>, QueueError> {
        let mut state = self.state();
        let until = Instant::now() + visibility;
        let (held, gone): (Vec<_>, _) = receipts.into_iter().partition(|receipt| {
            let one = state.held.get(&receipt.number).filter(|one| one.queue == queue && one.tag.is_good());
            receipt.process == self.process && one.is_some()
        });
        let is_too_long = |receipt: &Receipt| {
            state.held.get(&receipt.number).is_some_and(|one| until > one.since + HELD_MAX)
        };
        if held.iter().any(is_too_long) {
            return Err(QueueError::held_too_long());
        }
        let State { held: all, expiries, .. } = &mut *state;
        for Receipt { number, .. } in held {
            if let Some(one) = all.get_mut(&number) {
                expiries.remove(&(one.until, number));
                one.until = until;
                expiries.insert((until, number));
            }
        }
        drop(state);
        self.changed.notify_one();
        Ok(gone)
    }

    /// When the next one's time is over.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.state().expiries.first().map(|&(at, _)| at)
    }

    /// Those whose time is over, in the order of their delivery.
    pub(super) fn expired(&self, now: Instant) -> Vec<Tag> {
        let mut state = self.state();
        let mut expired = Vec::new();
        while let Some(&(at, number)) = state.expiries.first()
            && at <= now
        {
            state.expiries.pop_first();
            expired.extend(state.held.remove(&number).map(|one| one.tag).filter(Tag::is_good));
        }
        expired.sort_by_key(|tag| tag.tag);
        expired
    }
}
