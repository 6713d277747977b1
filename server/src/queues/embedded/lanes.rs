//! The queues of the embedded broker, as the thread that owns the database knows them. Without async.
//!
//! What waits in a lane is what was given back, and all rows behind the cursor. So memory is taken only by what is held or was
//! given back, however long a queue is.

use super::rows;
use crate::queues::{
    carrier::{Depth, Receipt, Taken},
    error::QueueError,
    limits::{BATCH_BYTES_MAX, HELD_MAX},
    message::{DeleteIf, Message},
};
use rusqlite::Connection;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// When the next message comes back by itself; none if none is held.
pub(in crate::queues) type NextExpiry = Option<Instant>;

/// What a receiver is answered.
pub(super) type Answer = Result<Vec<Taken>, QueueError>;

/// Who wants messages.
pub(super) struct Waiter {
    pub(super) max: usize,
    /// Whether to wait for the first one.
    pub(super) waits: bool,
    pub(super) visibility: Duration,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// All lanes.
pub(in crate::queues) struct Lanes {
    process: u64,
    held_max: usize,
    next_seq: i64,
    receipts: u64,
    lanes: HashMap<i64, Lane>,
    held: HashMap<u64, Held>,
    expiries: BTreeSet<(Instant, u64)>,
    /// Those in which somebody may be served.
    awake: BTreeSet<i64>,
}

/// One queue.
#[derive(Default)]
struct Lane {
    messages: u64,
    bytes: u64,
    held: u64,
    /// Up to here, all rows that wait are in `returned`.
    cursor: i64,
    /// With how often they were delivered before.
    returned: BTreeMap<i64, u32>,
    waiters: VecDeque<Waiter>,
}

/// A message that is delivered.
struct Held {
    queue: i64,
    seq: i64,
    size: u64,
    redeliveries: u32,
    since: Instant,
    until: Instant,
}

impl Lanes {
    /// Counts what is in the database.
    pub(in crate::queues) fn load(
        connection: &Connection,
        process: u64,
        held_max: usize,
    ) -> rusqlite::Result<Self> {
        let mut lanes = Self {
            process,
            held_max,
            next_seq: 1,
            receipts: 0,
            lanes: HashMap::new(),
            held: HashMap::new(),
            expiries: BTreeSet::new(),
            awake: BTreeSet::new(),
        };
        lanes.reload(connection)?;
        Ok(lanes)
    }

    /// Forgets what is held and counts anew. Who waits goes on waiting; receipts are never used again.
    pub(in crate::queues) fn reload(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let counts = rows::counts(connection)?;
        // Numbers of rows that are gone may be used again, as no cursor is behind them.
        let next_seq = rows::last_seq(connection)? + 1;
        let mut before = std::mem::take(&mut self.lanes);
        for rows::Count { queue, messages, bytes } in counts {
            let waiters = before.remove(&queue).map(|lane| lane.waiters).unwrap_or_default();
            self.lanes.insert(queue, Lane { messages, bytes, waiters, ..Lane::default() });
        }
        self.next_seq = next_seq;
        self.held.clear();
        self.expiries.clear();
        self.awake = self.lanes.keys().copied().collect();
        Ok(())
    }

    pub(in crate::queues) fn next_expiry(&self) -> NextExpiry {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// Makes a lane unless it is there.
    pub(super) fn make(&mut self, queue: i64) {
        self.lanes.entry(queue).or_default();
    }

    pub(super) fn depth(&mut self, queue: i64) -> Option<Depth> {
        let lane = self.lanes.get(&queue)?;
        let consumers = lane.waiters.iter().filter(|waiter| !waiter.answer.is_closed()).count() as u64;
        Some(Depth { ready: lane.messages.saturating_sub(lane.held), unacked: lane.held, consumers })
    }

    /// How many messages and bytes are in a lane.
    pub(super) fn filling(&self, queue: i64) -> Option<(u64, u64)> {
        self.lanes.get(&queue).map(|lane| (lane.messages, lane.bytes))
    }

    /// Adds messages. That there is room for them was asked before.
    pub(super) fn add(
        &mut self,
        connection: &Connection,
        queue: i64,
        messages: &[Message],
    ) -> rusqlite::Result<()> {
        let Some(lane) = self.lanes.get_mut(&queue) else { return Ok(()) };
        for message in messages {
            rows::insert(connection, self.next_seq, queue, message)?;
            self.next_seq += 1;
            lane.messages += 1;
            lane.bytes += message.size() as u64;
        }
        self.awake.insert(queue);
        Ok(())
    }

    /// Has somebody wait. They are served at the end of this turn, or when something comes.
    pub(super) fn wait(&mut self, queue: i64, waiter: Waiter) {
        let Some(lane) = self.lanes.get_mut(&queue) else {
            // Deleted meanwhile: for who receives it is as if nothing came.
            let _ = waiter.answer.send(Ok(Vec::new()));
            return;
        };
        lane.waiters.retain(|waiter| !waiter.answer.is_closed());
        lane.waiters.push_back(waiter);
        self.awake.insert(queue);
    }

    /// Serves those who wait where something has come.
    pub(in crate::queues) fn serve(&mut self, connection: &Connection, now: Instant) {
        while let Some(queue) = self.awake.pop_first() {
            while let Some(waiter) = self.lanes.get_mut(&queue).and_then(|lane| lane.waiters.pop_front()) {
                if waiter.answer.is_closed() {
                    continue;
                }
                let answer = self.take(connection, queue, &waiter, now);
                if waiter.waits && matches!(&answer, Ok(taken) if taken.is_empty()) {
                    if let Some(lane) = self.lanes.get_mut(&queue) {
                        lane.waiters.push_front(waiter);
                    }
                    break;
                }
                if let Err(Ok(taken)) = waiter.answer.send(answer) {
                    // Gone in this moment. What they were given is for the next one.
                    self.give_back(queue, taken.iter().map(|taken| taken.receipt));
                }
            }
        }
    }

    fn take(&mut self, connection: &Connection, queue: i64, waiter: &Waiter, now: Instant) -> Answer {
        let room = self.held_max.saturating_sub(self.held.len());
        let Some(lane) = self.lanes.get_mut(&queue) else { return Ok(Vec::new()) };
        if room == 0 {
            return Err(QueueError::TooMany(format!(
                "{} messages are delivered and not yet acknowledged: acknowledge some first",
                self.held_max
            )));
        }
        let found = lane.oldest(connection, queue, waiter.max.min(room))?;
        let mut taken = Vec::with_capacity(found.len());
        for (seq, mut message) in found {
            message.redeliveries = lane.returned.remove(&seq).unwrap_or_default();
            lane.cursor = lane.cursor.max(seq);
            lane.held += 1;
            self.receipts += 1;
            let until = now + waiter.visibility;
            self.expiries.insert((until, self.receipts));
            let (size, redeliveries) = (message.size() as u64, message.redeliveries);
            self.held.insert(self.receipts, Held { queue, seq, size, redeliveries, since: now, until });
            taken.push(Taken { message, receipt: Receipt { process: self.process, number: self.receipts } });
        }
        Ok(taken)
    }

    /// The oldest that wait.
    pub(super) fn peek(
        &mut self,
        connection: &Connection,
        queue: i64,
        max: usize,
    ) -> Result<Vec<Message>, QueueError> {
        let Some(lane) = self.lanes.get_mut(&queue) else { return Ok(Vec::new()) };
        let found = lane.oldest(connection, queue, max)?;
        let shown = found.into_iter().map(|(seq, mut message)| {
            message.redeliveries = lane.returned.get(&seq).copied().unwrap_or_default();
            message
        });
        Ok(shown.collect())
    }

    /// Whether a receipt is of a message of this queue that is held.
    fn is_held(&self, queue: i64, receipt: Receipt) -> bool {
        receipt.process == self.process
            && self.held.get(&receipt.number).is_some_and(|held| held.queue == queue)
    }

    fn release(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.expiries.remove(&(held.until, number));
        if let Some(lane) = self.lanes.get_mut(&held.queue) {
            lane.held = lane.held.saturating_sub(1);
        }
        Some(held)
    }

    /// Removes messages for good; returns which are not held.
    pub(super) fn ack(
        &mut self,
        connection: &Connection,
        queue: i64,
        receipts: Vec<Receipt>,
    ) -> Result<Vec<Receipt>, QueueError> {
        let (held, gone): (Vec<_>, _) =
            receipts.into_iter().partition(|&receipt| self.is_held(queue, receipt));
        for receipt in held {
            let Some(held) = self.release(receipt.number) else { continue };
            rows::remove(connection, held.seq)?;
            if let Some(lane) = self.lanes.get_mut(&queue) {
                lane.removed(1, held.size);
            }
        }
        Ok(gone)
    }

    /// Puts messages back; returns which are not held.
    pub(super) fn give_back(
        &mut self,
        queue: i64,
        receipts: impl IntoIterator<Item = Receipt>,
    ) -> Vec<Receipt> {
        let mut gone = Vec::new();
        for receipt in receipts {
            if !self.is_held(queue, receipt) {
                gone.push(receipt);
            } else if let Some(held) = self.release(receipt.number) {
                self.put_back(&held);
            }
        }
        gone
    }

    fn put_back(&mut self, held: &Held) {
        if let Some(lane) = self.lanes.get_mut(&held.queue) {
            lane.returned.insert(held.seq, held.redeliveries.saturating_add(1));
            self.awake.insert(held.queue);
        }
    }

    /// Holds messages for longer; returns which are not held. All or none of those that are.
    pub(super) fn extend(
        &mut self,
        queue: i64,
        receipts: Vec<Receipt>,
        visibility: Duration,
        now: Instant,
    ) -> Result<Vec<Receipt>, QueueError> {
        let (held, gone): (Vec<_>, _) =
            receipts.into_iter().partition(|&receipt| self.is_held(queue, receipt));
        let until = now + visibility;
        let is_too_long = |receipt: &Receipt| {
            self.held.get(&receipt.number).is_some_and(|held| until > held.since + HELD_MAX)
        };
        if held.iter().any(is_too_long) {
            return Err(QueueError::held_too_long());
        }
        for receipt in held {
            if let Some(held) = self.held.get_mut(&receipt.number) {
                self.expiries.remove(&(held.until, receipt.number));
                held.until = until;
                self.expiries.insert((until, receipt.number));
            }
        }
        Ok(gone)
    }

    /// What was not acknowledged in time is in its queue again.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.expiries.first()
            && at <= now
        {
            match self.release(number) {
                Some(held) => self.put_back(&held),
                None => drop(self.expiries.pop_first()),
            }
        }
    }

    /// Removes some of what waits, up to a row; returns how many, 0 when nothing is left.
    pub(super) fn purge(
        &mut self,
        connection: &Connection,
        queue: i64,
        last: i64,
        chunk: rows::Chunk,
    ) -> Result<u64, QueueError> {
        let Some(lane) = self.lanes.get_mut(&queue) else { return Ok(0) };
        let (mut many, mut bytes) = (0, 0);
        while many < chunk.messages as u64
            && let Some(first) = lane.returned.first_entry()
            && *first.key() <= last
        {
            bytes += rows::size(connection, *first.key())?;
            rows::remove(connection, *first.key())?;
            first.remove();
            many += 1;
        }
        if many == 0 {
            (many, bytes) = rows::remove_range(connection, queue, lane.cursor, last, chunk)?;
        }
        lane.removed(many, bytes);
        Ok(many)
    }

    /// Up to which row there may be something in a lane now.
    pub(super) const fn last_seq(&self) -> i64 {
        self.next_seq - 1
    }

    /// Closes a lane if the conditions hold; returns how many messages are in it.
    pub(super) fn close(&mut self, queue: i64, conditions: DeleteIf) -> Result<u64, QueueError> {
        let depth = self.depth(queue).unwrap_or_default();
        conditions.check(depth)?;
        let Some(lane) = self.lanes.remove(&queue) else { return Ok(0) };
        self.held.retain(|number, held| {
            let is_other = held.queue != queue;
            if !is_other {
                self.expiries.remove(&(held.until, *number));
            }
            is_other
        });
        for waiter in lane.waiters {
            // It may have gone.
            let _ = waiter.answer.send(Ok(Vec::new()));
        }
        Ok(lane.messages)
    }
}

impl Lane {
    fn oldest(
        &self,
        connection: &Connection,
        queue: i64,
        max: usize,
    ) -> rusqlite::Result<Vec<(i64, Message)>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut fits = |message: &Message, is_first: bool| {
            bytes += message.size();
            is_first || bytes <= BATCH_BYTES_MAX
        };
        for &seq in self.returned.keys().take(max) {
            let Some(message) = rows::read(connection, seq)? else { continue };
            if !fits(&message, found.is_empty()) {
                return Ok(found);
            }
            found.push((seq, message));
        }
        if found.len() < max {
            rows::read_behind(connection, queue, self.cursor, max - found.len(), |seq, message| {
                let takes = fits(&message, found.is_empty());
                if takes {
                    found.push((seq, message));
                }
                takes
            })?;
        }
        Ok(found)
    }

    fn removed(&mut self, messages: u64, bytes: u64) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
