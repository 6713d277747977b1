//! Clocks that jump: those of the coordinator and of an agent, by hours and days, while tasks run. It needs libfaketime.

use crate::home::{Home, Runtime, text};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

const TASKS: usize = 60;

/// Where packages put it.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock of one process, which goes wrong when it is told to.
struct Clock(PathBuf);

impl Clock {
    fn new(home: &Home, name: &str) -> Self {
        let clock = Self(home.path(name));
        clock.jump("+0");
        clock
    }

    /// From now on it is wrong by this much.
    fn jump(&self, by: &str) {
        // At once: it may be read at any time.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{by}\n")).expect("a file for the clock");
        fs::rename(new, &self.0).expect("a file for the clock");
    }

    fn env(&self, library: &Path) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.clone()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

/// None if this machine has none, which is said. In CI that is a failure.
fn library() -> Option<PathBuf> {
    let dirs = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = dirs.map(|dir| dir.join(LIBRARY)).find(|path| path.exists());
    if found.is_none() {
        let required = std::env::var_os("PIECEWORK_TEST_REQUIRE_DOCKER").is_some();
        assert!(!required, "a test that must run here can't: there is no libfaketime");
        eprintln!("not run: there is no libfaketime");
    }
    found
}

#[test]
fn clocks_that_jump_lose_and_repeat_nothing() {
    let Some(library) = library() else { return };
    let mut home = Home::new(Runtime::Process);
    let [ours, theirs] = ["clock-of-coordinator", "clock-of-agent"].map(|name| Clock::new(&home, name));
    home.env = ours.env(&library);
    let _server = home.server_with(&["--listen", "127.0.0.1:0", "--lease-secs", "2"]);
    let said = home.output(&["--output", "json", "agents", "join-token"]);
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let [address, token] = ["address", "token"].map(|name| said[name].as_str().expect("a text").to_owned());
    home.env = theirs.env(&library);
    let _agent = home.agent_of_fleet("a", &address, &token, &["--slots", "2"]);

    let project = |name: &str| {
        let project = serde_json::json!({
            "name": name,
            "image": "none",
            "items": {"range": format!("1..={TASKS}")},
            "task": {"command": ["sh", "-c", "sleep 0.3; echo result of $0", "{item}"], "timeout": "60s"},
        });
        home.write("project.json", project.to_string())
    };
    let file = project("clocks");
    let mut run = home.piecework(&["run", &file.to_string_lossy()]);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("piecework run");
    let run = thread::spawn(move || run.wait_with_output());
    let tasks = || -> Vec<serde_json::Value> {
        let said = home.output(&["tasks", "--json", "clocks"]);
        text(&said.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let jumps =
        [(&ours, "+3h"), (&theirs, "-2d"), (&ours, "-3h"), (&theirs, "+2d"), (&ours, "+0"), (&theirs, "+0")];
    for (number, (clock, by)) in jumps.into_iter().enumerate() {
        let ended = || tasks().iter().filter(|task| task["state"] == "succeeded").count();
        home.wait("some tasks have ended", || ended() >= 8 * (number + 1));
        clock.jump(by);
    }
    let output = run.join().expect("the waiting").expect("its output");
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), home.logs());
    let expected: String = (1..=TASKS).map(|index| format!("result of {index}\n")).collect();
    assert_eq!(text(&output.stdout), expected, "{}", home.logs());
    for task in tasks() {
        let attempts = task["attempts"].as_array().map_or(0, Vec::len);
        assert_eq!(attempts, 1, "{task}\n{}", home.logs());
    }
    let logged = fs::read_to_string(home.path("server.log")).expect("its log");
    assert!(!logged.contains("session closed"), "{logged}");

    // It was its clock that jumped.
    let hour = |project: &str| {
        let said = home.output(&["show", "--output", "json", project]);
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        said["project"]["created"].as_str().expect("a time").get(..13).expect("a date and an hour").to_owned()
    };
    ours.jump("+3h");
    assert!(home.output(&["submit", &project("later").to_string_lossy()]).status.success());
    assert_ne!(hour("later"), hour("clocks"));
}
