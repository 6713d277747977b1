//! Commands of this machine, which Piecework is compared to: timed, bounded, and gone when nobody waits for them.

use super::{RUN_SECS_MAX, error::BenchError};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// How much of a command's stderr a message tells.
const STDERR_LINES_MAX: usize = 5;

/// Where programs are looked for.
const PROGRAM_DIRS: &[&str] = &["/bin", "/usr/bin", "/usr/local/bin"];

/// A program of this machine.
pub(super) fn program(name: &str) -> Result<PathBuf, String> {
    let mut places = PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name));
    places.find(|path| path.is_file()).ok_or_else(|| format!("this machine has no `{name}`"))
}

/// What a command printed, and how long it took.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) took: Duration,
    pub(super) stdout: Vec<u8>,
}

/// Runs a line of shell, which must succeed.
pub(super) async fn shell(line: &str) -> Result<Timed, BenchError> {
    run(&["sh", "-c", line]).await
}

/// Runs `COMMAND | cat >/dev/null`, where the command must succeed: a pipe alone tells only how `cat` ended.
pub(super) async fn into_cat(command: &str) -> Result<Timed, BenchError> {
    let timed = shell(&format!("exec 3>&1; {{ {command}; echo $? >&3; }} | cat >/dev/null")).await?;
    if timed.stdout.trim_ascii() == b"0" {
        return Ok(timed);
    }
    let why = format!("ended with {}", String::from_utf8_lossy(timed.stdout.trim_ascii()));
    Err(BenchError::Command { command: command.to_owned(), why })
}

/// Runs a command, which must succeed.
pub(super) async fn run(words: &[&str]) -> Result<Timed, BenchError> {
    let shown = || shell_words::join(words);
    let failed = |why: String| BenchError::Command { command: shown(), why };
    let (program, args) = words.split_first().ok_or_else(|| failed("is empty".into()))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C is for this program, which ends the group when it stops waiting.
    command.process_group(0).kill_on_drop(true);
    let start = Instant::now();
    let child = command.spawn().map_err(|error| failed(format!("can't be started: {error}")))?;
    let mut group = Group::of(&child);
    let output = tokio::time::timeout(Duration::from_secs(RUN_SECS_MAX), child.wait_with_output()).await;
    let output = output
        .map_err(|_| BenchError::TooLong { what: shown(), secs: RUN_SECS_MAX })?
        .map_err(|error| failed(format!("can't be waited for: {error}")))?;
    let took = start.elapsed();
    group.0 = None;
    if output.status.success() {
        return Ok(Timed { took, stdout: output.stdout });
    }
    let said = crate::output::human::tail(&output.stderr, STDERR_LINES_MAX);
    Err(failed(format!("ended with {}: {said}", output.status)))
}

/// A group of processes, killed when nobody waits for its first one any more.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have just ended.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_failures_are_told() {
        assert_eq!(shell("echo a | tr a b").await.unwrap().stdout, b"b\n");
        let why = shell("echo no >&2; exit 3").await.unwrap_err().to_string();
        assert!(why.contains("no") && why.contains('3'), "{why}");
        assert!(run(&["/no/such/program"]).await.is_err());
    }

    #[tokio::test]
    async fn a_pipe_hides_no_failure() {
        assert!(into_cat("echo a").await.is_ok());
        assert!(into_cat("false").await.is_err());
    }

    #[tokio::test]
    async fn who_is_not_waited_for_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let path = file.display();
        let line = format!("sleep 1000 & echo $! > {path}.new; mv {path}.new {path}; wait");
        {
            let mut running = Box::pin(shell(&line));
            while !file.exists() {
                tokio::select! {
                    ended = &mut running => panic!("it has ended: {ended:?}"),
                    () = tokio::time::sleep(Duration::from_millis(5)) => {}
                }
            }
        }
        let pid = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // Gone, or dead and not collected yet.
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while lives() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
