//! One turn: a batch of inputs through the core and the broker. Synchronous and without I/O, so that the simulation takes
//! the very same turns.

use crate::{
    broker::Broker,
    coordinator::{Coordinator, Effects, Input},
};
use std::time::Duration;

/// Hands all inputs to the core, and lets the broker's deliveries be claimed in the same transaction if it is a view of the
/// store. What is left in the effects is to be performed after the commit.
pub fn turn(
    core: &mut Coordinator,
    broker: &mut dyn Broker,
    inputs: impl IntoIterator<Item = Input>,
    now: Duration,
) -> Effects {
    let mut fx = Effects::default();
    for input in inputs {
        core.handle(input, now, &mut fx);
    }
    // Ends: each delivery is claimed, which takes up room, or is set back, and without room nothing is published.
    loop {
        core.publish(&mut fx);
        if !broker.is_view() {
            break;
        }
        if let Some(deliveries_max) = fx.prefetch.take() {
            broker.prefetch(deliveries_max);
        }
        broker.publish(std::mem::take(&mut fx.publish));
        let delivered = broker.deliver();
        if delivered.is_empty() {
            break;
        }
        core.handle(Input::Delivered(delivered), now, &mut fx);
        broker.ack(&std::mem::take(&mut fx.acks));
    }
    core.flush(&mut fx);
    fx
}
