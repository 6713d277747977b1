//! `kill -9` of the coordinator and of the agent in the middle of a project on Docker.

use crate::{
    home::{Home, Program, Runtime, text},
    witness::Witness,
};
use std::{
    io::Read,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

const TASKS: u32 = 200;
const SLOTS: u32 = 4;

struct Scene {
    home: Home,
    witness: Witness,
    server: Program,
    agent: Program,
    run: Child,
}

/// A project of 200 tasks under way: each tells the witness that it starts, and prints a line.
fn scene() -> Option<Scene> {
    if Runtime::Docker.is_missing() {
        return None;
    }
    let home = Home::new(Runtime::Docker);
    let witness = Witness::new();
    let (host, port) = (witness.address.ip(), witness.address.port());
    let script = format!("echo $0 | nc -w 5 {host} {port}; sleep 0.3; echo result of $0");
    let project = serde_json::json!({
        "name": "crashes",
        "image": home.runtime.image(),
        "items": {"range": format!("0..={}", TASKS - 1)},
        "task": {"command": ["sh", "-c", script, "{item}"], "network": "bridge"},
    });
    let file = home.write("crashes.json", project.to_string());
    let server = home.server();
    let agent = home.agent(SLOTS);
    let mut run = home.piecework(&["run"]);
    let run = run.arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("piecework run");
    Some(Scene { home, witness, server, agent, run })
}

impl Scene {
    fn wait_for_starts(&self, starts: usize) {
        self.home.wait("enough tasks have started", || self.witness.count() >= starts);
        assert!(!self.home.containers().is_empty(), "the tasks do not run in this agent's containers");
    }

    /// The project ends well, and each task has one result.
    fn ends_well(mut self) {
        let mut stdout = self.run.stdout.take().expect("its stdout");
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).map(|_| all)
        });
        let run = &mut self.run;
        self.home.wait("the project ends", || run.try_wait().expect("its status").is_some());
        let status = self.run.wait().expect("its status");
        let mut stderr = String::new();
        self.run.stderr.take().expect("its stderr").read_to_string(&mut stderr).expect("text");
        assert!(status.success(), "{stderr}\n{}", self.home.logs());
        let stdout = text(&reader.join().expect("the reader").expect("its stdout"));
        let expected: String = (0..TASKS).map(|index| format!("result of {index}\n")).collect();
        assert!(stdout == expected, "lines are missing, doubled or out of order:\n{stdout}");
        let starts = self.witness.starts();
        let repeated: Vec<_> = starts.iter().filter(|&(_, &times)| times != 1).collect();
        assert!(
            repeated.is_empty(),
            "started more than once (task, times): {repeated:?}\n{}",
            self.home.logs()
        );
        assert_eq!(starts.len(), TASKS as usize, "tasks that never started have results");
        // While it runs, it keeps some for projects to come.
        assert!(self.agent.terminate().success());
        self.home.wait("no container is left over", || self.home.containers().is_empty());
        assert!(self.server.terminate().success());
    }
}

#[test]
fn the_coordinator_dies() {
    let Some(mut scene) = scene() else { return };
    for starts in [40, 90, 140] {
        scene.wait_for_starts(starts);
        scene.server.kill();
        // Tasks end meanwhile, and wait in the agent's outbox.
        thread::sleep(Duration::from_millis(700));
        scene.server = scene.home.server();
    }
    scene.ends_well();
}

#[test]
fn the_agent_dies() {
    let Some(mut scene) = scene() else { return };
    for starts in [40, 90, 140] {
        scene.wait_for_starts(starts);
        scene.agent.kill();
        thread::sleep(Duration::from_millis(200));
        scene.agent = scene.home.agent(SLOTS);
    }
    scene.ends_well();
}
