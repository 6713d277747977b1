//! An open project, to which tasks are piped while the coordinator is killed.

use crate::home::{Home, Runtime, text};
use std::{
    io::Write,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

const LINES: u32 = 600;
/// After so many lines the coordinator is killed.
const KILLS: [u32; 3] = [100, 250, 400];
const SLOTS: u32 = 2;

fn project(items: &str) -> String {
    format!(
        "name: open\nimage: busybox\nitems: {items}\ntask:\n  command: [sh, -c, 'echo result of $0', \"{{item}}\"]\n"
    )
}

fn tasks_done(home: &Home) -> u64 {
    let shown = home.output(&["show", "open", "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    shown["project"]["succeeded"].as_u64().unwrap_or_default()
}

fn text_of(child: Child) -> (bool, String, String) {
    let output = child.wait_with_output().expect("its output");
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn lines_are_piped_into_an_open_project_while_the_coordinator_dies() {
    let home = Home::new(Runtime::Process);
    home.write("open.yaml", project("{open: {}}"));
    let mut server = home.server();
    let _agent = home.agent(SLOTS);
    assert!(home.output(&["submit", "open.yaml"]).status.success());
    let spawn = |args: &[&str]| {
        let mut command = home.piecework(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("piecework")
    };
    let results = spawn(&["results", "open"]);
    let mut add = spawn(&["add", "open", "--file", "-", "--end"]);
    let mut lines = add.stdin.take().expect("its stdin");
    for n in 0..LINES {
        writeln!(lines, "{n}").expect("a line");
        if KILLS.contains(&n) {
            // What was said before runs while the pipe is still open.
            home.wait("some tasks have ended", || tasks_done(&home) > u64::from(n) / 2);
            server.kill();
            server = home.server();
        }
        thread::sleep(Duration::from_millis(1));
    }
    drop(lines);
    let (well, numbers, stderr) = text_of(add);
    assert!(well, "{stderr}\n{}", home.logs());
    assert!(stderr.ends_with("600 tasks added to project 1 (open); it takes no more\n"), "{stderr}");
    assert_eq!(numbers, (0..LINES).map(|n| format!("{n}\n")).collect::<String>());
    let (well, printed, stderr) = text_of(results);
    assert!(well, "{stderr}\n{}", home.logs());
    assert_eq!(printed, (0..LINES).map(|n| format!("result of {n}\n")).collect::<String>());
    let late = home.output(&["add", "open", "late"]);
    assert_eq!(late.status.code(), Some(5), "{}", text(&late.stderr));
}

#[test]
fn a_project_that_runs_alone_ends_when_nothing_is_added() {
    let home = Home::new(Runtime::Process);
    let file = home.write("open.yaml", project("{open: {idle: 2s}}"));
    let mut run = home.piecework(&["run", "--runtime", "process"]);
    let run = run.arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("piecework run");
    home.wait("it takes a task", || home.output(&["add", "open", "one"]).status.success());
    let (well, printed, stderr) = text_of(run);
    assert!(well, "{stderr}");
    assert_eq!(printed, "result of one\n");
}
