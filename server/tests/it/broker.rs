//! TODO: the same tests for both brokers, and what only a RabbitMQ can do to us. It is a real one.

use crate::rabbitmq::Node;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};
use piecework_server::{
    broker::{
        Broker, Brokers, Specs,
        rabbitmq::{RabbitMq, RabbitMqConfig},
    },
    coordinator::Dispatch,
    domain::{Phase, ProjectId, ProjectSpec, TaskKey},
};
use std::{collections::BTreeSet, sync::OnceLock, time::Duration};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

/// How long something may take that is to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it is waited for what is not to come.
const SILENCE: Duration = Duration::from_millis(300);

/// The one node of these tests, for one test at a time. None where there is no RabbitMQ.
pub(crate) async fn node() -> Option<MutexGuard<'static, Node>> {
    static NODE: OnceLock<Option<Mutex<Node>>> = OnceLock::new();
    let node = NODE.get_or_init(|| Node::start().map(Mutex::new)).as_ref()?;
    Some(node.lock().await)
}

pub(crate) fn config(node: &Node, prefix: &str) -> RabbitMqConfig {
    RabbitMqConfig::new(&[node.url()]).and_then(|config| config.with_prefix(prefix)).expect("a configuration")
}

async fn rabbitmq(node: &Node, prefix: &str) -> Brokers {
    Brokers::RabbitMq(RabbitMq::start(config(node, prefix)).await.expect("a RabbitMQ that can be used"))
}

/// A client that knows nothing of us.
pub(crate) async fn foreign(node: &Node) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&node.url(), properties).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

fn dispatch(number: u64) -> Dispatch {
    let index = u32::try_from(number).expect("a small number");
    Dispatch { task: TaskKey { project: ProjectId(1), phase: Phase::Task, index }, number }
}

fn dispatches(numbers: impl IntoIterator<Item = u64>) -> Vec<Dispatch> {
    numbers.into_iter().map(dispatch).collect()
}

/// TODO as the driver uses it, with a memory of what came.
struct Todo {
    brokers: Brokers,
    broker: Box<dyn Broker>,
    delivered: Vec<Dispatch>,
    lost: BTreeSet<u64>,
}

impl Todo {
    fn open(brokers: &Brokers, prefetch: u32) -> Self {
        let mut broker = brokers.open();
        broker.prefetch(prefetch);
        Self { brokers: brokers.clone(), broker, delivered: Vec::new(), lost: BTreeSet::new() }
    }

    fn publish(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.broker.publish(dispatches(numbers), &Specs::default());
    }

    fn take(&mut self) {
        let arrived = self.broker.take();
        self.delivered.extend(arrived.delivered);
        self.lost.extend(arrived.lost.iter().map(|dispatch| dispatch.number));
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                self.take();
                if holds(self) {
                    break;
                }
                tokio::select! {
                    () = self.brokers.arrived() => {}
                    () = sleep(Duration::from_millis(50)) => {}
                }
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "waited in vain until {what}: {:?}, lost {:?}", self.delivered, self.lost);
    }

    async fn until_delivered(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let expected = dispatches(numbers);
        self.until("it is delivered", |todo| todo.delivered.len() >= expected.len()).await;
        let mut delivered = self.delivered.clone();
        if matches!(self.brokers, Brokers::RabbitMq(_)) {
            // While it is consumed anew with more room, what the old consumer had may come after what the new one has.
            delivered.sort_unstable_by_key(|dispatch| dispatch.number);
        }
        assert_eq!(delivered, expected);
    }

    /// Until each of them was delivered or lost: none may be both, and none may come twice.
    async fn until_told(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let expected: BTreeSet<u64> = numbers.into_iter().collect();
        let told = |todo: &Self| todo.delivered.len() + todo.lost.len();
        self.until("all is told", |todo| told(todo) >= expected.len()).await;
        let mut all = self.lost.clone();
        all.extend(self.delivered.iter().map(|dispatch| dispatch.number));
        assert_eq!(all, expected);
        assert_eq!(told(self), expected.len());
    }

    async fn nothing_more(&mut self) {
        let before = self.delivered.len();
        sleep(SILENCE).await;
        self.take();
        assert_eq!(self.delivered.len(), before, "{:?}", self.delivered);
    }

    fn ack_all(&mut self) {
        self.broker.ack(&self.delivered);
    }
}

/// What every broker does.
async fn check(brokers: &Brokers) {
    // In order, and each once.
    let mut todo = Todo::open(brokers, 1000);
    todo.publish(0..300);
    todo.until_delivered(0..300).await;
    todo.ack_all();
    todo.publish(300..400);
    todo.until_delivered(0..400).await;
    todo.ack_all();
    todo.nothing_more().await;
    assert_eq!(todo.lost, BTreeSet::new());
    assert_eq!(brokers.trouble(), None);

    // More than one batch, at once.
    let mut todo = Todo::open(brokers, 2000);
    todo.publish(0..1500);
    todo.until_delivered(0..1500).await;
    todo.ack_all();
    assert_eq!(todo.lost, BTreeSet::new());

    // A new core is told nothing of what an earlier one has published, delivered or not.
    todo.publish(400..420);
    let mut todo = Todo::open(brokers, 1000);
    todo.nothing_more().await;
    todo.publish([7]);
    todo.until_delivered([7]).await;
}

/// No more is out than there is room for. Before anything larger was asked for.
async fn check_prefetch(brokers: &Brokers) {
    let mut todo = Todo::open(brokers, 2);
    todo.publish(0..5);
    todo.until_delivered(0..2).await;
    todo.nothing_more().await;
    todo.broker.ack(&dispatches([0]));
    todo.until_delivered(0..3).await;
    todo.nothing_more().await;
    todo.broker.ack(&dispatches([1, 2]));
    todo.until_delivered(0..5).await;
    todo.ack_all();
}

#[tokio::test]
async fn the_embedded_broker_does_what_every_broker_does() {
    check_prefetch(&Brokers::Embedded).await;
    check(&Brokers::Embedded).await;
    assert!(timeout(SILENCE, Brokers::Embedded.arrived()).await.is_err(), "it has nothing to say by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_does_what_every_broker_does() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "every").await;
    check_prefetch(&brokers).await;
    check(&brokers).await;
}

/// The document of a project whose tasks ask for this label.
fn asking_for(label: &str, value: &str) -> ProjectSpec {
    let document = serde_json::json!({
        "name": "p", "image": {"reference": "i"}, "items": {"list": 1}, "reassemble": {"built_in": "none"},
        "on_failure": "continue", "weight": 1,
        "task": {
            "command": ["c"], "env": {}, "workdir": null, "timeout_millis": null, "retries": 0, "retry_on": [],
            "resources": {"cpus_milli": null, "memory_bytes": null, "pids_max": null}, "network": "none",
            "output_bytes_max": null, "requires": {label: value},
        },
    });
    serde_json::from_value(document).expect("a document")
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_ask_for_labels_wait_in_a_queue_of_their_own() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "labels").await;
    let mut todo = Todo::open(&brokers, 100);
    todo.publish([1]);
    // The second's queue has a name that ends like that of tasks without labels.
    for (number, value) in [(2, "true"), (3, ".todo")] {
        let specs = Specs::from([(ProjectId(1), asking_for("gpu", value).into())]);
        todo.broker.publish(dispatches([number]), &specs);
    }
    todo.until_told([1, 2, 3]).await;
    assert_eq!(todo.lost, BTreeSet::new());
    let (_connection, channel) = foreign(&node).await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("labels.todo.gpu=true".into(), passive, FieldTable::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_queue_is_noticed() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "purged").await;
    let mut todo = Todo::open(&brokers, 4);
    todo.publish(0..10);
    todo.until_delivered(0..4).await;
    let (_connection, channel) = foreign(&node).await;
    channel.queue_purge("purged.todo".into(), QueuePurgeOptions::default()).await.unwrap();
    todo.until_told(0..10).await;
    assert_eq!(todo.lost, (4..10).collect());
    todo.ack_all();
    todo.publish(20..24);
    todo.until("they are delivered", |todo| todo.delivered.len() == 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_made_anew() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "deleted").await;
    let mut todo = Todo::open(&brokers, 4);
    todo.publish(0..10);
    todo.until_delivered(0..4).await;
    let (_connection, channel) = foreign(&node).await;
    channel.queue_delete("deleted.todo".into(), QueueDeleteOptions::default()).await.unwrap();
    todo.until_told(0..10).await;
    todo.ack_all();
    todo.publish(20..24);
    // Those that are sent before it is there again come back.
    todo.until("they are told", |todo| todo.delivered.len() + todo.lost.len() == 14).await;
    todo.ack_all();
    // What is lost is published again under another number, as the core does it.
    for number in 30.. {
        todo.publish([number]);
        let is_there = |todo: &Todo| todo.delivered.contains(&dispatch(number));
        todo.until("it is told", |todo| is_there(todo) || todo.lost.contains(&number)).await;
        if is_there(&todo) {
            break;
        }
        assert!(number < 200, "the queue is not made anew");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_broker_closes_are_dialled_again() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "closed").await;
    let mut todo = Todo::open(&brokers, 4);
    todo.publish(0..20);
    todo.until_delivered(0..4).await;
    node.control(&["close_all_connections", "a test"]);
    // Those four come again, as nobody has acknowledged them, and are not told again.
    sleep(SILENCE).await;
    todo.ack_all();
    let told = |todo: &Todo| todo.delivered.len() + todo.lost.len();
    for _ in 0..20 {
        todo.until("more is told", |todo| told(todo) == 20 || todo.delivered.len() % 4 == 0).await;
        todo.ack_all();
        sleep(Duration::from_millis(50)).await;
    }
    todo.until_told(0..20).await;
    todo.until("there is no trouble", |todo| todo.brokers.trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_comes_back_with_what_it_had() {
    let Some(mut node) = node().await else { return };
    let brokers = rabbitmq(&node, "killed").await;
    let mut todo = Todo::open(&brokers, 4);
    todo.publish(0..50);
    todo.until_delivered(0..4).await;
    // What was confirmed is on its disk.
    sleep(SILENCE).await;
    node.kill();
    todo.until("the trouble is told", |todo| todo.brokers.trouble().is_some()).await;
    todo.publish(50..60);
    node.up();
    todo.broker.prefetch(100);
    todo.until_told(0..60).await;
    // Of those that were sent into the broken connection nobody knows.
    assert!(todo.lost.iter().all(|&number| number >= 50), "{:?}", todo.lost);
    todo.until("there is no trouble", |todo| todo.brokers.trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_is_waited_for() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "alarm").await;
    let mut todo = Todo::open(&brokers, 100);
    todo.publish([0]);
    todo.until_delivered([0]).await;
    node.control(&["set_vm_memory_high_watermark", "0.000001"]);
    todo.publish(1..20);
    todo.until("the trouble is told", |todo| todo.brokers.trouble().is_some()).await;
    assert!(brokers.trouble().unwrap().contains("memory"), "{:?}", brokers.trouble());
    node.control(&["set_vm_memory_high_watermark", "0.4"]);
    todo.until_delivered(0..20).await;
    todo.until("there is no trouble", |todo| todo.brokers.trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_share_a_vhost() {
    let Some(node) = node().await else { return };
    let [one, other] = [rabbitmq(&node, "one").await, rabbitmq(&node, "other").await];
    let (mut of_one, mut of_other) = (Todo::open(&one, 10), Todo::open(&other, 10));
    of_one.publish([1]);
    of_other.publish([2]);
    of_one.until_delivered([1]).await;
    of_other.until_delivered([2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_understood_is_kept_with_the_reason() {
    let Some(node) = node().await else { return };
    let brokers = rabbitmq(&node, "strange").await;
    let mut todo = Todo::open(&brokers, 10);
    let (_connection, channel) = foreign(&node).await;
    let publish = |payload: &'static [u8]| {
        let (queue, options) = ("strange.todo".into(), BasicPublishOptions::default());
        channel.basic_publish("".into(), queue, options, payload, BasicProperties::default())
    };
    publish(b"not a task").await.unwrap();
    publish(b"").await.unwrap();
    todo.publish([1]);
    todo.until_delivered([1]).await;
    let get = || async {
        loop {
            let got =
                channel.basic_get("strange.dead".into(), BasicGetOptions { no_ack: true }).await.unwrap();
            match got {
                Some(got) => break got,
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let first = timeout(PATIENCE, get()).await.unwrap();
    assert_eq!(first.data, b"not a task");
    let headers = first.properties.headers().clone().unwrap_or_default();
    for key in ["piecework-reason", "piecework-queue"] {
        assert!(headers.contains_key(key), "{headers:?}");
    }
    assert_eq!(timeout(PATIENCE, get()).await.unwrap().data, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_refuses_is_said_at_the_start() {
    let Some(node) = node().await else { return };
    let (_connection, channel) = foreign(&node).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("taken.todo".into(), durable, FieldTable::default()).await.unwrap();
    let error = RabbitMq::start(config(&node, "taken")).await.expect_err("a queue of another kind");
    let error = error.to_string();
    assert!(error.contains("taken.todo") && error.contains("x-queue-type"), "{error}");

    let url = node.url().replace(":guest@", ":s3cret@");
    let error = RabbitMq::start(RabbitMqConfig::new(&[url]).unwrap()).await.expect_err("a wrong password");
    let error = format!("{error} {error:?}");
    assert!(error.contains("ACCESS_REFUSED") && !error.contains("s3cret"), "{error}");

    let error = RabbitMq::start(RabbitMqConfig::new(&[format!("{}/nowhere", node.url())]).unwrap());
    let error = error.await.expect_err("no such vhost").to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_of_the_cluster_will_do() {
    let Some(node) = node().await else { return };
    let urls = ["amqp://guest:guest@127.0.0.1:1".to_owned(), node.url()];
    let config = RabbitMqConfig::new(&urls).unwrap().with_prefix("second").unwrap();
    let brokers = Brokers::RabbitMq(RabbitMq::start(config).await.unwrap());
    let mut todo = Todo::open(&brokers, 10);
    todo.publish([1]);
    todo.until_delivered([1]).await;
}
