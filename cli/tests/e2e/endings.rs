//! A thousand tasks that end in every way there is: each recorded reason is the true one, and after each the next task
//! runs.

use crate::home::{Home, Image, Runtime, player, players_image, text};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const TASKS: usize = 1000;

/// One way to end: the name that the program is called by, the reason that must be recorded, and how often it comes.
struct Way {
    name: &'static str,
    kind: &'static str,
    code: i64,
    weight: u32,
    /// Needs limits that only containers have.
    limited: bool,
}

const fn way(name: &'static str, kind: &'static str, code: i64, weight: u32, limited: bool) -> Way {
    Way { name, kind, code, weight, limited }
}

const WAYS: [Way; 15] = [
    way("exit-0", "exited", 0, 300, false),
    way("exit-7", "exited", 7, 200, false),
    way("exit-255", "exited", 255, 50, false),
    way("signal-11", "signaled", 11, 100, false),
    way("signal-15", "signaled", 15, 100, false),
    // Sent by the task itself: not ours, and not for want of memory.
    way("signal-9", "signaled", 9, 50, false),
    way("daemon-0", "exited", 0, 50, false),
    way("daemon-3", "exited", 3, 50, false),
    way("missing", "could_not_start", 0, 40, false),
    way("plain-file", "could_not_start", 0, 40, false),
    way("late", "timed_out", 0, 6, false),
    way("deaf", "timed_out", 0, 2, false),
    way("prints", "output_limit", 0, 10, false),
    way("memory", "out_of_memory", 0, 8, true),
    way("processes", "pids_limit", 0, 8, true),
];

/// The names under which the program is called, in a directory.
fn links(dir: &Path, target: &Path) {
    for way in WAYS.iter().filter(|way| way.kind != "could_not_start") {
        std::os::unix::fs::symlink(target, dir.join(way.name)).expect("a link");
    }
    std::fs::write(dir.join("plain-file"), "not a program").expect("a file");
}

fn check(runtime: Runtime) {
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    let seed = 20_261_123;
    let mut random = StdRng::seed_from_u64(seed);
    let can_be = |way: &&Way| runtime == Runtime::Docker || !way.limited;
    let total: u32 = WAYS.iter().filter(can_be).map(|way| way.weight).sum();
    let ways: Vec<&Way> = (0..TASKS)
        .map(|_| {
            let mut drawn = random.random_range(0..total);
            let mut ways = WAYS.iter().filter(can_be);
            loop {
                let way = ways.next().expect("less than the sum was drawn");
                match drawn.checked_sub(way.weight) {
                    Some(rest) => drawn = rest,
                    None => return way,
                }
            }
        })
        .collect();
    let (image, dir): (Option<Image>, PathBuf) = match runtime {
        Runtime::Docker => {
            let image = players_image(&["ending"], &[], |root| {
                std::fs::create_dir(root.join("ways")).expect("a directory");
                links(&root.join("ways"), Path::new("/bin/ending"));
            });
            (Some(image), "/ways".into())
        }
        Runtime::Process => {
            let dir = home.path("ways");
            std::fs::create_dir(&dir).expect("a directory");
            links(&dir, &player("ending"));
            (None, dir)
        }
    };
    let items: Vec<String> = ways.iter().map(|way| dir.join(way.name).display().to_string()).collect();
    let mut task = json!({"command": ["{item}"], "timeout": "1500ms", "output_limit": "64KiB"});
    if runtime == Runtime::Docker {
        task["resources"] = json!({"memory": "32MiB", "pids": 32});
    }
    let project = json!({
        "name": "endings",
        "image": image.as_ref().map_or("none", |image| &image.0),
        "items": items,
        "task": task,
        "reassemble": "none",
    });
    let file = home.write("endings.json", project.to_string());
    let _server = home.server();
    let _agent = home.agent(2);
    let submitted = home.output(&["submit", &file.to_string_lossy()]);
    assert!(submitted.status.success(), "{}", text(&submitted.stderr));
    home.output(&["watch", "endings"]);
    let listed = home.output(&["tasks", "endings", "--json"]);
    let listed: Vec<Value> =
        text(&listed.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(listed.len(), TASKS, "{}\n{}", text(&submitted.stderr), home.logs());
    let mut wrong = Vec::new();
    for (index, (task, way)) in listed.iter().zip(&ways).enumerate() {
        let outcome = &task["outcome"];
        let code = outcome["code"].as_i64().unwrap_or(0);
        if task["index"] != index || outcome["kind"] != way.kind || code != way.code {
            wrong.push(format!("task {index}, {}: {outcome}", way.name));
        }
    }
    assert!(wrong.is_empty(), "seed {seed}, {} wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), home.logs());
}

#[test]
fn every_recorded_reason_is_true_on_docker() {
    check(Runtime::Docker);
}

#[test]
fn every_recorded_reason_is_true_in_processes() {
    check(Runtime::Process);
}
