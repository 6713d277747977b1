//! One turn: a batch of inputs through the core and the broker. Synchronous and without I/O, so that the simulation takes
//! the very same turns.

use crate::{
    broker::{Arrived, Broker, Specs},
    coordinator::{Coordinator, Effects, Input},
};
use std::time::Duration;

/// Hands all inputs to the core, with what has arrived from the broker; if that is a view of the store, what is published is
/// delivered and claimed in the same transaction. What is left in the effects is to be performed after the commit.
pub fn turn(
    core: &mut Coordinator,
    broker: &mut dyn Broker,
    specs: &Specs,
    inputs: impl IntoIterator<Item = Input>,
    now: Duration,
) -> Effects {
    let mut fx = Effects::default();
    for input in inputs {
        core.handle(input, now, &mut fx);
    }
    if broker.is_view() {
        claim_at_once(core, broker, specs, now, &mut fx);
    } else {
        let Arrived { delivered, lost } = broker.take();
        if !lost.is_empty() {
            core.handle(Input::Lost(lost), now, &mut fx);
        }
        if !delivered.is_empty() {
            core.handle(Input::Delivered(delivered), now, &mut fx);
        }
        core.publish(&mut fx);
    }
    core.flush(&mut fx);
    fx
}

/// Ends: each delivery is claimed, which takes up room, or is set back, and without room nothing is published.
fn claim_at_once(
    core: &mut Coordinator,
    broker: &mut dyn Broker,
    specs: &Specs,
    now: Duration,
    fx: &mut Effects,
) {
    loop {
        core.publish(fx);
        if let Some(deliveries_max) = fx.prefetch.take() {
            broker.prefetch(deliveries_max);
        }
        broker.publish(std::mem::take(&mut fx.publish), specs);
        let delivered = broker.take().delivered;
        if delivered.is_empty() {
            return;
        }
        core.handle(Input::Delivered(delivered), now, fx);
        broker.ack(&std::mem::take(&mut fx.acks));
    }
}
