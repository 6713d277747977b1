//! The embedded broker: TODO in memory, as a view of the store. It holds nothing that the store does not know, so it is
//! dropped with the core and filled again from the store.

use super::Broker;
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

    fn publish(&mut self, dispatches: Vec<Dispatch>) {
        self.todo.extend(dispatches);
    }

    fn prefetch(&mut self, deliveries_max: u32) {
        self.prefetch = deliveries_max;
    }

    fn ack(&mut self, dispatches: &[Dispatch]) {
        self.unacked = self.unacked.saturating_sub(u32::try_from(dispatches.len()).unwrap_or(u32::MAX));
    }

    fn deliver(&mut self) -> Vec<Dispatch> {
        let room = self.prefetch.saturating_sub(self.unacked) as usize;
        let out: Vec<_> = self.todo.drain(..room.min(self.todo.len())).collect();
        self.unacked += u32::try_from(out.len()).unwrap_or(u32::MAX);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Phase, ProjectId, TaskKey};

    fn dispatch(index: u32) -> Dispatch {
        Dispatch {
            task: TaskKey { project: ProjectId(1), phase: Phase::Task, index },
            number: u64::from(index),
        }
    }

    #[test]
    fn delivers_in_order_and_no_more_than_the_prefetch() {
        let mut broker = Embedded::default();
        broker.publish((0..5).map(dispatch).collect());
        assert!(broker.deliver().is_empty());
        broker.prefetch(2);
        assert_eq!(broker.deliver(), [dispatch(0), dispatch(1)]);
        assert!(broker.deliver().is_empty());
        broker.ack(&[dispatch(0)]);
        assert_eq!(broker.deliver(), [dispatch(2)]);
    }
}
