//! Processes that the harness starts, and everything that is started by them.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs a command, which must succeed.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}{stderr}", String::from_utf8_lossy(&output.stdout));
    output.stdout
}

/// The same, for what is text.
pub(crate) fn run_text(command: &mut Command) -> String {
    String::from_utf8(run(command)).expect("text")
}

/// Runs a command whose failure is of no consequence.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

fn output(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a command says, if it ends in time.
pub(crate) fn output_within(command: &mut Command, longest: Duration) -> Option<Output> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    let (mut stdout, mut stderr) = (child.stdout.take()?, child.stderr.take()?);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).map(|_| bytes)
    });
    let ended = wait(longest, || child.try_wait().is_ok_and(|status| status.is_some()));
    if ended.is_none() {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let (stdout, stderr) = (reader.join().ok()?.ok()?, errors.join().ok()?.ok()?);
    ended.map(|_| Output { status, stdout, stderr })
}

/// Waits until something holds; how long that took, or none if it did not come to hold in time.
pub(crate) fn wait(longest: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let since = Instant::now();
    loop {
        if holds() {
            return Some(since.elapsed());
        }
        if since.elapsed() > longest {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A program in the background. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts one; what it says goes to the end of a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process's number")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself, which is found out otherwise.
        let _ = kill(Pid::from_raw(self.id()), signal);
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }

    /// SIGTERM, and its end; none if it does not end in this time.
    pub(crate) fn terminate(mut self, longest: Duration) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        wait(longest, || self.ended().is_some())?;
        self.ended()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("its status")
    }

    /// How much memory it holds, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every process, with its parent.
fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // Its name, in brackets, may hold anything.
        Some((id, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
    })
    .collect()
}

/// These processes, and all that descend from them.
pub(crate) fn with_descendants(of: impl IntoIterator<Item = i32>) -> BTreeSet<i32> {
    let parents = parents();
    let mut found: BTreeSet<i32> = of.into_iter().collect();
    loop {
        let more: Vec<_> =
            parents.iter().filter(|(id, parent)| found.contains(parent) && !found.contains(id)).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more.into_iter().map(|(id, _)| id));
    }
}

/// The processes whose command line names something in this directory.
pub(crate) fn naming(path: &Path) -> BTreeSet<i32> {
    let path = format!("{}/", path.display());
    let own = i32::try_from(std::process::id()).expect("a process's number");
    let names = |id: &i32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        *id != own && String::from_utf8_lossy(&line).contains(&path)
    };
    parents().into_iter().map(|(id, _)| id).filter(names).collect()
}

/// Kills these, each by its number, and waits until they are gone.
pub(crate) fn kill_all(ids: &BTreeSet<i32>) {
    for &id in ids {
        let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
    }
    // A zombie has no command line.
    let gone = |id: &i32| fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default().is_empty();
    wait(Duration::from_secs(10), || ids.iter().all(gone));
}
