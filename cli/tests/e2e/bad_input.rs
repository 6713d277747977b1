//! Bad input: a clear error with place, cause and remedy, the right exit code, and nothing left behind.

use crate::home::{Home, Runtime, text};

/// Runs a bad project file, and wants this exit code and all of these words on stderr.
fn check(runtime: Runtime, file: &str, code: i32, words: &[&str]) {
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    let path = home.write("bad.yaml", file.replace("IMAGE", runtime.image()));
    let ran = home.run(&path);
    let stderr = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(code), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(text(&ran.stdout), "");
    if code == 2 {
        // Not even a coordinator was started for it.
        assert!(!home.data().join("piecework.db").exists());
    } else if runtime == Runtime::Docker {
        assert_eq!(home.containers(), Vec::<String>::new());
    }
}

#[test]
fn broken_yaml() {
    check(Runtime::Process, "image: x\ntask: {command: [a\n", 2, &["bad.yaml", "2"]);
}

#[test]
fn unknown_field() {
    check(
        Runtime::Process,
        "image: x\nitems: [a]\ntask:\n  command: [a]\n  timeot: 5s\n",
        2,
        &["bad.yaml", "timeot", "timeout", "5"],
    );
}

#[test]
fn empty_items() {
    check(Runtime::Process, "image: x\nitems: []\ntask: {command: [a]}\n", 2, &["items"]);
}

#[test]
fn unknown_placeholder() {
    check(
        Runtime::Process,
        "image: x\nitems: [a]\ntask: {command: [echo, '{itme}']}\n",
        2,
        &["{itme}", "`item`", "bad.yaml:3"],
    );
}

#[test]
fn unknown_image() {
    check(
        Runtime::Docker,
        "image: nowhere.invalid/no-such-image:1\nitems: [a]\ntask: {command: [a]}\n",
        1,
        &["nowhere.invalid/no-such-image:1"],
    );
}

#[test]
fn a_command_that_the_image_lacks() {
    check(
        Runtime::Docker,
        "image: IMAGE\nitems: [a]\ntask: {command: [no-such-command, '{item}']}\n",
        1,
        &["no-such-command"],
    );
}

#[test]
fn a_dockerfile_that_fails() {
    check(
        Runtime::Docker,
        "build: {from: IMAGE, run: ['echo about to fail; exit 3']}\nitems: [a]\ntask: {command: [a]}\n",
        1,
        &["exit 3"],
    );
}

#[test]
fn a_file_to_copy_that_is_missing() {
    check(
        Runtime::Docker,
        "build: {from: scratch, copy: {no-such-file: /bin/x}}\nitems: [a]\ntask: {command: [x]}\n",
        2,
        &["no-such-file"],
    );
}

#[test]
fn unknown_project_and_no_coordinator() {
    let home = Home::new(Runtime::Process);
    let nobody = home.output(&["show", "7"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", text(&nobody.stderr));
    assert!(text(&nobody.stderr).contains("piecework up"), "{}", text(&nobody.stderr));
    let _server = home.server();
    for command in ["show", "watch", "results", "cancel"] {
        let unknown = home.output(&[command, "7"]);
        assert_eq!(unknown.status.code(), Some(3), "{command}: {}", text(&unknown.stderr));
        assert!(text(&unknown.stderr).contains('7'), "{}", text(&unknown.stderr));
    }
}

#[test]
fn a_sum_of_no_numbers() {
    check(
        Runtime::Process,
        "image: x\nitems: ['1', two]\ntask: {command: [echo, '{item}']}\nreassemble: sum\n",
        1,
        &["task 1", "two", "`piecework tasks 1` lists the tasks"],
    );
}
