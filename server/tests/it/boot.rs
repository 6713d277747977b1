//! Start and stop: the library, and the program with its signals and exit codes.

use crate::bench::{Bench, channel, config, spec, within};
use piecework_proto::v1::{self as pb, admin_client::AdminClient};
use piecework_server::{Server, StartError};
use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

#[tokio::test]
async fn the_server_tells_who_it_is() {
    let mut bench = Bench::start().await;
    let info = async |bench: &Bench| {
        within(bench.admin().get_server_info(pb::GetServerInfoRequest {})).await.unwrap().into_inner()
    };
    let first = info(&bench).await;
    assert_eq!(first.version, env!("CARGO_PKG_VERSION"));
    bench.restart().await;
    assert_eq!(info(&bench).await.coordinator_epoch, first.coordinator_epoch + 1);
}

#[tokio::test]
async fn a_second_one_on_the_same_data_is_refused() {
    let bench = Bench::start().await;
    let refused = Server::start(config(bench.dir.path())).await;
    assert!(matches!(refused, Err(StartError::Locked(path)) if path == bench.dir.path()));
    // The first goes on.
    bench.submit_good(spec(1)).await;
}

#[tokio::test]
async fn one_that_does_not_start_leaves_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("piecework.db"), "this is no database, but long enough to be read as one")
        .unwrap();
    assert!(matches!(Server::start(config(dir.path())).await, Err(StartError::Store(_))));
    assert!(!dir.path().join("piecework.sock").exists());
}

#[tokio::test]
async fn nothing_but_data_is_left_after_a_stop() {
    let bench = Bench::start().await;
    assert_eq!(mode(bench.dir.path()), 0o700);
    assert_eq!(mode(&bench.dir.path().join("piecework.sock")), 0o600);
    let dir = bench.shutdown().await;
    assert!(!dir.path().join("piecework.sock").exists());
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// The program, started on a directory; its log is read line by line.
struct Program {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Program {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_piecework-server"))
            .env("PIECEWORK_DATA", data)
            .env_remove("PIECEWORK_LOG")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// Waits for a line of the log that contains this.
    async fn says(&mut self, part: &str) {
        within(async {
            loop {
                let line = self.log.next_line().await.unwrap().expect("the log goes on");
                if line.contains(part) {
                    return;
                }
            }
        })
        .await;
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    async fn code(&mut self) -> Option<i32> {
        within(self.child.wait()).await.unwrap().code()
    }
}

#[tokio::test]
async fn the_program_stops_gracefully_on_a_signal() {
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let mut program = Program::start(dir.path());
        program.says("the coordinator listens").await;
        let channel = channel(&dir.path().join("piecework.sock")).await;
        within(AdminClient::new(channel).get_server_info(pb::GetServerInfoRequest {})).await.unwrap();
        program.signal(signal);
        program.says("the coordinator has stopped").await;
        assert_eq!(program.code().await, Some(0));
    }
}

#[tokio::test]
async fn a_killed_program_is_replaced_without_help() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Program::start(dir.path());
    first.says("the coordinator listens").await;
    first.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(first.code().await, None);
    assert!(dir.path().join("piecework.sock").exists());
    let mut second = Program::start(dir.path());
    second.says("the coordinator listens").await;
}

#[tokio::test]
async fn the_program_says_why_it_does_not_start() {
    let bench = Bench::start().await;
    let mut program = Program::start(bench.dir.path());
    program.says(&format!("another coordinator is running on {}", bench.dir.path().display())).await;
    assert_eq!(program.code().await, Some(3));
    let options = Command::new(env!("CARGO_BIN_EXE_piecework-server")).arg("--lease-secs=0").output();
    assert_eq!(within(options).await.unwrap().status.code(), Some(2));
}
