//! init as a daemon: it outlives who started it, in namespaces of its own where they can be had.

use crate::client::{Link, command, connect, lives, shell, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use piecework_init::frame::Outcome;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

const INIT: &str = env!("CARGO_BIN_EXE_piecework-init");

fn launch(dir: &Path, args: &[&str]) -> Pid {
    let status = Command::new(INIT)
        .args(["--socket".as_ref(), dir.join("init.sock").as_os_str()])
        .args(["--pid-file".as_ref(), dir.join("pid").as_os_str()])
        .args(args)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    piecework_init::running(&dir.join("pid")).unwrap()
}

fn isolation_works() -> bool {
    Command::new(INIT).arg("--probe").stderr(Stdio::null()).status().unwrap().success()
}

fn idle(dir: &Path) -> Link {
    let mut link = connect(&dir.join("init.sock"));
    assert_eq!(link.hello(), []);
    link
}

#[test]
fn a_daemon_is_found_by_its_pid_file() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = launch(dir.path(), &[]);
    let mut link = idle(dir.path());
    link.run(command(&["echo", "hello"]));
    assert_eq!(link.finish().outcome, Outcome::Exited(0));
    assert_eq!(link.stdout(), "hello\n");
    kill(daemon, Signal::SIGTERM).unwrap();
    wait_until("the daemon's end", || piecework_init::running(&dir.path().join("pid")).is_none());
}

#[test]
fn in_a_pid_namespace_everything_dies_with_init() {
    if !isolation_works() {
        // Plain processes are then what the runtime uses, and what the other tests are about.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = launch(dir.path(), &["--isolate"]);
    let mut link = idle(dir.path());
    let (marker, text) = (dir.path().join("marker"), dir.path().join("marker").display().to_string());
    link.run(shell(&format!(
        "echo $$ $(readlink /proc/self | wc -c); (trap '' TERM; setsid sh -c 'while :; do touch {text}; sleep 0.02; done' &); exec sleep 600"
    )));
    link.read_until("\n");
    let own: i32 = link.stdout().split(' ').next().unwrap().parse().unwrap();
    assert!(own < 10, "its pid is of a namespace of its own: {own}");
    wait_until("the marker", || marker.exists());
    kill(daemon, Signal::SIGKILL).unwrap();
    wait_until("the daemon's end", || !lives(daemon.as_raw()));
    fs::remove_file(&marker).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!marker.exists(), "a process outlived its init");
}

#[test]
fn in_a_pid_namespace_attempts_end_as_elsewhere() {
    if !isolation_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = launch(dir.path(), &["--isolate"]);
    let mut link = idle(dir.path());
    link.run(shell("setsid sleep 600 & (sleep 600 &); ls -d /proc/[0-9]* | wc -l; exit 4"));
    assert_eq!(link.finish().outcome, Outcome::Exited(4));
    link.run(command(&["sleep", "600"]));
    link.kill(std::time::Duration::from_secs(20));
    assert_eq!(link.finish().outcome, Outcome::Cancelled);
    kill(daemon, Signal::SIGKILL).unwrap();
}

#[test]
fn a_socket_s_path_may_be_longer_than_an_address() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("d".repeat(120));
    fs::create_dir(&dir).unwrap();
    let daemon = launch(&dir, &[]);
    wait_until("the socket", || dir.join("init.sock").exists());
    kill(daemon, Signal::SIGTERM).unwrap();
}
