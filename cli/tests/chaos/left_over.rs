//! What must not be left over when everything has ended: endings, files, containers, memory.

use crate::{
    fleet::{Fleet, Host, SLOTS},
    process::{run_text, wait},
    report::Report,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long what is done with may take to be removed. What could not be is tried again every 30 s.
const REMOVAL_MAX: Duration = Duration::from_secs(45);

/// How many workers an agent may keep that has nothing to do: one a slot from the last project, and as many made ahead.
const IDLE_MAX: usize = 2 * SLOTS;

/// As much memory more than before is no leak, in KiB.
const MEMORY_SLACK_KIB: u64 = 32 << 10;

/// How long a program may take to stop.
const STOP_MAX: Duration = Duration::from_secs(60);

/// How much memory each program holds: the coordinator's first, in KiB.
pub(crate) fn memory(fleet: &Fleet) -> Vec<u64> {
    let agents = fleet.hosts.iter().map(|host| host.agent().memory_kib());
    [fleet.server().memory_kib()].into_iter().chain(agents).collect()
}

/// Stops everything; says what is left over.
pub(crate) fn check(fleet: &mut Fleet, before: &[u64], report: &mut Report) -> Vec<String> {
    let mut wrong = Vec::new();
    for host in &fleet.hosts {
        if wait(REMOVAL_MAX, || unsettled(host) == Some(0)).is_none() {
            wrong.push(format!("{}: {:?} endings are left in its outbox", host.name(), unsettled(host)));
        }
        if wait(REMOVAL_MAX, || files(&host.data().join("outbox/spool")).is_empty()).is_none() {
            let files = files(&host.data().join("outbox/spool"));
            wrong.push(format!("{}: in its spool are left {files:?}", host.name()));
        }
        // Now: when it stops, an agent removes what it had forgotten, too.
        if wait(REMOVAL_MAX, || unused(host).is_none()).is_none() {
            wrong.extend(unused(host));
        }
    }
    let after = memory(fleet);
    let mib = |kib: &[u64]| kib.iter().map(|kib| (kib >> 10).to_string()).collect::<Vec<_>>().join(", ");
    report.line(format!(
        "memory in MiB, coordinator and agents: {} before, {} after",
        mib(before),
        mib(&after)
    ));
    if before.iter().zip(&after).any(|(before, after)| *after > before + MEMORY_SLACK_KIB) {
        wrong.push(format!("memory has grown from {} MiB to {} MiB", mib(before), mib(&after)));
    }
    for host in &mut fleet.hosts {
        let ended = host.agent.take().and_then(|agent| agent.terminate(STOP_MAX));
        if !ended.is_some_and(|status| status.success()) {
            wrong.push(format!("{} did not stop well: {ended:?}", host.name()));
        }
        let containers = host.containers();
        if !containers.is_empty() {
            wrong.push(format!("{}: containers are left: {containers:?}", host.name()));
        }
        let volumes = run_text(&mut host.engine.docker(&["volume", "ls", "--quiet"]));
        if !volumes.is_empty() {
            wrong.push(format!("{}: volumes are left: {volumes}", host.name()));
        }
        let workers = files(&host.data().join("workers/docker"));
        if !workers.is_empty() {
            wrong.push(format!("{}: files of workers are left: {workers:?}", host.name()));
        }
    }
    // Objects are written beside their place, under a name with this sign, and moved there.
    let is_staged =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains('#'));
    let staged: Vec<_> = below(&fleet.data()).into_iter().filter(is_staged).collect();
    if !staged.is_empty() {
        wrong.push(format!("the coordinator has left {staged:?}"));
    }
    let ended = fleet.server.take().and_then(|server| server.terminate(STOP_MAX));
    if !ended.is_some_and(|status| status.success()) {
        wrong.push(format!("the coordinator did not stop well: {ended:?}"));
    }
    if fleet.data().join("piecework.sock").exists() {
        wrong.push("the coordinator's socket is left".to_owned());
    }
    wrong
}

/// What a running agent has on its host and can't use: a container that does not run, or one without its directory, or a
/// directory without its container.
fn unused(host: &Host) -> Option<String> {
    let [containers, dirs] = [host.containers().len(), files(&host.data().join("workers/docker")).len()];
    let running = host.containers().iter().filter(|id| host.engine.first_process(id).is_some()).count();
    let fits = containers <= IDLE_MAX && dirs == containers && running == containers;
    (!fits).then(|| {
        format!("{}: {containers} containers, of which {running} run, and {dirs} directories", host.name())
    })
}

/// How many endings are in an agent's outbox.
fn unsettled(host: &Host) -> Option<i64> {
    let outbox = rusqlite::Connection::open(host.data().join("outbox/outbox.sqlite")).ok()?;
    outbox.query_row("SELECT count(*) FROM report", [], |row| row.get(0)).ok()
}

/// All files below a directory.
fn below(dir: &Path) -> Vec<PathBuf> {
    let (dirs, mut all): (Vec<_>, Vec<_>) = files(dir).into_iter().partition(|path| path.is_dir());
    all.extend(dirs.iter().flat_map(|dir| below(dir)));
    all
}

/// What is in a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
