//! The embedded broker: TODO in memory, as a view of the store. It holds nothing that the store does not know, so it is
//! dropped with the core and filled again from the store.

use super::{Arrived, Broker, Specs};
use crate::coordinator::Dispatch;
use std::collections::VecDeque;

/// One queue. Its length is bounded by the coordinator's window.
#[derive(Debug, Default)]
pub struct Embedded {
    todo: VecDeque<Dispatch>,
    unacked: u32,
    prefetch: u32,
}

impl Broker for Embedded {
    fn is_view(&self) -> bool {
        true
    }

    fn publish(&mut self, dispatches: Vec<Dispatch>, _specs: &Specs) {
        self.todo.extend(dispatches);
    }

    fn prefetch(&mut self, deliveries_max: u32) {
        self.prefetch = deliveries_max;
    }

    fn ack(&mut self, dispatches: &[Dispatch]) {
        self.unacked = self.unacked.saturating_sub(u32::try_from(dispatches.len()).unwrap_or(u32::MAX));
    }

    fn take(&mut self) -> Arrived {
        let room = self.prefetch.saturating_sub(self.unacked) as usize;
        let delivered: Vec<_> = self.todo.drain(..room.min(self.todo.len())).collect();
        self.unacked += u32::try_from(delivered.len()).unwrap_or(u32::MAX);
        Arrived { delivered, lost: Vec::new() }
    }
}
