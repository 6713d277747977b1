//! A fleet: two agents that joined over TLS, and a client with a token.

use crate::{
    home::{Home, Program, Runtime, containers_of, text},
    witness::Witness,
};
use std::{process::Stdio, thread};

const TASKS: u32 = 200;

/// A task that runs over more than one restart.
const LONG: u32 = 7;

struct Fleet {
    home: Home,
    address: String,
    join: String,
    client: String,
    server: Program,
}

impl Fleet {
    fn new(runtime: Runtime) -> Self {
        let home = Home::new(runtime);
        let server = home.server_with(&["--listen", "127.0.0.1:0"]);
        let said = home.output(&[
            "--output",
            "json",
            "agents",
            "join-token",
            "--uses",
            "2",
            "--label",
            "fleet=test",
        ]);
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        let field = |name: &str| said[name].as_str().expect("a text").to_owned();
        let client = text(&home.output(&["tokens", "create", "tester"]).stdout).trim().to_owned();
        Self { address: field("address"), join: field("token"), client, server, home }
    }

    fn agent(&self, name: &str) -> Program {
        self.home.agent_of_fleet(name, &self.address, &self.join, &["--slots", "2", "--on-stop", "leave"])
    }

    fn restart_server(&mut self) {
        assert!(self.server.terminate().success());
        let listen = self.address.strip_prefix("https://").expect("an address").to_owned();
        self.server = self.home.server_with(&["--listen", &listen]);
    }
}

#[test]
fn a_rolling_restart_loses_and_repeats_nothing() {
    if Runtime::Docker.is_missing() {
        return;
    }
    let mut fleet = Fleet::new(Runtime::Docker);
    let mut agents = ["a", "b"].map(|name| fleet.agent(name));
    let witness = Witness::new();
    let (host, port) = (witness.address.ip(), witness.address.port());
    let script = format!(
        "echo $0 | nc -w 5 {host} {port}; if [ $0 = {LONG} ]; then sleep 12; else sleep 0.2; fi; echo result of $0"
    );
    let project = serde_json::json!({
        "name": "rolling",
        "image": fleet.home.runtime.image(),
        "items": {"range": format!("0..={}", TASKS - 1)},
        "task": {"command": ["sh", "-c", script, "{item}"], "network": "bridge"},
    });
    let file = fleet.home.write("rolling.json", project.to_string());
    let mut run = fleet.home.piecework(&["run"]);
    run.arg(&file).env("PIECEWORK_SERVER", &fleet.address).env("PIECEWORK_TOKEN", &fleet.client);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("piecework run");
    let run = thread::spawn(move || run.wait_with_output());
    for (starts, which) in [(30, Some(0)), (60, Some(1)), (90, None), (120, Some(0)), (150, Some(1))] {
        fleet.home.wait("enough tasks have started", || witness.count() >= starts);
        match which {
            Some(which) => {
                assert!(agents[which].terminate().success());
                agents[which] = fleet.agent(["a", "b"][which]);
            }
            None => fleet.restart_server(),
        }
    }
    let output = run.join().expect("the waiting").expect("its output");
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), fleet.home.logs());
    let expected: String = (0..TASKS).map(|index| format!("result of {index}\n")).collect();
    assert!(text(&output.stdout) == expected, "lines are missing, doubled or out of order");
    let starts = witness.starts();
    let repeated: Vec<_> = starts.iter().filter(|&(_, &times)| times != 1).collect();
    assert!(repeated.is_empty(), "started more than once (task, times): {repeated:?}\n{}", fleet.home.logs());
    assert_eq!(starts.len(), TASKS as usize);

    // One is drained and removed, and ends by itself; the other is stopped.
    let [mut a, mut b] = agents;
    assert!(fleet.home.output(&["agents", "drain", "a", "--wait"]).status.success());
    assert!(fleet.home.output(&["agents", "remove", "a"]).status.success());
    fleet.home.wait("the removed agent ends", || a.0.try_wait().expect("its status").is_some());
    assert_eq!(a.0.wait().expect("its status").code(), Some(4));
    assert!(b.terminate().success());
    for name in ["a", "b"] {
        let dir = fleet.home.path(&format!("agent-{name}"));
        fleet.home.wait("no container is left over", || containers_of(&dir).is_empty());
    }
    let listed = text(&fleet.home.output(&["agents"]).stdout);
    assert!(!listed.contains("\na ") && listed.contains("fleet=test"), "{listed}");
}

#[test]
fn a_client_elsewhere_has_what_the_owner_has() {
    let fleet = Fleet::new(Runtime::Process);
    let _agent = fleet.agent("a");
    let file = fleet.home.write(
        "hello.yaml",
        "image: none\nitems: {range: 1..=20}\ntask: {command: [echo, \"hello {item}\"]}\n",
    );
    let remote = |args: &[&str], token: &str| {
        let mut command = fleet.home.piecework(args);
        command.env("PIECEWORK_SERVER", &fleet.address).env("PIECEWORK_TOKEN", token);
        command.output().expect("piecework")
    };
    let output = remote(&["run", &file.to_string_lossy()], &fleet.client);
    let expected: String = (1..=20).map(|index| format!("hello {index}\n")).collect();
    assert_eq!(text(&output.stdout), expected, "{}\n{}", text(&output.stderr), fleet.home.logs());
    let refused = remote(&["ls"], "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("a token is needed"), "{}", text(&refused.stderr));
    let refused = remote(&["ls"], &fleet.join);
    assert!(text(&refused.stderr).contains("for agents to join with"), "{}", text(&refused.stderr));
}
