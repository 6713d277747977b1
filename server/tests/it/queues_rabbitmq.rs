//! What only a RabbitMQ can do to queues, or an operator or another program in it; and how messages move there.

use crate::{
    broker::{config, foreign, node},
    queues::{
        LONG, PATIENCE, Place, await_some, bodies, body, drain, messages, ready, receipts, receive,
        until_ready,
    },
    rabbitmq::Node,
};
use lapin::{
    BasicProperties, Channel,
    options::{
        BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use piecework_server::queues::{AckMode, DeleteIf, NewMessage, QueueError, Queues, limits::BATCH_BYTES_MAX};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long RabbitMQ 3.10 takes to remember that there is a quorum queue. Killed before, it starts it anew, and empty; what was
/// confirmed does not help.
const REMEMBERED: Duration = Duration::from_secs(5);

fn place(node: &Node, prefix: &str) -> Place {
    Place::new(Some(config(node, prefix)))
}

/// Publishes as any AMQP client may.
async fn publish(channel: &Channel, queue: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap().await.unwrap();
}

/// Until RabbitMQ can be used again.
async fn until_well(queues: &Queues, name: &str) {
    let until = Instant::now() + PATIENCE;
    while let Some(trouble) = queues.get(name).await.unwrap().trouble {
        assert!(Instant::now() < until, "{trouble}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rabbitmq_that_is_killed_comes_back_with_what_was_confirmed() {
    let Some(mut node) = node().await else { return };
    let queues = place(&node, "q-killed").open().await;
    queues.create("jobs").await.unwrap();
    queues.send("jobs", messages(0..50)).await.unwrap();
    let held = drain(&queues, "jobs", 10, LONG).await;
    queues.ack("jobs", &receipts(&held)[..5]).await.unwrap();
    sleep(REMEMBERED).await;
    node.kill();
    let error = queues.send("jobs", messages([99])).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    let info = queues.get("jobs").await.unwrap();
    assert!(info.trouble.is_some_and(|trouble| trouble.contains("RabbitMQ")));
    // It is listed all the same.
    assert_eq!(queues.list(None, 10).await.unwrap().queues.len(), 1);
    node.up();
    until_well(&queues, "jobs").await;
    let late = queues.ack("jobs", &receipts(&held)[5..]).await.unwrap_err();
    assert!(matches!(late, QueueError::UnknownReceipt { settled: 0, .. }), "{late}");
    let mut all = bodies(&drain(&queues, "jobs", 45, AckMode::Auto).await);
    all.sort_unstable();
    assert_eq!(all, (5..50).collect::<Vec<_>>());
    assert_eq!(ready(&queues, "jobs").await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_does_in_rabbitmq_is_coped_with() {
    let Some(node) = node().await else { return };
    let queues = place(&node, "q-operator").open().await;
    let (_connection, channel) = foreign(&node).await;
    let queue = "q-operator.queue.jobs";
    queues.create("jobs").await.unwrap();
    queues.send("jobs", messages(0..10)).await.unwrap();

    // Purged.
    channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
    until_ready(&queues, "jobs", (0, 0)).await;

    // Deleted, with messages that are held.
    queues.send("jobs", messages(0..10)).await.unwrap();
    let held = drain(&queues, "jobs", 2, LONG).await;
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    queues.send("jobs", messages([10])).await.unwrap();
    // RabbitMQ knows nothing of them any more, and says nothing of that.
    let _ = queues.ack("jobs", &receipts(&held)).await;
    assert_eq!(bodies(&await_some(&queues, "jobs", 5, AckMode::Auto).await), [10]);
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(receive(&queues, "jobs", 1, LONG).await, []);
    assert_eq!(queues.peek("jobs", 1).await.unwrap(), []);
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(queues.peek("jobs", 1).await.unwrap(), []);
    assert_eq!(queues.purge("jobs").await.unwrap(), 0);
    assert_eq!(queues.delete("jobs", DeleteIf::default()).await.unwrap(), 0);

    // Deleted while somebody waits.
    queues.create("waiting").await.unwrap();
    let waiting = tokio::spawn({
        let queues = queues.clone();
        async move { await_some(&queues, "waiting", 1, LONG).await }
    });
    while queues.get("waiting").await.unwrap().consumers == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    channel.queue_delete("q-operator.queue.waiting".into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), []);

    // All connections closed.
    queues.send("waiting", messages(0..3)).await.unwrap();
    let held = drain(&queues, "waiting", 3, LONG).await;
    node.control(&["close_all_connections", "a test"]);
    sleep(Duration::from_millis(300)).await;
    until_well(&queues, "waiting").await;
    let late = queues.ack("waiting", &receipts(&held)).await.unwrap_err();
    assert!(matches!(late, QueueError::UnknownReceipt { settled: 0, .. }), "{late}");
    let mut again = bodies(&drain(&queues, "waiting", 3, AckMode::Auto).await);
    again.sort_unstable();
    assert_eq!(again, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_kind_is_refused_with_the_reason() {
    let Some(node) = node().await else { return };
    let queues = place(&node, "q-kind").open().await;
    let (_connection, channel) = foreign(&node).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("q-kind.queue.jobs".into(), durable, FieldTable::default()).await.unwrap();
    let error = queues.create("jobs").await.unwrap_err();
    assert!(matches!(&error, QueueError::Precondition(why) if why.contains("x-queue-type")), "{error}");
    assert!(matches!(queues.get("jobs").await, Err(QueueError::NotFound(_))));
    // Others are not disturbed by that.
    queues.create("other").await.unwrap();
    queues.send("other", messages([1])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_programs_may_look_like_anything() {
    let Some(node) = node().await else { return };
    let queues = place(&node, "q-foreign").open().await;
    let (_connection, channel) = foreign(&node).await;
    let queue = "q-foreign.queue.jobs";
    queues.create("jobs").await.unwrap();
    publish(&channel, queue, b"\xff\x00\xfe", BasicProperties::default()).await;
    let mut headers = FieldTable::default();
    headers.insert("text".into(), AMQPValue::LongString("a".into()));
    headers.insert("bytes".into(), AMQPValue::LongString(b"\xff".to_vec().into()));
    headers.insert("number".into(), AMQPValue::LongInt(-7));
    headers.insert("is".into(), AMQPValue::Boolean(true));
    headers.insert("nothing".into(), AMQPValue::Void);
    headers.insert("table".into(), AMQPValue::FieldTable(FieldTable::default()));
    headers.insert("x-piecework-sent-millis".into(), AMQPValue::LongString("never".into()));
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_message_id("theirs".into())
        .with_timestamp(u64::MAX)
        .with_content_type("text/plain".into());
    publish(&channel, queue, b"", properties).await;
    // Larger than any of ours, and larger than any answer.
    publish(&channel, queue, &vec![1; 2_000_000], BasicProperties::default()).await;
    publish(&channel, queue, &vec![2; BATCH_BYTES_MAX + 1], BasicProperties::default()).await;
    publish(&channel, queue, b"last", BasicProperties::default()).await;

    let shown = queues.peek("jobs", 10).await.unwrap();
    assert_eq!(shown[0].body, &b"\xff\x00\xfe"[..]);
    let received = drain(&queues, "jobs", 4, AckMode::Auto).await;
    let [plain, full, large, last] = &received[..] else { panic!("{}", received.len()) };
    assert_eq!((plain.message.id.as_str(), plain.message.sent_millis), ("", 0));
    assert_eq!(plain.message.body, &b"\xff\x00\xfe"[..]);
    assert_eq!((full.message.id.as_str(), full.message.content_type.as_str()), ("theirs", "text/plain"));
    let headers: Vec<_> = full.message.headers.iter().map(|(key, value)| (&**key, &**value)).collect();
    let expected = [
        ("bytes", "\u{fffd}"),
        ("is", "true"),
        ("number", "-7"),
        ("text", "a"),
        ("x-piecework-sent-millis", "never"),
    ];
    assert_eq!(headers, expected);
    assert_eq!((large.message.body.len(), &large.message.body[..2]), (2_000_000, &[1, 1][..]));
    assert_eq!(last.message.body, &b"last"[..]);
    // What nobody could be given is kept for an operator.
    let dead = queues.peek("q-foreign.dead", 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].body[0]), (1, 2));
    assert!(dead[0].headers["piecework-reason"].contains("bytes"), "{:?}", dead[0].headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_s_queues_are_listed_and_shown() {
    let Some(node) = node().await else { return };
    let queues = place(&node, "q-system").open().await;
    let (_connection, channel) = foreign(&node).await;
    for name in ["q-system.todo", "q-system.dead", "q-system.todo.gpu=true"] {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), durable, FieldTable::default()).await.unwrap();
        publish(&channel, name, name.as_bytes(), BasicProperties::default()).await;
    }
    queues.create("mine").await.unwrap();
    let listed = queues.list(None, 10).await.unwrap().queues;
    let listed: Vec<_> = listed.iter().map(|queue| (&*queue.name, queue.system, queue.ready)).collect();
    assert_eq!(listed, [("mine", false, 0), ("q-system.dead", true, 1), ("q-system.todo", true, 1)]);
    assert!(queues.get("q-system.todo").await.unwrap().system);
    for name in ["q-system.todo", "q-system.todo.gpu=true"] {
        for _ in 0..2 {
            let shown = queues.peek(name, 10).await.unwrap();
            assert_eq!(shown.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [name.as_bytes()]);
        }
        assert!(matches!(queues.purge(name).await, Err(QueueError::System(_))));
        assert!(matches!(queues.delete(name, DeleteIf::default()).await, Err(QueueError::System(_))));
    }
    assert!(matches!(queues.peek("q-system.none", 1).await, Err(QueueError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_other_programs_are_counted() {
    let Some(node) = node().await else { return };
    let queues = place(&node, "q-consumers").open().await;
    let (_connection, channel) = foreign(&node).await;
    queues.create("jobs").await.unwrap();
    let (queue, options) = ("q-consumers.queue.jobs".into(), BasicConsumeOptions::default());
    let _consumer =
        channel.basic_consume(queue, "theirs".into(), options, FieldTable::default()).await.unwrap();
    assert_eq!(queues.get("jobs").await.unwrap().consumers, 1);
    let error = queues.delete("jobs", DeleteIf { empty: false, unused: true }).await.unwrap_err();
    assert!(matches!(&error, QueueError::Precondition(why) if why.contains("in use")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_is_told_to_who_sends() {
    let Some(node) = node().await else { return };
    let queues = place(&node, "q-alarm").open().await;
    queues.create("jobs").await.unwrap();
    queues.send("jobs", messages([0])).await.unwrap();
    node.control(&["set_vm_memory_high_watermark", "0.000001"]);
    // RabbitMQ says so when it is sent something, which it may or may not take.
    let until = Instant::now() + PATIENCE;
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(2), queues.send("jobs", messages([1]))).await {
            Ok(Err(error)) => break error,
            _ => assert!(Instant::now() < until, "nobody is told"),
        }
    };
    assert!(error.to_string().contains("lacks memory or disk"), "{error}");
    // Those who receive are not held up.
    assert_eq!(bodies(&receive(&queues, "jobs", 1, AckMode::Auto).await), [0]);
    node.control(&["set_vm_memory_high_watermark", "0.4"]);
    let until = Instant::now() + PATIENCE;
    while queues.send("jobs", messages([2])).await.is_err() {
        assert!(Instant::now() < until, "it is not well again");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_move_to_rabbitmq_and_a_way_back_is_not_pretended() {
    let Some(node) = node().await else { return };
    let mut place = Place::new(None);
    let queues = place.open().await;
    queues.create("jobs").await.unwrap();
    queues.create("empty").await.unwrap();
    let large = (0..6)
        .map(|_| NewMessage { body: vec![9; 900_000].into(), ..NewMessage::default() })
        .collect::<Vec<_>>();
    queues.create("large").await.unwrap();
    for large in large.chunks(3) {
        queues.send("large", large.to_vec()).await.unwrap();
    }
    let ids = queues.send("jobs", messages(0..700)).await.unwrap();
    let held = drain(&queues, "jobs", 3, LONG).await;
    queues.ack("jobs", &receipts(&held)[..1]).await.unwrap();
    drop(queues);

    place.broker = Some(config(&node, "q-moved"));
    let queues = place.open().await;
    until_well(&queues, "jobs").await;
    until_well(&queues, "large").await;
    until_ready(&queues, "jobs", (699, 0)).await;
    until_ready(&queues, "large", (6, 0)).await;
    let first = drain(&queues, "jobs", 100, AckMode::Auto).await;
    assert_eq!(bodies(&first), (1..101).collect::<Vec<_>>());
    assert_eq!(first[0].message.id, ids[1]);
    queues.send("jobs", messages([700])).await.unwrap();
    queues.create("made-there").await.unwrap();
    drop(queues);

    // Without it, they are there, and say where their messages are.
    let broker = place.broker.take();
    let queues = place.open().await;
    let listed = queues.list(None, 10).await.unwrap().queues;
    assert_eq!(listed.len(), 4);
    assert!(listed.iter().all(|queue| queue.trouble.as_ref().is_some_and(|why| why.contains("--broker"))));
    for error in [
        queues.send("jobs", messages([1])).await.unwrap_err(),
        queues.purge("jobs").await.unwrap_err(),
        queues.delete("jobs", DeleteIf::default()).await.unwrap_err(),
        queues.create("jobs").await.unwrap_err(),
    ] {
        assert!(matches!(&error, QueueError::Precondition(why) if why.contains("in RabbitMQ")), "{error}");
    }
    queues.create("here").await.unwrap();
    queues.send("here", messages([5])).await.unwrap();
    drop(queues);

    place.broker = broker;
    let queues = place.open().await;
    until_well(&queues, "here").await;
    assert_eq!(bodies(&drain(&queues, "here", 1, AckMode::Auto).await), [5]);
    assert_eq!(bodies(&drain(&queues, "jobs", 600, AckMode::Auto).await), (101..=700).collect::<Vec<_>>());
    assert_eq!(queues.peek("jobs", 1).await.unwrap().iter().map(body).collect::<Vec<_>>(), [0_u32; 0]);
}
