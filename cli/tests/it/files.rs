//! What needs no coordinator: templates, bad input, and the lack of a coordinator itself.

use crate::program::{piecework, said};
use std::{fs, path::Path};

/// A snapshot of how the program ends.
#[track_caller]
fn check(name: &str, dir: &Path, args: &[&str]) {
    let output = piecework(dir).args(args).output().unwrap();
    insta::assert_snapshot!(name, said(dir, &output));
}

#[test]
fn templates_are_written_and_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    check("new_queens", dir.path(), &["new", "queens"]);
    check("new_queens_again", dir.path(), &["new", "queens"]);
    check("new_queens_forced", dir.path(), &["new", "queens", "--force", "--output", "json"]);
    check("new_hello", dir.path(), &["new", "hello", "sub/here"]);
    let count =
        fs::read_to_string(dir.path().join("sub/here/hello.json")).unwrap().matches("\"cmd\"").count();
    assert_eq!(count, 100);
}

#[test]
fn the_solver_is_a_program_that_solves() {
    let dir = tempfile::tempdir().unwrap();
    piecework(dir.path()).args(["new", "queens", "."]).assert().success();
    let solver = dir.path().join("queens");
    assert_cmd::Command::new(&solver).args(["count", "8"]).assert().success().stdout("92\n");
    assert!(!asks_for_a_loader(&fs::read(&solver).unwrap()), "an empty image has no loader");
}

/// Whether a 64-bit ELF file has a program header of type `PT_INTERP`.
fn asks_for_a_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    assert_eq!(&elf[..5], b"\x7fELF\x02");
    let headers_at = usize::try_from(u64::from_le_bytes(elf[32..40].try_into().unwrap())).unwrap();
    let number = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let (size, count) = (number(54), number(56));
    (0..count).map(|n| headers_at + n * size).any(|at| elf[at..at + 4] == PT_INTERP.to_le_bytes())
}

#[test]
fn bad_input_is_told_before_any_coordinator_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.yaml"), "image: a\nitmes: [1]\ntask: {command: [echo]}\n").unwrap();
    fs::write(dir.path().join("items.yaml"), "image: a\nitems: {file: items.txt}\ntask: {command: [echo]}\n")
        .unwrap();
    fs::write(dir.path().join("items.txt"), b"good\n\xff\n").unwrap();
    fs::write(dir.path().join("binary"), b"\xff\xfe\x00").unwrap();
    for (name, args) in [
        ("unknown_field", &["run", "bad.yaml"][..]),
        ("bad_item", &["submit", "items.yaml"]),
        ("missing_file", &["run", "none.yaml"]),
        ("binary_file", &["run", "binary"]),
        ("directory", &["run", "."]),
    ] {
        check(name, dir.path(), args);
    }
    let output = piecework(dir.path()).args(["submit", "-"]).write_stdin("task: [").output().unwrap();
    insta::assert_snapshot!("bad_stdin", said(dir.path(), &output));
    assert!(!dir.path().join(".local").exists(), "nothing is left behind");
}

#[test]
fn no_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.yaml"), "image: a\nitems: [1]\ntask: {command: [echo]}\n").unwrap();
    check("no_coordinator", dir.path(), &["ls"]);
    check("no_coordinator_data", dir.path(), &["ls", "--data", "data"]);
    check("no_coordinator_server", dir.path(), &["run", "good.yaml", "--server", "unix:none.sock"]);
    check("no_coordinator_submit", dir.path(), &["submit", "good.yaml"]);
}

/// As with `up --server ELSEWHERE --data data`.
#[cfg(feature = "embedded")]
#[test]
fn a_coordinator_that_listens_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let lock = fs::File::create(data.join("piecework.lock")).unwrap();
    lock.lock().unwrap();
    fs::write(dir.path().join("good.yaml"), "image: a\nitems: [1]\ntask: {command: [echo]}\n").unwrap();
    check("held_data", dir.path(), &["run", "good.yaml", "--data", "data"]);
}

#[test]
fn usage() {
    let dir = tempfile::tempdir().unwrap();
    check("unknown_command", dir.path(), &["rum"]);
    check("logs_without_index", dir.path(), &["logs", "1"]);
}

#[test]
fn completions_name_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = piecework(dir.path()).args(["completions", shell]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("results"), "{shell}");
    }
}
