//! Queues for anybody's messages, from the command line.

use crate::home::{Home, Program, Runtime, text};
use std::{
    fs::{self, File},
    io::Write,
    process::{Output, Stdio},
};

/// More than one call takes.
const LINES: u32 = 2500;

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// Sends with these arguments and this standard input.
fn send(home: &Home, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = home.piecework(&[&["queues", "send"], args].concat());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sender = command.spawn().expect("piecework");
    sender.stdin.take().expect("its stdin").write_all(stdin).expect("a reader");
    sender.wait_with_output().expect("its output")
}

#[test]
fn messages_go_in_and_come_out_in_their_order() {
    let home = Home::new(Runtime::Process);
    let _server = home.server();
    lines(&home.output(&["queues", "create", "jobs"]));
    let many: String = (0..LINES).map(|n| format!("{n}\n")).collect();
    let ids = lines(&send(&home, &["jobs", "first", "--file", "-", "--header", "k=v"], many.as_bytes()));
    assert_eq!(ids.len() as u32, LINES + 1);

    let shown = lines(&home.output(&["queues", "peek", "jobs", "-n", "1", "--output", "json"])).concat();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let first = &shown["messages"][0];
    assert_eq!(
        (&first["text"], &first["headers"]["k"], &first["id"]),
        (&"first".into(), &"v".into(), &ids[0].clone().into())
    );

    // One that is neither acknowledged nor given back keeps its place.
    let held = lines(&home.output(&["queues", "receive", "jobs", "--ack", "manual"])).concat();
    let (receipt, body) = held.split_once('\t').expect("a receipt");
    assert_eq!(body, "first");
    lines(&home.output(&["queues", "nack", "jobs", receipt]));
    let all: Vec<String> =
        std::iter::once("first".to_owned()).chain((0..LINES).map(|n| n.to_string())).collect();
    assert!(lines(&home.output(&["queues", "receive", "jobs", "-n", "5000"])) == all);
    assert!(lines(&home.output(&["queues", "receive", "jobs"])).is_empty());

    // It is settled already.
    let again = home.output(&["queues", "ack", "jobs", receipt]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains(receipt), "{}", text(&again.stderr));
}

#[test]
fn any_bytes_are_a_message_and_a_queue_is_removed_on_conditions() {
    let home = Home::new(Runtime::Process);
    let _server = home.server();
    lines(&home.output(&["queues", "create", "bytes"]));
    lines(&send(&home, &["bytes", "--body", "-"], b"\xff\0\n\n"));
    let received = home.output(&["queues", "receive", "bytes", "--ack", "manual"]);
    assert!(received.stdout.ends_with(b"\t\xff\0\n\n\n"), "{received:?}");
    for condition in ["--if-empty", "--if-unused"] {
        let refused = home.output(&["queues", "rm", "bytes", condition]);
        assert_eq!(refused.status.code(), Some(5), "{}", text(&refused.stderr));
    }
    lines(&home.output(&["queues", "delete", "bytes"]));
    let gone = home.output(&["queues", "receive", "bytes"]);
    assert_eq!(gone.status.code(), Some(3), "{}", text(&gone.stderr));
    let too_long = send(&home, &["bytes", "--body", "-"], &vec![0; (1 << 20) + 1]);
    assert_eq!(too_long.status.code(), Some(2), "{}", text(&too_long.stderr));
    assert!(text(&too_long.stderr).contains("1 MiB"), "{}", text(&too_long.stderr));
}

#[test]
fn who_follows_a_queue_outlives_the_coordinator() {
    let home = Home::new(Runtime::Process);
    let mut server = home.server();
    lines(&home.output(&["queues", "create", "jobs"]));
    let out = home.path("followed");
    let mut command = home.piecework(&["queues", "receive", "jobs", "--follow"]);
    let _follower = Program(command.stdout(File::create(&out).expect("a file")).spawn().expect("piecework"));
    let followed = || fs::read_to_string(&out).unwrap_or_default();
    lines(&home.output(&["queues", "send", "jobs", "one"]));
    home.wait("the first is there", || followed() == "one\n");
    server.kill();
    let _server = home.server();
    lines(&home.output(&["queues", "send", "jobs", "two"]));
    // The first may come again if the coordinator died before it took the acknowledgement.
    home.wait("the second is there", || followed().ends_with("two\n"));
}
