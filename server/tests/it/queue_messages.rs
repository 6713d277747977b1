//! DONE and the inbox, as programs of others see them: over AMQP alone, at a real RabbitMQ.

use crate::{
    agent::{Agent, hello, report},
    bench::{Bench, check_refused, spec, within},
    broker::{config, foreign, node},
    open::open_spec,
    rabbitmq::Node,
    running::results,
};
use lapin::{
    BasicProperties, Channel, Connection,
    message::BasicGetMessage,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use piecework_proto::v1 as pb;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::sleep;
use tonic::Code;

/// How often a queue is looked into.
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn start(node: &Node, prefix: &str) -> Bench {
    let broker = config(node, prefix);
    Bench::start_with(|config| config.broker = Some(broker)).await
}

/// A program of others.
struct Foreign {
    _connection: Connection,
    channel: Channel,
    prefix: &'static str,
}

impl Foreign {
    async fn connect(node: &Node, prefix: &'static str) -> Self {
        let (connection, channel) = foreign(node).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel, prefix }
    }

    /// A queue of its own for what is recorded.
    async fn listen(&self, binding: &str) {
        let (queue, exchange) = (format!("{}-listener", self.prefix), format!("{}.done", self.prefix));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
        let options = QueueBindOptions::default();
        let bind = self.channel.queue_bind(
            queue.into(),
            exchange.into(),
            binding.into(),
            options,
            FieldTable::default(),
        );
        bind.await.unwrap();
    }

    async fn get(&self, queue: &str) -> Option<BasicGetMessage> {
        self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
    }

    /// The next message of DONE.
    async fn done(&self) -> (String, Value) {
        let queue = format!("{}-listener", self.prefix);
        let waiting = async {
            loop {
                match self.get(&queue).await {
                    Some(message) => break message,
                    None => sleep(LOOK_EVERY).await,
                }
            }
        };
        let message = within(waiting).await;
        let id = message.properties.message_id().as_ref().expect("an id").to_string();
        (id, serde_json::from_slice(&message.data).unwrap())
    }

    async fn send(&self, body: &[u8]) {
        let queue = format!("{}.inbox", self.prefix);
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = self.channel.basic_publish("".into(), queue.into(), options, body, properties).await;
        assert!(sent.unwrap().await.unwrap().is_ack());
    }

    async fn add(&self, project: &Value, keys: &[&str], end: bool) {
        let tasks: Vec<_> =
            keys.iter().map(|key| json!({"key": key, "item": format!("item {key}")})).collect();
        let body = json!({"version": 1, "project": project, "tasks": tasks, "end": end});
        self.send(body.to_string().as_bytes()).await;
    }
}

fn print(command: &[String]) -> Vec<u8> {
    format!("{}\n", command[1]).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_come_from_the_inbox_and_results_go_to_done() {
    let Some(node) = node().await else { return };
    let bench = start(&node, "both").await;
    let project = bench.submit_good(open_spec(0)).await;
    let foreign = Foreign::connect(&node, "both").await;
    foreign.listen("#").await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;

    foreign.add(&json!("test"), &["a"], false).await;
    foreign.add(&json!(project), &["b", "a"], false).await;
    agent.work(2, print).await;
    let (first, result) = foreign.done().await;
    assert_eq!(first, format!("{project}/task/0#1"));
    let ended = result["ended"].as_str().unwrap().to_owned();
    let expected = json!({
        "type": "result", "version": 1, "project": project, "project_name": "test", "generation": 1,
        "phase": "task", "index": 0, "key": "a", "attempt": 1, "agent": "host", "success": true,
        "outcome": {"kind": "exited", "code": 0}, "ended": ended,
        "usage": {"wall_micros": 1000, "user_micros": 0, "system_micros": 0, "peak_memory_bytes": 0},
        "stdout": {"length": 7, "text": "item a\n"}, "stderr": {"length": 12, "text": "a complaint\n"},
    });
    assert_eq!(result, expected);
    assert_eq!(foreign.done().await.1["key"], "b");

    foreign.add(&json!("test"), &["b", "c"], true).await;
    let assignment = agent.assigned(1).await.remove(0);
    agent.report(report(assignment.attempt.unwrap(), 3, b"\xff")).await;
    agent.settled(1).await;
    let (_, failed) = foreign.done().await;
    assert_eq!((&failed["success"], &failed["key"]), (&json!(false), &json!("c")));
    assert_eq!(failed["outcome"], json!({"kind": "exited", "code": 3}));
    assert_eq!(failed["stdout"], json!({"length": 1, "base64": "/w=="}));
    let (id, end) = foreign.done().await;
    assert_eq!(id, format!("{project}/end/1"));
    let counts = [&end["type"], &end["state"], &end["tasks"], &end["succeeded"], &end["failed"]];
    assert_eq!(counts, [&json!("project"), &json!("failed"), &json!(3), &json!(2), &json!(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_chooses_what_it_gets() {
    let Some(node) = node().await else { return };
    let bench = start(&node, "chosen").await;
    let foreign = Foreign::connect(&node, "chosen").await;
    foreign.listen("*.project.*").await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    for _ in 0..2 {
        bench.submit_good(spec(2)).await;
    }
    agent.work(4, print).await;
    for project in [1, 2] {
        let (_, end) = foreign.done().await;
        assert_eq!((&end["project"], &end["state"]), (&json!(project), &json!("succeeded")));
    }
}

/// Of what nobody hears most is not even sent; that must not keep anything from who comes later.
#[tokio::test(flavor = "multi_thread")]
async fn who_listens_late_gets_all_that_is_recorded_from_then_on() {
    const EACH: u16 = 20;
    let Some(node) = node().await else { return };
    let bench = start(&node, "late").await;
    let project = bench.submit_good(spec((3 * EACH).into())).await;
    let foreign = Foreign::connect(&node, "late").await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    for _ in 0..2 {
        agent.work(EACH.into(), print).await;
        // They are published, and it is known that nobody hears them.
        sleep(20 * LOOK_EVERY).await;
    }
    foreign.listen("#").await;
    agent.work(EACH.into(), print).await;
    let mut told = BTreeSet::new();
    while !told.contains(&format!("{project}/end/1")) {
        told.insert(foreign.done().await.0);
    }
    for index in 2 * EACH..3 * EACH {
        assert!(told.contains(&format!("{project}/task/{index}#1")), "{index} is missing: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_kept_with_the_reason_and_can_be_replayed() {
    let Some(node) = node().await else { return };
    let bench = start(&node, "refused").await;
    let foreign = Foreign::connect(&node, "refused").await;
    let project = bench.submit_good(open_spec(0)).await;
    bench.submit_good(spec(1)).await;
    foreign.send(b"not JSON").await;
    foreign.add(&json!("later"), &["a"], true).await;
    foreign.add(&json!(2), &["a"], false).await;
    // In the middle of what is taken together: the others are taken all the same.
    foreign.add(&json!(project), &["before"], false).await;
    foreign.add(&json!(project), &["bad\n"], false).await;
    foreign.add(&json!(project), &["after"], true).await;

    let letters = || async {
        let answer = within(bench.admin().list_dead_letters(pb::ListDeadLettersRequest::default())).await;
        answer.unwrap().into_inner().letters
    };
    let all = async {
        loop {
            let letters = letters().await;
            if letters.len() == 4 {
                break letters;
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let all = within(all).await;
    let reasons: Vec<_> = all.iter().map(|letter| letter.reason.as_str()).collect();
    for (part, letter) in [
        ("not of the documented shape", &all[0]),
        ("no project named \"later\"", &all[1]),
        ("takes no tasks", &all[2]),
        ("tasks[0].key", &all[3]),
    ] {
        assert!(letter.reason.contains(part), "{reasons:?}");
        assert_eq!(letter.queue, "refused.inbox");
        assert!(letter.refused_millis > 0 && letter.bytes > 0 && !letter.beginning.is_empty());
    }
    let ids: BTreeSet<_> = all.iter().map(|letter| letter.id.clone()).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(letters().await, all, "looking changes nothing");

    // Now there is such a project.
    let later = bench.submit_good(pb::ProjectSpec { name: "later".to_owned(), ..open_spec(0) }).await;
    let chosen = |ids: Vec<String>, all| pb::ChosenDeadLetters { ids, all };
    let replayed = within(bench.admin().replay_dead_letters(chosen(vec![all[1].id.clone()], false))).await;
    assert_eq!(replayed.unwrap().into_inner().count, 1);
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    // Of `spec(1)`, "before", "after" and "later".
    agent.work(4, print).await;
    assert_eq!(results(&bench, later, "").await.0, b"item a\n");
    assert_eq!(results(&bench, project, "").await.0, b"item before\nitem after\n");

    let dropped = within(bench.admin().drop_dead_letters(chosen(Vec::new(), true))).await;
    assert_eq!(dropped.unwrap().into_inner().count, 3);
    assert_eq!(letters().await, []);
    let refused = within(bench.admin().drop_dead_letters(chosen(Vec::new(), false))).await;
    check_refused(refused, Code::InvalidArgument, "name some");
    let embedded = Bench::start().await;
    let refused = within(embedded.admin().list_dead_letters(pb::ListDeadLettersRequest::default())).await;
    check_refused(refused, Code::FailedPrecondition, "no RabbitMQ");
}

/// The broker is changed twice while a project runs, and RabbitMQ is killed as well.
#[tokio::test(flavor = "multi_thread")]
async fn an_installation_changes_its_broker_and_loses_nothing() {
    let Some(mut node) = node().await else { return };
    let mut bench = Bench::start().await;
    let project = bench.submit_good(spec(40)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(5, print).await;
    drop(agent);

    let broker = config(&node, "switched");
    bench.restart_with(|config| config.broker = Some(broker.clone())).await;
    let foreign = Foreign::connect(&node, "switched").await;
    foreign.listen("*.task.*").await;
    let mut told = BTreeSet::new();
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(10, print).await;
    for _ in 0..10 {
        told.insert(foreign.done().await.0);
    }
    drop(foreign);
    drop(agent);

    // Without a broker nothing is told, and nothing forgotten.
    bench.restart().await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(10, print).await;
    drop(agent);
    node.kill();
    node.up();
    bench.restart_with(|config| config.broker = Some(broker)).await;
    let foreign = Foreign::connect(&node, "switched").await;
    foreign.listen("*.task.*").await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(15, print).await;
    let (bytes, end) = results(&bench, project, "").await;
    let expected: String = (1..=40).map(|item| format!("{item}\n")).collect();
    assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end.succeeded), (&*expected, 40));
    let more = async {
        while told.len() < 35 {
            told.insert(foreign.done().await.0);
        }
    };
    within(more).await;
    let attempts: BTreeSet<_> = told.iter().filter_map(|id| id.split('#').next()).collect();
    assert_eq!(attempts.len(), 35, "each task once: {told:?}");
}
