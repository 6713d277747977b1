//! `piecework bench`: each measurement in a small form, what it says of those that can't be had, and that nothing is left
//! over however it ends. Never how fast anything was.

use crate::{
    home::{Home, PATIENCE, Runtime, docker, finish},
    node::Node,
};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

/// Every measurement, with the rows that it has.
const ALL: &[(&str, usize)] = &[
    ("spawn", 1),
    ("control", 1),
    ("submit", 3),
    ("latency", 2),
    ("fresh", 1),
    ("output", 3),
    ("queens", 1),
    ("tls", 1),
    ("behind", 2),
    ("fleet", 6),
    ("broker", 2),
];

/// Those that need Docker.
const DOCKER_ONLY: &[&str] = &["latency", "fresh"];

/// Two rounds of the least.
const SMALL: &[&str] = &[
    "--rounds",
    "2",
    "--tasks",
    "6",
    "--output-mib",
    "1",
    "--board",
    "5",
    "--agents",
    "3",
    "--idle-secs",
    "1",
];

fn bench(home: &Home, args: &[&str]) -> Command {
    let dir = home.path("bench");
    fs::create_dir_all(&dir).expect("a directory");
    let common = ["bench", "--output", "json", "--runtime", home.runtime.name(), "--dir"];
    home.piecework(&[&common[..], &[dir.to_str().expect("a path")], args].concat())
}

fn report(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{said}"))
}

fn names<'a>(report: &'a serde_json::Value, list: &str) -> Vec<&'a str> {
    let list = report[list].as_array().expect("a list");
    list.iter().map(|entry| entry["name"].as_str().expect("a name")).collect()
}

/// Nothing is left of a bench: no file, no process, no image.
#[track_caller]
fn check_nothing_left(home: &Home) {
    let dir = home.path("bench");
    let left: Vec<_> =
        fs::read_dir(&dir).expect("the directory").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left over: {left:?}");
    assert_eq!(processes(&dir, ""), Vec::<String>::new());
}

/// Processes whose command line names a directory and a word.
fn processes(dir: &Path, word: &str) -> Vec<String> {
    let dir = dir.to_str().expect("a path");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter(|entry| {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&words).replace('\0', " ");
            // The bench itself names the directory as its option.
            line.contains("bench-part") && line.contains(dir) && line.contains(word)
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn kill(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().expect("kill").success());
}

fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .expect("piecework bench")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn check_every_measurement(runtime: Runtime) {
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    // In Docker it would be the same.
    let node = if runtime == Runtime::Process { Node::start() } else { None };
    let images = || docker(&["images", "--quiet", "--filter", "reference=piecework-bench-*"]);
    let mut bench = bench(&home, SMALL);
    bench.envs(node.iter().map(|node| ("PIECEWORK_BROKER", node.url())));
    let output = finish(bench.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let report = report(&output);
    assert_eq!(report["failed"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert_eq!(output.status.code(), Some(0), "{report:#}");

    let (out, measured): (Vec<_>, Vec<_>) = ALL.iter().partition(|(name, _)| match *name {
        "broker" => node.is_none(),
        name => runtime == Runtime::Process && DOCKER_ONLY.contains(&name),
    });
    let left_out: BTreeSet<_> = names(&report, "left_out").into_iter().collect();
    assert_eq!(left_out, out.iter().map(|(name, _)| *name).collect());
    let rows: Vec<_> = measured.iter().flat_map(|(name, rows)| std::iter::repeat_n(*name, *rows)).collect();
    assert_eq!(names(&report, "rows"), rows);
    for row in report["rows"].as_array().expect("rows") {
        let rounds = |side: &str| row[side].as_array().expect("rounds").len();
        // What is so small may not show.
        let least = if row["name"] == "fleet" { 0.0 } else { f64::MIN_POSITIVE };
        assert!(row["ours"].as_f64().is_some_and(|ours| ours >= least), "{row:#}");
        if row["against"].is_string() {
            assert!(
                row["name"] == "behind" || row["name"] == "broker" || row["goal"]["bound"].as_f64().is_some(),
                "{row:#}"
            );
            assert_eq!(rounds("ours_rounds"), rounds("theirs_rounds"), "{row:#}");
            assert!(row["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row:#}");
        }
        // Repetitions take the place of rounds.
        let expected = match (row["name"].as_str(), row["unit"].as_str()) {
            (Some("latency"), _) => 6,
            (Some("submit"), Some("MB")) => 1,
            (Some("fleet"), Some("% of a processor" | "kB" | "bytes")) => 1,
            _ => 2,
        };
        assert_eq!(rounds("ours_rounds"), expected, "{row:#}");
    }
    check_nothing_left(&home);
    if runtime == Runtime::Docker {
        wait_until("its image is gone", || images().is_empty());
    }
}

#[test]
fn every_measurement_runs_in_docker() {
    check_every_measurement(Runtime::Docker);
}

#[test]
fn every_measurement_that_needs_no_docker_runs_with_processes() {
    check_every_measurement(Runtime::Process);
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let home = Home::new(Runtime::Process);
    let bench = start(&mut bench(&home, &["spawn", "--tasks", "10000000"]));
    let dir = home.path("bench");
    wait_until("the agent runs", || !processes(&dir, " agent ").is_empty());
    kill("-INT", &bench.id().to_string());
    let output = bench.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(130));
    check_nothing_left(&home);
}

#[test]
fn a_killed_bench_leaves_no_process() {
    let home = Home::new(Runtime::Process);
    let mut bench = start(&mut bench(&home, &["control", "--tasks", "10000000"]));
    let dir = home.path("bench");
    wait_until("the agent runs", || !processes(&dir, " agent ").is_empty());
    bench.kill().expect("kill");
    bench.wait().expect("wait");
    wait_until("its processes are gone", || processes(&dir, "").is_empty());
}

#[test]
fn an_agent_that_dies_is_told_and_the_next_measurement_runs() {
    let home = Home::new(Runtime::Process);
    let args = ["control", "latency", "--tasks", "10000000"];
    let bench = start(&mut bench(&home, &args));
    let dir = home.path("bench");
    wait_until("the agent runs", || !processes(&dir, " agent ").is_empty());
    for pid in processes(&dir, " agent ") {
        kill("-KILL", &pid);
    }
    let output = bench.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(7));
    let report = report(&output);
    assert_eq!(names(&report, "failed"), ["control"]);
    assert_eq!(names(&report, "left_out"), ["latency"]);
    let why = report["failed"][0]["why"].as_str().expect("why");
    assert!(why.contains("agent has ended by itself"), "{why}");
    check_nothing_left(&home);
}
