//! The outbox on a real disk, over restarts, damage and a full disk.

use super::*;
use crate::domain::{Outcome, Phase, Usage};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fs;

fn key(index: u32) -> AttemptKey {
    AttemptKey { project: 7, phase: Phase::Task, index, attempt: 1 }
}

fn report(index: u32, text: &[u8]) -> Report {
    Report {
        attempt: key(index),
        outcome: Outcome::Exited(0),
        usage: Usage { wall_micros: 5, ..Usage::default() },
        stdout: Output::Inline(Bytes::copy_from_slice(text)),
        stderr: Output::Inline(Bytes::new()),
    }
}

fn spooled(outbox: &Outbox, index: u32, bytes: &[u8]) -> Report {
    let mut file = outbox.spool().create(key(index), OutputStream::Stdout).expect("created");
    file.append(bytes).expect("appended");
    let (length, sha256) = file.finish().expect("finished");
    Report { stdout: Output::Spooled { length, sha256 }, ..report(index, b"") }
}

fn open(dir: &Path) -> (Outbox, Vec<Report>) {
    let opened = Outbox::open(dir).expect("opens");
    assert!(opened.damaged.is_empty(), "{:?}", opened.damaged);
    (opened.outbox, opened.reports)
}

/// Changes a row behind the outbox's back.
fn tamper(dir: &Path, statement: &str) {
    Connection::open(dir.join(DATABASE))
        .and_then(|database| database.execute_batch(statement))
        .expect("tampers");
}

#[test]
fn reports_come_back_in_the_order_of_ending() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, none) = open(dir.path());
    assert_eq!(none, []);
    outbox.commit(&[report(3, b"\0\xff"), report(1, b"")], &[]).expect("commits");
    outbox.commit(&[report(2, b"two")], &[key(1), key(9)]).expect("commits");
    drop(outbox);
    assert_eq!(open(dir.path()).1, [report(3, b"\0\xff"), report(2, b"two")]);
}

#[test]
fn a_repeated_commit_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    for _ in 0..2 {
        outbox.commit(&[report(1, b"one"), report(2, b"two")], &[key(2)]).expect("commits");
    }
    assert!(outbox.contains(key(1)).expect("reads"));
    assert!(!outbox.contains(key(2)).expect("reads"));
}

#[test]
fn spool_files_live_and_go_with_their_report() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    let bytes = vec![b'x'; 100_000];
    let long = spooled(&outbox, 1, &bytes);
    assert_eq!(long.stdout, Output::Spooled { length: 100_000, sha256: Sha256::digest(&bytes).into() });
    outbox.commit(std::slice::from_ref(&long), &[]).expect("commits");
    drop(outbox);
    let (outbox, reports) = open(dir.path());
    assert_eq!(reports, [long]);
    let path = outbox.spool().path(key(1), OutputStream::Stdout);
    assert_eq!(fs::read(&path).expect("reads"), bytes);
    outbox.commit(&[], &[key(1)]).expect("commits");
    assert!(!path.exists());
}

#[test]
fn orphans_are_removed_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    let kept = spooled(&outbox, 1, b"kept");
    outbox.commit(std::slice::from_ref(&kept), &[]).expect("commits");
    for index in [1, 2, 3] {
        outbox.spool().create(key(index), OutputStream::Stderr).expect("created");
    }
    assert_eq!(outbox.remove_orphans(&[kept], &[key(2)]).expect("removes"), 2);
    let left: BTreeSet<_> = fs::read_dir(dir.path().join("spool"))
        .expect("reads")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(left, BTreeSet::from(["7-task-1-1.out".into(), "7-task-2-1.err".into()]));
}

#[test]
fn a_spool_file_of_output_that_rides_in_its_report_goes_with_the_commit() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    outbox.spool().create(key(1), OutputStream::Stdout).expect("created").append(b"one").expect("appended");
    outbox.commit(&[report(1, b"one")], &[]).expect("commits");
    assert!(!outbox.spool().path(key(1), OutputStream::Stdout).exists());
}

#[test]
fn a_spool_file_goes_on_where_an_earlier_process_left_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(dir.path()).expect("opens");
    assert!(spool.resume(key(1), OutputStream::Stdout).expect("reads").is_none());
    let mut file = spool.create(key(1), OutputStream::Stdout).expect("created");
    file.append(b"hello ").expect("appended");
    drop(file);
    let mut file = spool.resume(key(1), OutputStream::Stdout).expect("reads").expect("is there");
    assert_eq!(file.length(), 6);
    file.append(b"world").expect("appended");
    assert_eq!(file.finish().expect("finished"), (11, Sha256::digest(b"hello world").into()));
}

#[test]
fn damaged_rows_are_put_aside_and_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    let long = spooled(&outbox, 5, b"long output");
    outbox
        .commit(&[report(1, b""), report(2, b""), report(3, b""), report(4, b""), long], &[])
        .expect("commits");
    fs::write(outbox.spool().path(key(5), OutputStream::Stdout), b"short").expect("writes");
    drop(outbox);
    tamper(
        dir.path(),
        "UPDATE report SET body = x'ffff' WHERE attempt = '7-task-1-1';
         UPDATE report SET attempt = 'nonsense' WHERE attempt = '7-task-2-1';
         UPDATE report SET body = x'' WHERE attempt = '7-task-3-1';
         INSERT INTO report (attempt, body) SELECT '7-task-8-1', body FROM report WHERE attempt = '7-task-4-1';",
    );
    let opened = Outbox::open(dir.path()).expect("opens");
    assert_eq!(opened.reports, [report(4, b"")]);
    let damaged: Vec<_> =
        opened.damaged.iter().map(|damaged| format!("{}: {}", damaged.attempt, damaged.why)).collect();
    assert_eq!(damaged.len(), 5, "{damaged:?}");
    assert!(damaged[0].starts_with("7-task-1-1: it does not decode"), "{damaged:?}");
    assert_eq!(
        damaged[1..],
        [
            "nonsense: `nonsense` does not name an attempt",
            "7-task-3-1: `attempt` is missing",
            "7-task-5-1: its Stdout has 5 bytes in the spool instead of 11",
            "7-task-8-1: it holds the report of 7-task-4-1",
        ]
    );
    drop(opened);
    assert_eq!(open(dir.path()).1, [report(4, b"")]);
}

#[test]
fn a_full_disk_is_told_as_such_and_commits_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    outbox.commit(&[report(1, b"one")], &[]).expect("commits");
    let pages: i64 = outbox.database().query_row("PRAGMA page_count", [], |row| row.get(0)).expect("counts");
    outbox.database().pragma_update(None, "max_page_count", pages + 1).expect("limits");
    let big = report(2, &[b'x'; 30_000]);
    let error = outbox.commit(std::slice::from_ref(&big), &[key(1)]).expect_err("no space");
    assert!(matches!(error, OutboxError::Full), "{error:?}");
    assert!(outbox.contains(key(1)).expect("reads"), "the whole transaction is rolled back");
    outbox.database().pragma_update(None, "max_page_count", 1_000_000).expect("unlimits");
    outbox.commit(&[big], &[key(1)]).expect("commits");
    assert!(outbox.contains(key(2)).expect("reads"));
}

#[test]
fn what_is_no_outbox_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path());
    tamper(dir.path(), "PRAGMA user_version = 9");
    assert!(matches!(Outbox::open(dir.path()), Err(OutboxError::Layout { found: 9 })));
    fs::write(dir.path().join(DATABASE), vec![b'#'; 5000]).expect("writes");
    assert!(matches!(Outbox::open(dir.path()), Err(OutboxError::Sqlite(_))));
}

#[test]
fn an_ending_can_be_replaced_and_its_spool_file_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outbox, _) = open(dir.path());
    let long = spooled(&outbox, 1, &[b'x'; 100_000]);
    outbox.commit(std::slice::from_ref(&long), &[]).expect("commits");
    let lost = Report { outcome: Outcome::WorkerLost("gone".into()), ..report(1, b"") };
    outbox.commit(std::slice::from_ref(&lost), &[]).expect("commits");
    assert!(!outbox.spool().path(key(1), OutputStream::Stdout).exists());
    drop(outbox);
    assert_eq!(open(dir.path()).1, [lost]);
}
