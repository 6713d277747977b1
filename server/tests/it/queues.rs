//! Queues: the same tests for both brokers. The RabbitMQ is a real one.

use crate::broker::{config, node};
use bytes::Bytes;
use piecework_server::{
    broker::rabbitmq::RabbitMqConfig,
    queues::{
        AckMode, DeleteIf, Message, Nack, NewMessage, QueueError, Queues, Receive, Received,
        limits::{BATCH_MAX, BODY_BYTES_MAX, Bounds},
    },
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// How long something may take that is to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long it is waited for what is not to come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// For as long as a test needs a message for itself.
pub(crate) const LONG: AckMode = AckMode::Manual { visibility: Duration::from_secs(300) };

/// An installation. Its queues can be closed and opened again.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) bounds: Bounds,
    pub(crate) broker: Option<RabbitMqConfig>,
}

impl Place {
    pub(crate) fn new(broker: Option<RabbitMqConfig>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), bounds: Bounds::default(), broker }
    }

    pub(crate) async fn open(&self) -> Queues {
        let path = self.dir.path().join("queues.db");
        Queues::open(&path, self.bounds, self.broker.clone()).await.expect("queues")
    }
}

pub(crate) fn messages(bodies: impl IntoIterator<Item = u32>) -> Vec<NewMessage> {
    let message = |body: u32| NewMessage { body: body.to_string().into(), ..NewMessage::default() };
    bodies.into_iter().map(message).collect()
}

pub(crate) fn body(message: &Message) -> u32 {
    std::str::from_utf8(&message.body).unwrap().parse().unwrap()
}

pub(crate) fn bodies(received: &[Received]) -> Vec<u32> {
    received.iter().map(|received| body(&received.message)).collect()
}

pub(crate) fn receipts(received: &[Received]) -> Vec<&str> {
    received.iter().map(|received| &*received.receipt).collect()
}

pub(crate) async fn receive(queues: &Queues, name: &str, max: usize, ack: AckMode) -> Vec<Received> {
    queues.receive(name, Receive { max, wait: Duration::ZERO, ack }).await.unwrap()
}

/// Waits for the first one.
pub(crate) async fn await_some(queues: &Queues, name: &str, max: usize, ack: AckMode) -> Vec<Received> {
    queues.receive(name, Receive { max, wait: PATIENCE, ack }).await.unwrap()
}

/// Until all have come: a call may bring fewer than it asks for.
pub(crate) async fn drain(queues: &Queues, name: &str, many: usize, ack: AckMode) -> Vec<Received> {
    let mut all = Vec::new();
    while all.len() < many {
        let some = await_some(queues, name, (many - all.len()).min(BATCH_MAX), ack).await;
        assert!(!some.is_empty(), "only {} of {many} have come", all.len());
        all.extend(some);
    }
    all
}

pub(crate) async fn ready(queues: &Queues, name: &str) -> (u64, u64) {
    let info = queues.get(name).await.unwrap();
    assert_eq!(info.trouble, None);
    (info.ready, info.unacked)
}

/// What is counted may be told a moment later.
pub(crate) async fn until_ready(queues: &Queues, name: &str, expected: (u64, u64)) {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = ready(queues, name).await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < until, "{name} has {found:?} instead of {expected:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What every broker does.
async fn check(place: &Place) {
    let queues = place.open().await;
    names(&queues).await;
    order_and_acks(&queues).await;
    contents(&queues).await;
    visibility(&queues).await;
    peeks(&queues).await;
    waits(&queues).await;
    purge_and_delete(&queues).await;
    wrong_requests(&queues).await;
    competing_receivers(&queues).await;
    drop(queues);
    restart(place).await;
}

async fn names(queues: &Queues) {
    let first = queues.create("names.b").await.unwrap();
    assert!(first.is_new && first.queue.created_millis > 0 && !first.queue.system);
    assert!(!queues.create("names.b").await.unwrap().is_new);
    for name in ["names.a", "names.c", "names.d"] {
        assert!(queues.create(name).await.unwrap().is_new);
    }
    let page = queues.list(Some("names."), 3).await.unwrap();
    let listed: Vec<_> = page.queues.iter().map(|queue| &*queue.name).collect();
    assert_eq!((listed, page.next.as_deref()), (vec!["names.a", "names.b", "names.c"], Some("names.c")));
    let page = queues.list(Some("names.c"), 3).await.unwrap();
    assert_eq!(page.queues[0].name, "names.d");
    assert!(matches!(queues.get("names.e").await, Err(QueueError::NotFound(name)) if name == "names.e"));
    for name in ["piecework.todo", "piecework.x"] {
        assert!(matches!(queues.create(name).await, Err(QueueError::System(_))));
        assert!(matches!(queues.send(name, messages([1])).await, Err(QueueError::System(_))));
        let receive = Receive { max: 1, wait: Duration::ZERO, ack: AckMode::Auto };
        assert!(matches!(queues.receive(name, receive).await, Err(QueueError::System(_))));
        let error = queues.purge(name).await.unwrap_err();
        assert!(error.to_string().contains("belongs to the system"), "{error}");
        assert!(matches!(queues.delete(name, DeleteIf::default()).await, Err(QueueError::System(_))));
    }
}

async fn order_and_acks(queues: &Queues) {
    let name = "order";
    queues.create(name).await.unwrap();
    let ids = queues.send(name, messages(0..10)).await.unwrap();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 10);
    queues.send(name, messages(10..12)).await.unwrap();
    until_ready(queues, name, (12, 0)).await;

    // Acknowledged as they are received.
    let auto = receive(queues, name, 3, AckMode::Auto).await;
    assert_eq!(bodies(&auto), [0, 1, 2]);
    assert_eq!(auto[1].message.id, ids[1]);
    assert!(auto.iter().all(|received| received.receipt.is_empty() && received.message.redeliveries == 0));

    // Held until they are acknowledged.
    let held = receive(queues, name, 4, LONG).await;
    assert_eq!(bodies(&held), [3, 4, 5, 6]);
    until_ready(queues, name, (5, 4)).await;
    assert_eq!(queues.ack(name, &receipts(&held)[..2]).await.unwrap(), 2);
    until_ready(queues, name, (5, 2)).await;

    // Given back, they come first.
    assert_eq!(queues.nack(name, &receipts(&held)[2..], Nack::Requeue).await.unwrap(), 2);
    until_ready(queues, name, (7, 0)).await;
    let again = drain(queues, name, 7, LONG).await;
    assert_eq!(bodies(&again), [5, 6, 7, 8, 9, 10, 11]);
    assert!(again[0].message.redeliveries > 0 && again[2].message.redeliveries == 0);

    // A receipt is of use once.
    let unknown = queues.ack(name, &[&held[2].receipt, &again[0].receipt, "nonsense"]).await.unwrap_err();
    match unknown {
        QueueError::UnknownReceipt { unknown, settled } => {
            assert_eq!(settled, 1);
            assert_eq!(unknown, ["nonsense", &held[2].receipt]);
        }
        other => panic!("{other}"),
    }
    assert_eq!(queues.ack(name, &receipts(&again[1..])).await.unwrap(), 6);
    until_ready(queues, name, (0, 0)).await;
    assert_eq!(receive(queues, name, 1, LONG).await, []);
    let info = queues.get(name).await.unwrap();
    assert!(info.in_per_sec > 0.1 && info.out_per_sec > 0.1, "{info:?}");
}

async fn contents(queues: &Queues) {
    let name = "contents";
    queues.create(name).await.unwrap();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let sent = [
        NewMessage {
            body: all_bytes.into(),
            content_type: "application/octet-stream".to_owned(),
            headers: [("a", "1"), ("ü", "\n\0 text")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        },
        NewMessage::default(),
        NewMessage { body: vec![7; BODY_BYTES_MAX].into(), ..NewMessage::default() },
    ];
    queues.send(name, sent.to_vec()).await.unwrap();
    let received = drain(queues, name, 3, AckMode::Auto).await;
    for (received, sent) in received.iter().zip(&sent) {
        let Message { body, content_type, headers, sent_millis, .. } = &received.message;
        assert_eq!((body, content_type, headers), (&sent.body, &sent.content_type, &sent.headers));
        assert!(*sent_millis > 1_700_000_000_000, "{sent_millis}");
    }
}

async fn visibility(queues: &Queues) {
    let name = "visibility";
    queues.create(name).await.unwrap();
    queues.send(name, messages(0..3)).await.unwrap();
    let short = AckMode::Manual { visibility: Duration::from_millis(500) };
    let held = drain(queues, name, 3, short).await;
    queues.nack(name, &receipts(&held)[..1], Nack::Extend(Duration::from_secs(300))).await.unwrap();
    // The other two come back by themselves, and wake who waits.
    let again = drain(queues, name, 2, LONG).await;
    assert_eq!(bodies(&again), [1, 2]);
    assert!(again.iter().all(|received| received.message.redeliveries > 0));
    let late = queues.ack(name, &receipts(&held)).await.unwrap_err();
    assert!(
        matches!(late, QueueError::UnknownReceipt { settled: 1, ref unknown } if unknown.len() == 2),
        "{late}"
    );
    assert_eq!(queues.ack(name, &receipts(&again)).await.unwrap(), 2);
    until_ready(queues, name, (0, 0)).await;
}

async fn peeks(queues: &Queues) {
    let name = "peeks";
    queues.create(name).await.unwrap();
    assert_eq!(queues.peek(name, 10).await.unwrap(), []);
    queues.send(name, messages(0..20)).await.unwrap();
    for max in [5, 20, 100] {
        let shown: Vec<_> = queues.peek(name, max).await.unwrap().iter().map(body).collect();
        let expected = u32::try_from(max.min(20)).unwrap();
        assert_eq!(shown, (0..expected).collect::<Vec<_>>());
        until_ready(queues, name, (20, 0)).await;
    }
    assert_eq!(bodies(&drain(queues, name, 20, AckMode::Auto).await), (0..20).collect::<Vec<_>>());
}

async fn waits(queues: &Queues) {
    let name = "waits";
    queues.create(name).await.unwrap();
    let start = Instant::now();
    let wait = Receive { max: 1, wait: SILENCE, ack: LONG };
    assert_eq!(queues.receive(name, wait).await.unwrap(), []);
    assert!(start.elapsed() >= SILENCE);
    let waiting = tokio::spawn({
        let queues = queues.clone();
        async move { await_some(&queues, name, 10, LONG).await }
    });
    let until = Instant::now() + PATIENCE;
    while queues.get(name).await.unwrap().consumers == 0 {
        assert!(Instant::now() < until, "nobody is counted as waiting");
        sleep(Duration::from_millis(20)).await;
    }
    queues.send(name, messages([1])).await.unwrap();
    let came = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(bodies(&came), [1]);
    queues.ack(name, &receipts(&came)).await.unwrap();

    // Who has gone takes nothing along.
    let gone = tokio::spawn({
        let queues = queues.clone();
        async move { await_some(&queues, name, 10, AckMode::Auto).await }
    });
    sleep(SILENCE).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    queues.send(name, messages([2])).await.unwrap();
    assert_eq!(bodies(&await_some(queues, name, 1, AckMode::Auto).await), [2]);
}

async fn purge_and_delete(queues: &Queues) {
    let name = "purged";
    queues.create(name).await.unwrap();
    queues.send(name, messages(0..50)).await.unwrap();
    let held = drain(queues, name, 2, LONG).await;
    queues.nack(name, &receipts(&held)[1..], Nack::Requeue).await.unwrap();
    until_ready(queues, name, (49, 1)).await;
    let (empty, unused) = (DeleteIf { empty: true, unused: false }, DeleteIf { empty: false, unused: true });
    assert!(matches!(queues.delete(name, empty).await, Err(QueueError::Precondition(_))));
    assert!(matches!(queues.delete(name, unused).await, Err(QueueError::Precondition(_))));
    assert_eq!(queues.purge(name).await.unwrap(), 49);
    until_ready(queues, name, (0, 1)).await;
    assert_eq!(queues.purge(name).await.unwrap(), 0);
    assert_eq!(queues.ack(name, &receipts(&held)[..1]).await.unwrap(), 1);
    until_ready(queues, name, (0, 0)).await;
    // Whoever fetched them may have been a consumer, for a moment.
    while queues.get(name).await.unwrap().consumers > 0 {
        sleep(SILENCE).await;
    }
    assert_eq!(queues.delete(name, DeleteIf { empty: true, unused: true }).await.unwrap(), 0);
    assert!(matches!(queues.get(name).await, Err(QueueError::NotFound(_))));
    assert!(matches!(queues.send(name, messages([1])).await, Err(QueueError::NotFound(_))));
    assert!(matches!(queues.delete(name, DeleteIf::default()).await, Err(QueueError::NotFound(_))));

    // One of the same name knows nothing of it.
    queues.create(name).await.unwrap();
    queues.send(name, messages(0..3)).await.unwrap();
    let held = drain(queues, name, 1, LONG).await;
    assert_eq!(queues.delete(name, DeleteIf::default()).await.unwrap(), 3);
    assert!(queues.create(name).await.unwrap().is_new);
    assert_eq!(ready(queues, name).await, (0, 0));
    let error = queues.ack(name, &receipts(&held)).await.unwrap_err();
    assert!(matches!(error, QueueError::UnknownReceipt { settled: 0, .. }), "{error}");
}

async fn wrong_requests(queues: &Queues) {
    let name = "wrong";
    queues.create(name).await.unwrap();
    let invalid = |error: QueueError| match error {
        QueueError::Invalid { field, .. } => field,
        other => panic!("{other}"),
    };
    for wrong in ["", ".a", "a b", "a/b", &"x".repeat(129)] {
        assert_eq!(invalid(queues.create(wrong).await.unwrap_err()), "name");
    }
    let long = NewMessage { body: Bytes::from(vec![0; BODY_BYTES_MAX + 1]), ..NewMessage::default() };
    let many = NewMessage {
        headers: (0..33).map(|n| (n.to_string(), String::new())).collect(),
        ..NewMessage::default()
    };
    let all_large = vec![NewMessage { body: vec![0; 900_000].into(), ..NewMessage::default() }; 5];
    for (sent, field) in [
        (vec![], "messages"),
        (messages(0..1001), "messages"),
        (all_large, "messages"),
        (vec![NewMessage::default(), long], "messages[1].body"),
        (vec![many], "messages[0].headers"),
    ] {
        assert_eq!(invalid(queues.send(name, sent).await.unwrap_err()), field);
    }
    let receive = |max, wait, millis| {
        let ack = AckMode::Manual { visibility: Duration::from_millis(millis) };
        queues.receive(name, Receive { max, wait: Duration::from_secs(wait), ack })
    };
    assert_eq!(invalid(receive(0, 0, 1000).await.unwrap_err()), "max");
    assert_eq!(invalid(receive(1001, 0, 1000).await.unwrap_err()), "max");
    assert_eq!(invalid(receive(1, 61, 1000).await.unwrap_err()), "wait");
    assert_eq!(invalid(receive(1, 0, 1).await.unwrap_err()), "visibility");
    assert_eq!(invalid(queues.ack::<&str>(name, &[]).await.unwrap_err()), "receipts");
    assert_eq!(ready(queues, name).await, (0, 0));
}

/// Several take from one queue; each message is one's alone.
async fn competing_receivers(queues: &Queues) {
    const ALL: u32 = 2000;
    let name = "competing";
    queues.create(name).await.unwrap();
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let queues = queues.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let wait = Receive { max: 50, wait: Duration::from_secs(3), ack: LONG };
                    let some = queues.receive(name, wait).await.unwrap();
                    if some.is_empty() {
                        return mine;
                    }
                    queues.ack(name, &receipts(&some)).await.unwrap();
                    mine.extend(bodies(&some));
                }
            })
        })
        .collect();
    for first in (0..ALL).step_by(100) {
        queues.send(name, messages(first..first + 100)).await.unwrap();
    }
    let mut all = Vec::new();
    for receiver in receivers {
        let mine = timeout(2 * PATIENCE, receiver).await.unwrap().unwrap();
        assert!(mine.is_sorted(), "out of order");
        all.extend(mine);
    }
    all.sort_unstable();
    assert_eq!(all, (0..ALL).collect::<Vec<_>>());
}

/// What was answered survives, and what was not acknowledged waits again.
async fn restart(place: &Place) {
    let name = "restarted";
    let queues = place.open().await;
    queues.create(name).await.unwrap();
    queues.send(name, messages(0..10)).await.unwrap();
    let held = drain(&queues, name, 4, LONG).await;
    queues.ack(name, &receipts(&held)[..2]).await.unwrap();
    drop(queues);

    let queues = place.open().await;
    until_ready(&queues, name, (8, 0)).await;
    let late = queues.ack(name, &receipts(&held)[2..]).await.unwrap_err();
    assert!(matches!(late, QueueError::UnknownReceipt { settled: 0, .. }), "{late}");
    assert_eq!(bodies(&drain(&queues, name, 8, AckMode::Auto).await), (2..10).collect::<Vec<_>>());
    let listed = queues.list(None, 1000).await.unwrap();
    assert!(listed.queues.iter().any(|queue| queue.name == "names.a"));
}

/// With bounds that are small enough to meet them.
async fn check_bounds(mut place: Place) {
    place.bounds = Bounds { queues_max: 2, queue_messages_max: 5, held_max: 3, waits_max: 1, ..place.bounds };
    let queues = place.open().await;
    queues.create("bound").await.unwrap();
    queues.create("bound2").await.unwrap();
    assert!(matches!(queues.create("bound3").await, Err(QueueError::TooMany(_))));
    queues.send("bound", messages(0..4)).await.unwrap();
    until_ready(&queues, "bound", (4, 0)).await;
    let full = queues.send("bound", messages(4..6)).await.unwrap_err();
    assert!(matches!(full, QueueError::Full { .. }) && full.to_string().contains("full"), "{full}");
    queues.send("bound", messages(4..5)).await.unwrap();
    let held = drain(&queues, "bound", 3, LONG).await;
    let ask = Receive { max: 1, wait: Duration::ZERO, ack: LONG };
    assert!(matches!(queues.receive("bound", ask).await, Err(QueueError::TooMany(_))));
    queues.ack("bound", &receipts(&held)).await.unwrap();
    assert_eq!(bodies(&drain(&queues, "bound", 2, AckMode::Auto).await), [3, 4]);
    let waiting = tokio::spawn({
        let queues = queues.clone();
        async move { await_some(&queues, "bound2", 1, LONG).await }
    });
    sleep(SILENCE).await;
    let wait = Receive { max: 1, wait: SILENCE, ack: LONG };
    assert!(matches!(queues.receive("bound2", wait).await, Err(QueueError::TooMany(_))));
    waiting.abort();
}

#[tokio::test]
async fn the_embedded_broker_does_what_every_broker_does() {
    check(&Place::new(None)).await;
    check_bounds(Place::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_does_what_every_broker_does() {
    let Some(node) = node().await else { return };
    // The system's names are those that begin with the prefix.
    let broker = || Some(config(&node, "piecework"));
    check(&Place::new(broker())).await;
    check_bounds(Place::new(broker())).await;
}
