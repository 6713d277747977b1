//! Submissions: what is refused and how, what is repeated, and what is left of one that breaks off.

use crate::bench::{
    Bench, blob, check_bad_field, check_refused, header, items, list_spec, sha256, spec, task, within,
};
use piecework_proto::v1::{self as pb, image_spec::Image, submit_request::Part};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;

#[tokio::test]
async fn a_submission_becomes_a_project() {
    let bench = Bench::start().await;
    let answer = bench.submit(vec![header("key", spec(3))]).await.unwrap();
    let project = answer.project.unwrap();
    assert!(!answer.existed);
    assert_eq!((project.tasks, project.state()), (3, pb::ProjectState::Running));
    // Weight 0 means 1, and no policy means every failure.
    let expected = pb::ProjectSpec {
        weight: 1,
        on_failure: pb::FailurePolicy::Continue.into(),
        placement: pb::Placement::Spread.into(),
        on_lease_loss: pb::LeaseLossPolicy::Rerun.into(),
        task: Some(pb::TaskSpec {
            retry_on: vec![1, 2, 3, 4],
            resources: Some(pb::Resources::default()),
            network: pb::Network::None.into(),
            isolation: pb::Isolation::Sealed.into(),
            ..task(&["echo", "{item}"])
        }),
        ..spec(3)
    };
    assert_eq!(project.spec.as_ref(), Some(&expected));
    let expected = pb::Project { waiting: "an agent: none has ever connected".to_owned(), ..project.clone() };
    assert_eq!(bench.get(&project.id.to_string()).await.unwrap(), expected);
    assert_eq!(bench.get("test").await.unwrap(), expected);
}

#[tokio::test]
async fn items_are_kept_in_order() {
    let bench = Bench::start().await;
    let item = |text: &str| pb::Item {
        text: text.to_owned(),
        args: vec!["a b".to_owned()],
        resource: "url".to_owned(),
    };
    let chunk =
        |text| pb::SubmitRequest { part: Some(Part::Items(pb::ItemChunk { items: vec![item(text)] })) };
    let parts = vec![header("", list_spec(4)), items(&["one", "two"]), chunk("three"), items(&["four"])];
    let project = bench.submit(parts).await.unwrap().project.unwrap();
    assert_eq!(project.tasks, 4);
    let mut agent = crate::agent::Agent::connect(&bench, crate::agent::hello("host"), 4).await;
    let mut commands: Vec<_> = agent.assigned(4).await.into_iter().map(|one| one.command).collect();
    commands.sort();
    let expected: [&[&str]; 4] =
        [&["echo", "four"], &["echo", "one"], &["echo", "three", "a b"], &["echo", "two"]];
    assert_eq!(commands, expected);
    let request = pb::ListTasksRequest { project: project.id.to_string(), ..Default::default() };
    let tasks = within(bench.projects().list_tasks(request)).await.unwrap().into_inner().tasks;
    let shown: Vec<_> = tasks.iter().map(|task| (task.item.as_str(), task.resource.as_str())).collect();
    assert_eq!(shown, [("one", ""), ("two", ""), ("three", "url"), ("four", "")]);
}

#[tokio::test]
async fn many_items_come_in_groups() {
    let bench = Bench::start().await;
    let texts: Vec<String> = (0..25_000).map(|n| n.to_string()).collect();
    let mut parts = vec![header("", list_spec(25_000))];
    parts
        .extend(texts.chunks(3000).map(|chunk| items(&chunk.iter().map(String::as_str).collect::<Vec<_>>())));
    assert_eq!(bench.submit(parts).await.unwrap().project.unwrap().tasks, 25_000);
}

#[tokio::test]
async fn bad_specifications_are_refused_with_their_fields() {
    let bench = Bench::start().await;
    let submit = async |spec| bench.submit(vec![header("", spec)]).await;
    let refused = submit(pb::ProjectSpec { task: Some(task(&["echo", "{itm}"])), ..spec(3) }).await;
    check_bad_field(
        refused,
        "task.command[1]",
        "task.command[1]: unknown placeholder {itm} at position 1; known are {item}, {index}",
    );
    check_bad_field(submit(pb::ProjectSpec { image: None, ..spec(3) }).await, "image", "image: missing");
    check_bad_field(submit(spec(0)).await, "items.range", "the range from 1 to 0 by 1 is empty");
    check_bad_field(
        submit(pb::ProjectSpec { on_failure: 77, ..spec(3) }).await,
        "on_failure",
        "77 is no value of FailurePolicy",
    );
    let status = submit(pb::ProjectSpec { name: String::new(), weight: 5000, ..spec(3) }).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");
    let large = pb::ProjectSpec { task: Some(task(&["echo", &"x".repeat(1 << 20)])), ..spec(3) };
    check_bad_field(submit(large).await, "spec", "at most 1048576 bytes without the items");
    assert!(bench.list().await.is_empty());
}

#[tokio::test]
async fn bad_streams_are_refused() {
    let bench = Bench::start().await;
    check_bad_field(bench.submit(vec![]).await, "header", "the first message of a submission is its header");
    check_bad_field(bench.submit(vec![items(&["a"])]).await, "header", "the first message");
    let twice = vec![header("", spec(3)), header("", spec(3))];
    check_bad_field(bench.submit(twice).await, "header", "only the first message");
    let empty = vec![header("", spec(3)), pb::SubmitRequest { part: None }];
    check_bad_field(bench.submit(empty).await, "part", "missing");
    let long = vec![header(&"k".repeat(129), spec(3))];
    check_bad_field(bench.submit(long).await, "idempotency_key", "at most 128 bytes, not 129");
    let spec_missing = pb::SubmitHeader { idempotency_key: String::new(), spec: None };
    let spec_missing = vec![pb::SubmitRequest { part: Some(Part::Header(spec_missing)) }];
    check_bad_field(bench.submit(spec_missing).await, "spec", "missing");
    assert!(bench.list().await.is_empty());
}

#[tokio::test]
async fn items_are_counted_and_checked() {
    let bench = Bench::start().await;
    let few = vec![header("", list_spec(3)), items(&["a", "b"])];
    check_bad_field(bench.submit(few).await, "items.list.count", "announces 3 items, and 2 were sent");
    let many = vec![header("", list_spec(1)), items(&["a", "b"])];
    check_bad_field(bench.submit(many).await, "items.list.count", "announces 1 items, and more were sent");
    let range = vec![header("", spec(3)), items(&["a"])];
    check_bad_field(bench.submit(range).await, "items", "don't come from a list");
    let zero = vec![header("", list_spec(2)), items(&["a", "\0"])];
    check_bad_field(bench.submit(zero).await, "items[1].text", "zero byte");
    let no_command = pb::ProjectSpec { task: Some(task(&[])), ..list_spec(1) };
    let no_command = vec![header("", no_command), items(&["a"])];
    check_bad_field(bench.submit(no_command).await, "items[0].args", "no command");
    assert!(bench.list().await.is_empty());
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_project() {
    let mut bench = Bench::start().await;
    let parts = || vec![header("key", list_spec(2)), items(&["a", "b"])];
    let first = bench.submit(parts()).await.unwrap();
    let second = bench.submit(parts()).await.unwrap();
    assert!(!first.existed && second.existed);
    assert_eq!(first.project.as_ref().map(|project| project.id), second.project.map(|project| project.id));
    bench.restart().await;
    assert!(bench.submit(parts()).await.unwrap().existed);
    assert_eq!(bench.list().await.len(), 1);
    // Without a key, each is a project of its own.
    bench.submit_good(spec(1)).await;
    bench.submit_good(spec(1)).await;
    assert_eq!(bench.list().await.len(), 3);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let bench = Bench::start().await;
    bench.submit(vec![header("key", list_spec(1)), items(&["a"])]).await.unwrap();
    // 200 MB, were it all sent.
    let text = "x".repeat(100_000);
    let more: Vec<_> = (0..2000).map(|_| items(&[&text])).collect();
    let parts = |first| std::iter::once(first).chain(more.iter().cloned()).collect::<Vec<_>>();
    assert!(bench.submit(parts(header("key", list_spec(1)))).await.unwrap().existed);
    check_bad_field(bench.submit(parts(header("", spec(0)))).await, "items.range", "empty");
    let refused = bench.submit(parts(header("", list_spec(1)))).await;
    check_bad_field(refused, "items.list.count", "announces 1 items, and more were sent");
}

/// Opens a submission and leaves it open.
async fn open(bench: &Bench, key: &str) -> (mpsc::Sender<pb::SubmitRequest>, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(header(key, list_spec(3))).await.unwrap();
    sender.send(items(&["a"])).await.unwrap();
    let mut client = bench.projects();
    let call = tokio::spawn(async move {
        let _ = client.submit(ReceiverStream::new(receiver)).await;
    });
    (sender, call)
}

/// Submits under the key again and again until it is not under way any longer.
async fn submit_once_free(bench: &Bench, key: &str) -> pb::SubmitResponse {
    within(async {
        loop {
            match bench.submit(vec![header(key, list_spec(1)), items(&["x"])]).await {
                Ok(answer) => return answer,
                Err(status) => check_refused(Err::<(), _>(status), Code::Aborted, "is under way: try again"),
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_second_submission_under_an_open_key_is_told_to_wait() {
    let bench = Bench::start().await;
    let (sender, call) = open(&bench, "key").await;
    within(async {
        // Until the first has begun, the second could be the first.
        loop {
            let refused = bench.submit(vec![header("key", spec(0))]).await;
            check_bad_field(refused, "items.range", "empty");
            let refused = bench.submit(vec![header("key", list_spec(2)), items(&["x"])]).await.unwrap_err();
            if refused.code() == Code::Aborted {
                assert!(refused.get_details_retry_info().is_some());
                break;
            }
        }
    })
    .await;
    sender.send(items(&["b", "c"])).await.unwrap();
    drop(sender);
    within(call).await.unwrap();
    assert_eq!(bench.list().await.len(), 1);
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing() {
    let bench = Bench::start().await;
    let (sender, call) = open(&bench, "key").await;
    // The items are taken only after the submission has begun.
    within(async {
        while sender.capacity() < sender.max_capacity() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    call.abort();
    let answer = submit_once_free(&bench, "key").await;
    assert!(!answer.existed);
    assert_eq!(bench.list().await, [answer.project.unwrap().id]);
}

#[tokio::test]
async fn a_refused_submission_leaves_its_key_free() {
    let bench = Bench::start().await;
    let few = vec![header("key", list_spec(3)), items(&["a", "b"])];
    check_bad_field(bench.submit(few).await, "items.list.count", "2 were sent");
    assert!(!submit_once_free(&bench, "key").await.existed);
}

fn image(files: &[(&str, &[u8])]) -> pb::ProjectSpec {
    let file = |(path, contents): &(&str, &[u8])| pb::ImageFile {
        path: (*path).to_owned(),
        sha256: sha256(contents),
        mode: 0o755,
        length: contents.len() as u64,
    };
    let build = pb::ImageBuild {
        from: "scratch".to_owned(),
        files: files.iter().map(file).collect(),
        run: Vec::new(),
    };
    pb::ProjectSpec { image: Some(pb::ImageSpec { image: Some(Image::Build(build)) }), ..spec(1) }
}

async fn read_blob(bench: &Bench, sha256: Vec<u8>) -> Result<Vec<u8>, tonic::Status> {
    let mut chunks = within(bench.sessions().read_blob(pb::ReadBlobRequest { sha256 })).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = within(chunks.message()).await? {
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(bytes)
}

#[tokio::test]
async fn files_of_an_image_are_kept() {
    let bench = Bench::start().await;
    let big = vec![7; 3_000_000];
    let parts = || image(&[("/bin/big", &big), ("/bin/empty", b""), ("/bin/again", &big)]);
    let mut sent = vec![header("", parts())];
    sent.extend(big.chunks(1 << 20).enumerate().map(|(n, chunk)| blob(&big, chunk, n == 2)));
    sent.push(blob(b"", b"", true));
    bench.submit(sent).await.unwrap();
    assert_eq!(read_blob(&bench, sha256(&big)).await.unwrap(), big);
    assert_eq!(read_blob(&bench, sha256(b"")).await.unwrap(), b"");
    check_refused(read_blob(&bench, sha256(b"other")).await, Code::NotFound, "not stored");
    check_bad_field(read_blob(&bench, vec![1]).await, "sha256", "32 bytes expected, not 1");
    // Known contents need not be sent again, but may be.
    bench.submit(vec![header("", parts())]).await.unwrap();
    bench.submit(vec![header("", image(&[("/e", b"")])), blob(b"", b"", true)]).await.unwrap();
}

#[tokio::test]
async fn bad_files_are_refused_with_their_paths() {
    let bench = Bench::start().await;
    let two = || header("", image(&[("/bin/a", b"aaa"), ("/bin/b", b"bbb")]));
    let missing = bench.submit(vec![two(), blob(b"aaa", b"aaa", true)]).await;
    check_bad_field(
        missing,
        "image.build.files[1]",
        "the contents of /bin/b (SHA-256 3e744b9dc39389baf0c5a0660589b8402f3dbb49b89b3e75f2c9355852a3c677) were not sent",
    );
    let wrong = bench.submit(vec![two(), blob(b"bbb", b"xxx", true)]).await;
    check_bad_field(
        wrong,
        "image.build.files[1].sha256",
        "the contents that were sent for /bin/b have another SHA-256",
    );
    let long = bench.submit(vec![two(), blob(b"bbb", b"bbbb", true)]).await;
    check_bad_field(long, "image.build.files[1].length", "/bin/b is to have 3 bytes, not 4");
    let open = bench.submit(vec![two(), blob(b"bbb", b"b", false)]).await;
    check_bad_field(open, "image.build.files[1]", "ended in the middle of this file");
    let mixed = bench.submit(vec![two(), blob(b"bbb", b"b", false), blob(b"aaa", b"aaa", true)]).await;
    check_bad_field(mixed, "blob.sha256", "is not complete yet: send one after the other");
    let unknown = bench.submit(vec![two(), blob(b"ccc", b"ccc", true)]).await;
    check_bad_field(unknown, "blob.sha256", "the project has no file with the SHA-256");
    assert!(bench.list().await.is_empty());
    check_refused(read_blob(&bench, sha256(b"bbb")).await, Code::NotFound, "not stored");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let bench = Bench::start().await;
    let text = "x".repeat(100_000);
    let texts: Vec<&str> = (0..50).map(|_| text.as_str()).collect();
    let refused = bench.submit(vec![header("", list_spec(50)), items(&texts)]).await;
    check_refused(refused, Code::OutOfRange, "message length too large");
    assert!(bench.list().await.is_empty());
}
