//! The broker only carries: tasks to do from the coordinator that owns them to the one that claims them. One seam, two
//! implementations: the embedded default is a view of the store's task states, RabbitMQ a queue of its own.

mod embedded;
pub mod rabbitmq;

pub use embedded::Embedded;

use crate::{
    coordinator::Dispatch,
    domain::{ProjectId, ProjectSpec},
};
use rabbitmq::RabbitMq;
use std::{collections::HashMap, future, sync::Arc};

/// The documents of the active projects: what their tasks ask of an agent decides which queue they wait in.
pub type Specs = HashMap<ProjectId, Arc<ProjectSpec>>;

/// TODO, for as long as one folded core lives. No call blocks: an implementation with I/O does it in tasks of its own, and
/// [`Brokers::arrived`] wakes the driver. What is published is bounded by the coordinator's window.
pub trait Broker: Send + 'static {
    /// Whether TODO is a view of the store: what is published is then true only together with the transaction under way, and
    /// may be claimed in it.
    fn is_view(&self) -> bool;

    /// Puts tasks into TODO, in this order.
    fn publish(&mut self, dispatches: Vec<Dispatch>, specs: &Specs);

    /// How many deliveries there is room for.
    fn prefetch(&mut self, deliveries_max: u32);

    /// These deliveries are claimed durably, or stale.
    fn ack(&mut self, dispatches: &[Dispatch]);

    /// What has arrived since the last call.
    fn take(&mut self) -> Arrived;
}

/// What a broker has to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Tasks to claim. A task may be delivered twice, and one that was taken for lost may be delivered all the same.
    pub delivered: Vec<Dispatch>,
    /// Published tasks that are not in TODO any more, or may not be: to be published again.
    pub lost: Vec<Dispatch>,
}

/// The broker in use.
#[derive(Clone, Debug)]
pub enum Brokers {
    /// In this process.
    Embedded,
    /// A RabbitMQ.
    RabbitMq(RabbitMq),
}

impl Brokers {
    /// TODO for a newly folded core. What an earlier one has published is stale from here on.
    #[must_use]
    pub fn open(&self) -> Box<dyn Broker> {
        match self {
            Self::Embedded => Box::new(Embedded::default()),
            Self::RabbitMq(rabbitmq) => Box::new(rabbitmq.open()),
        }
    }

    /// Waits until [`Broker::take`] may have something.
    pub async fn arrived(&self) {
        match self {
            Self::Embedded => future::pending().await,
            Self::RabbitMq(rabbitmq) => rabbitmq.arrived().await,
        }
    }

    /// Why nothing can be published or delivered for now, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Embedded => None,
            Self::RabbitMq(rabbitmq) => rabbitmq.trouble(),
        }
    }
}
