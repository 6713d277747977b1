//! Outputs on a real disk: short, long, followed, resumed, and where nothing can be written.

use super::*;
use crate::domain::Phase;
use sha2::{Digest, Sha256};

const STREAM: OutputStream = OutputStream::Stdout;

fn key() -> AttemptKey {
    AttemptKey { project: 7, phase: Phase::Task, index: 1, attempt: 1 }
}

fn bench() -> (tempfile::TempDir, Spool, Sink) {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(dir.path()).expect("opens");
    let sink = Sink::new(spool.clone(), key(), STREAM, CancellationToken::new());
    (dir, spool, sink)
}

fn bytes(byte: u8, count: usize) -> Bytes {
    Bytes::from(vec![byte; count])
}

#[tokio::test]
async fn short_output_stays_in_memory_and_is_not_acknowledged() {
    let (_dir, spool, mut sink) = bench();
    sink.append(0, bytes(b'a', INLINE_OUTPUT_BYTES_MAX)).await.expect("no gap");
    assert_eq!(sink.ack(), None);
    assert!(sink.newly_followed().is_none());
    assert!(!spool.path(key(), STREAM).exists());
    assert_eq!(sink.finish().await.output, Output::Inline(bytes(b'a', INLINE_OUTPUT_BYTES_MAX)));
}

#[tokio::test]
async fn long_output_is_spooled_and_acknowledged() {
    let (_dir, spool, mut sink) = bench();
    sink.append(0, bytes(b'a', INLINE_OUTPUT_BYTES_MAX)).await.expect("no gap");
    sink.append(32_768, bytes(b'b', 1)).await.expect("no gap");
    assert_eq!(sink.ack(), None, "not worth a frame yet");
    sink.append(32_769, bytes(b'c', 200_000)).await.expect("no gap");
    assert_eq!(sink.ack(), Some(232_769));
    assert_eq!(sink.ack(), None);
    let growing = sink.newly_followed().expect("it can be followed");
    assert_eq!(*growing.length.borrow(), 232_769);
    assert!(sink.newly_followed().is_none(), "once");
    let all = fs::read(spool.path(key(), STREAM)).expect("reads");
    let expected = Output::Spooled { length: 232_769, sha256: Sha256::digest(&all).into() };
    assert_eq!(sink.finish().await.output, expected);
}

#[tokio::test]
async fn bytes_that_came_before_are_skipped_and_gaps_refused() {
    let (_dir, _, mut sink) = bench();
    sink.append(0, Bytes::from_static(b"hello")).await.expect("no gap");
    sink.append(3, Bytes::from_static(b"lo wor")).await.expect("no gap");
    sink.append(0, Bytes::from_static(b"hell")).await.expect("no gap");
    let gap = sink.append(10, Bytes::from_static(b"!")).await.expect_err("a gap");
    assert_eq!(gap, OutputGap { expected: 9, got: 10 });
    sink.append(9, Bytes::from_static(b"ld")).await.expect("no gap");
    assert_eq!(sink.finish().await.output, Output::Inline(Bytes::from_static(b"hello world")));
}

#[tokio::test]
async fn a_short_output_that_was_followed_rides_in_the_report_all_the_same() {
    let (_dir, spool, mut sink) = bench();
    sink.follow().await;
    assert!(sink.newly_followed().is_none(), "there is nothing yet");
    sink.append(0, Bytes::from_static(b"one ")).await.expect("no gap");
    let mut growing = sink.newly_followed().expect("it can be followed");
    sink.append(4, Bytes::from_static(b"two")).await.expect("no gap");
    assert_eq!(*growing.length.borrow_and_update(), 7);
    assert_eq!(fs::read(spool.path(key(), STREAM)).expect("reads"), b"one two");
    assert_eq!((sink.ack(), sink.acked()), (None, None), "so init keeps it");
    assert_eq!(sink.finish().await.output, Output::Inline(Bytes::from_static(b"one two")));
    assert!(growing.length.changed().await.is_err(), "the end is told");
    assert!(!spool.path(key(), STREAM).exists(), "init has it too");
}

#[tokio::test]
async fn a_short_output_of_which_init_has_only_the_end_keeps_its_file() {
    let (_dir, spool, mut sink) = bench();
    sink.follow().await;
    sink.append(0, Bytes::from_static(b"one ")).await.expect("no gap");
    drop(sink);
    let mut sink = Sink::resume(spool.clone(), key(), STREAM, CancellationToken::new()).await.expect("reads");
    sink.append(4, Bytes::from_static(b"two")).await.expect("no gap");
    assert_eq!(sink.finish().await.output, Output::Inline(Bytes::from_static(b"one two")));
    assert!(spool.path(key(), STREAM).exists(), "until the report is in the outbox");
}

#[tokio::test]
async fn another_process_goes_on_with_what_was_spooled() {
    let (_dir, spool, mut sink) = bench();
    sink.append(0, bytes(b'a', 40_000)).await.expect("no gap");
    drop(sink);
    let mut sink = Sink::resume(spool.clone(), key(), STREAM, CancellationToken::new()).await.expect("reads");
    assert_eq!(sink.length(), 40_000);
    sink.append(40_000, bytes(b'b', 10)).await.expect("no gap");
    let all = [bytes(b'a', 40_000), bytes(b'b', 10)].concat();
    let expected = Output::Spooled { length: 40_010, sha256: Sha256::digest(all).into() };
    assert_eq!(sink.finish().await.output, expected);
    let other = Sink::resume(spool, AttemptKey { index: 2, ..key() }, STREAM, CancellationToken::new())
        .await
        .expect("reads");
    assert_eq!(other.finish().await.output, Output::Inline(Bytes::new()));
}

#[tokio::test]
async fn a_disk_that_can_be_written_again_loses_nothing() {
    let (_dir, spool, mut blocked) = bench();
    // A directory is where the file is to be: it can't be made until that is gone.
    let path = spool.path(key(), STREAM);
    fs::create_dir(&path).expect("made");
    let appends = tokio::spawn(async move {
        blocked.append(0, bytes(b'b', 40_000)).await.expect("no gap");
        blocked.finish().await.output
    });
    fs::remove_dir(&path).expect("removed");
    let output = appends.await.expect("no panic");
    let expected = Output::Spooled { length: 40_000, sha256: Sha256::digest(bytes(b'b', 40_000)).into() };
    assert_eq!(output, expected);
}

#[tokio::test]
async fn a_killed_attempt_does_not_wait_for_the_disk() {
    let (_dir, spool, mut sink) = bench();
    let kill = CancellationToken::new();
    sink.kill = kill.clone();
    fs::create_dir(spool.path(key(), STREAM)).expect("made");
    let appends = tokio::spawn(async move {
        sink.append(0, bytes(b'a', 10_000)).await.expect("no gap");
        sink.append(10_000, bytes(b'b', 200_000)).await.expect("no gap");
        sink.append(210_000, bytes(b'c', 10)).await.expect("no gap");
        (sink.length(), sink.ack(), sink.finish().await)
    });
    kill.cancel();
    let (length, ack, finished) = appends.await.expect("no panic");
    assert_eq!((length, ack), (210_010, Some(210_010)), "init must not wait");
    let output = Output::Inline(bytes(b'a', 10_000));
    assert_eq!(finished, Finished { output, cut: Some(Cut::Killed) });
}

#[tokio::test]
async fn what_is_cut_frees_its_space_and_keeps_its_beginning() {
    let (_dir, spool, mut sink) = bench();
    sink.append(0, bytes(b'a', 100_000)).await.expect("no gap");
    sink.cut(Cut::Killed).await;
    assert!(!spool.path(key(), STREAM).exists());
    sink.append(100_000, bytes(b'b', 10)).await.expect("no gap");
    assert_eq!(sink.length(), 100_010);
    let output = Output::Inline(bytes(b'a', INLINE_OUTPUT_BYTES_MAX));
    assert_eq!(sink.finish().await, Finished { output, cut: Some(Cut::Killed) });
}

#[tokio::test]
async fn long_output_leaves_the_reserve_and_short_output_may_use_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = Spool::open(dir.path()).expect("opens");
    spool.set_reserve(u64::MAX);
    let kill = CancellationToken::new();
    let mut sink = Sink::new(spool.clone(), key(), STREAM, kill.clone());
    sink.follow().await;
    sink.append(0, Bytes::from_static(b"short")).await.expect("no gap");
    assert!(sink.newly_followed().is_some(), "it is in the spool");
    kill.cancel();
    sink.append(5, bytes(b'a', 100_000)).await.expect("no gap");
    let output = Output::Inline(Bytes::from_static(b"short"));
    assert_eq!(sink.finish().await, Finished { output, cut: Some(Cut::Killed) });
    assert!(!spool.path(key(), STREAM).exists(), "its space is free");
}

#[tokio::test]
async fn what_is_short_and_can_not_be_followed_stays_in_memory() {
    let (_dir, spool, mut sink) = bench();
    let path = spool.path(key(), STREAM);
    fs::create_dir(&path).expect("made");
    sink.append(0, Bytes::from_static(b"one ")).await.expect("no gap");
    sink.follow().await;
    sink.append(4, Bytes::from_static(b"two")).await.expect("no gap");
    assert!(sink.newly_followed().is_none());
    assert_eq!(sink.finish().await.output, Output::Inline(Bytes::from_static(b"one two")));
}

#[tokio::test(start_paused = true)]
async fn outputs_without_room_are_given_up_one_after_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = Spool::open(dir.path()).expect("opens");
    let (mut full, other) = (spool.clone(), AttemptKey { index: 2, ..key() });
    full.set_reserve(u64::MAX);
    spool.set_reserve(0);
    let blocked = spool.path(other, STREAM);
    fs::create_dir(&blocked).expect("made");
    let since = Instant::now();
    let mut first = Sink::new(full, key(), STREAM, CancellationToken::new());
    let mut second = Sink::new(spool, other, STREAM, CancellationToken::new());
    let first = async move {
        first.append(0, bytes(b'a', 100_000)).await.expect("no gap");
        assert!(first.is_given_up() && since.elapsed() >= Duration::from_secs(GIVE_UP_SECS));
        // What it had was in the way of the other.
        fs::remove_dir(blocked).expect("removed");
        first.finish().await
    };
    let second = async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.append(0, bytes(b'b', 100_000)).await.expect("no gap");
        second.finish().await
    };
    let (first, second) = tokio::join!(first, second);
    let why = Cut::GivenUp("the disk that holds the outbox is full".into());
    assert_eq!(first, Finished { output: Output::Inline(Bytes::new()), cut: Some(why) });
    assert!(second.cut.is_none() && second.output.is_spooled(), "{second:?}");
}
