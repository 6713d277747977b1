//! Queues over gRPC: what is asked for reaches them, and what is wrong has the fitting code and names its field.

use crate::bench::{Bench, check_refused, within};
use piecework_proto::v1::{self as pb, queues_client::QueuesClient};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn message(body: &'static str) -> pb::NewMessage {
    pb::NewMessage { body: body.into(), content_type: "text/plain".to_owned(), ..pb::NewMessage::default() }
}

#[tokio::test]
async fn messages_go_through_a_queue() {
    let bench = Bench::start().await;
    let mut client = QueuesClient::new(bench.channel.clone());
    let named = || pb::CreateQueueRequest { name: "jobs".to_owned() };
    assert!(within(client.create(named())).await.unwrap().into_inner().is_new);
    assert!(!within(client.create(named())).await.unwrap().into_inner().is_new);
    let queue = || "jobs".to_owned();

    let send = pb::SendRequest { queue: queue(), messages: ["a", "b", "c"].map(message).into() };
    let ids = within(client.send(send)).await.unwrap().into_inner().ids;
    // 0 asks for one, for half a minute.
    let ask = || pb::ReceiveRequest { queue: queue(), ..pb::ReceiveRequest::default() };
    let mut received = within(client.receive(ask())).await.unwrap().into_inner().messages;
    let first = received.pop().unwrap();
    let shown = first.message.unwrap();
    assert_eq!((&*shown.id, &shown.body[..], &*shown.content_type), (&*ids[0], &b"a"[..], "text/plain"));
    let peek = pb::PeekRequest { queue: queue(), max: 10 };
    assert_eq!(within(client.peek(peek)).await.unwrap().into_inner().messages.len(), 2);
    let info = within(client.get(pb::GetQueueRequest { name: queue() })).await.unwrap().into_inner();
    assert_eq!((info.ready, info.unacked, info.system, &*info.trouble), (2, 1, false, ""));

    let extend =
        pb::NackRequest { queue: queue(), receipts: vec![first.receipt.clone()], extend_millis: 60_000 };
    assert_eq!(within(client.nack(extend)).await.unwrap().into_inner().settled, 1);
    let ack = || pb::AckRequest { queue: queue(), receipts: vec![first.receipt.clone(), "x".to_owned()] };
    let acked = within(client.ack(ack())).await.unwrap().into_inner();
    assert_eq!((acked.settled, acked.unknown), (1, vec!["x".to_owned()]));
    assert_eq!(within(client.ack(ack())).await.unwrap().into_inner().unknown.len(), 2);

    let auto = pb::ReceiveRequest { max: 10, ack: pb::AckMode::Auto.into(), ..ask() };
    let received = within(client.receive(auto)).await.unwrap().into_inner().messages;
    assert!(received.len() == 2 && received.iter().all(|received| received.receipt.is_empty()));
    let send = pb::SendRequest { queue: queue(), messages: vec![message("d")] };
    within(client.send(send)).await.unwrap();
    let delete = |if_empty| pb::DeleteQueueRequest { name: queue(), if_empty, if_unused: false };
    check_refused(within(client.delete(delete(true))).await, Code::FailedPrecondition, "not empty");
    let purge = pb::PurgeRequest { name: queue() };
    assert_eq!(within(client.purge(purge)).await.unwrap().into_inner().removed, 1);
    assert_eq!(within(client.delete(delete(true))).await.unwrap().into_inner().removed, 0);
}

#[tokio::test]
async fn queues_are_listed_in_pages() {
    let bench = Bench::start().await;
    let mut client = QueuesClient::new(bench.channel.clone());
    for name in ["c", "a", "b"] {
        within(client.create(pb::CreateQueueRequest { name: name.to_owned() })).await.unwrap();
    }
    let mut list = async |after: &str| {
        let request = pb::ListQueuesRequest { limit: 2, after: after.to_owned() };
        let page = within(client.list(request)).await.unwrap().into_inner();
        (page.queues.into_iter().map(|queue| queue.name).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(list("").await, (vec!["a".to_owned(), "b".to_owned()], "b".to_owned()));
    assert_eq!(list("b").await, (vec!["c".to_owned()], String::new()));
}

fn field(status: &Status) -> String {
    status.get_details_bad_request().unwrap().field_violations[0].field.clone()
}

#[tokio::test]
async fn what_is_wrong_names_its_field() {
    let bench = Bench::start().await;
    let mut client = QueuesClient::new(bench.channel.clone());
    let name = || "jobs".to_owned();
    let status = within(client.create(pb::CreateQueueRequest { name: "a b".to_owned() })).await.unwrap_err();
    assert_eq!((status.code(), &*field(&status)), (Code::InvalidArgument, "name"));
    let missing = within(client.purge(pb::PurgeRequest { name: name() })).await;
    check_refused(missing, Code::NotFound, "no queue `jobs`");
    let system = within(client.purge(pb::PurgeRequest { name: "piecework.todo".to_owned() })).await;
    check_refused(system, Code::PermissionDenied, "belongs to the system");

    within(client.create(pb::CreateQueueRequest { name: name() })).await.unwrap();
    let receive = pb::ReceiveRequest { queue: name(), ..pb::ReceiveRequest::default() };
    for (request, expected) in [
        (pb::ReceiveRequest { queue: "a b".to_owned(), ..receive.clone() }, "queue"),
        (pb::ReceiveRequest { max: 1001, ..receive.clone() }, "max"),
        (pb::ReceiveRequest { wait_millis: 60_001, ..receive.clone() }, "wait_millis"),
        (pb::ReceiveRequest { visibility_millis: 99, ..receive.clone() }, "visibility_millis"),
        (pb::ReceiveRequest { ack: 7, ..receive.clone() }, "ack"),
    ] {
        let status = within(client.receive(request)).await.unwrap_err();
        assert_eq!((status.code(), &*field(&status)), (Code::InvalidArgument, expected));
    }
    let nack = pb::NackRequest { queue: name(), receipts: vec!["x".to_owned()], extend_millis: 1_200_001 };
    assert_eq!(field(&within(client.nack(nack)).await.unwrap_err()), "extend_millis");
    let long = pb::NewMessage { content_type: "x".repeat(256), ..message("") };
    let send = pb::SendRequest { queue: name(), messages: vec![message("a"), long] };
    assert_eq!(field(&within(client.send(send)).await.unwrap_err()), "messages[1].content_type");
}

#[tokio::test]
async fn a_full_answer_fits_into_a_message() {
    let bench = Bench::start().await;
    let mut client = QueuesClient::new(bench.channel.clone());
    let queue = || "full".to_owned();
    within(client.create(pb::CreateQueueRequest { name: queue() })).await.unwrap();
    // As many bytes and headers as may be sent at once.
    let headers = (0..32).map(|n| (format!("{n:0>128}"), "v".repeat(80))).collect();
    let one = pb::NewMessage { body: vec![7; 16_000].into(), headers, ..pb::NewMessage::default() };
    let send = pb::SendRequest { queue: queue(), messages: vec![one; 170] };
    within(client.send(send)).await.unwrap();
    let receive = pb::ReceiveRequest { queue: queue(), max: 1000, ..pb::ReceiveRequest::default() };
    let received = within(client.receive(receive)).await.unwrap().into_inner().messages;
    assert!(received.len() > 150, "{}", received.len());
    let small = vec![pb::NewMessage::default(); 1000];
    within(client.send(pb::SendRequest { queue: queue(), messages: small })).await.unwrap();
}

#[tokio::test]
async fn who_waits_does_not_hold_up_the_end_of_the_coordinator() {
    let bench = Bench::start().await;
    let mut client = QueuesClient::new(bench.channel.clone());
    within(client.create(pb::CreateQueueRequest { name: "jobs".to_owned() })).await.unwrap();
    let receive =
        pb::ReceiveRequest { queue: "jobs".to_owned(), wait_millis: 60_000, ..pb::ReceiveRequest::default() };
    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.receive(receive).await }
    });
    loop {
        let info = within(client.get(pb::GetQueueRequest { name: "jobs".to_owned() })).await.unwrap();
        if info.into_inner().consumers == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _dir = within(bench.shutdown()).await;
    let status = within(waiting).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
