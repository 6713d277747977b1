//! The ordered result is byte for byte what a sequential run prints.

use crate::home::{Home, Runtime, finish, text};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

/// A task that prints strange things, after a while that is longer for the first ones.
const STRANGE: &str = r#"
i=$1
case $((i % 6)) in
0) sleep 0.3; printf 'line of %s\n' "$i" ;;
1) printf 'no end %s' "$i" ;;
2) : ;;
3) printf '\000\377\001\n\n\r\n\000%s' "$i"; echo "only stderr $i" >&2 ;;
4) echo "first $i" >&2; echo "second $i"; echo "third $i" >&2 ;;
5) sleep 0.1; head -c 100000 /dev/zero | tr '\000' "$((i % 10))" ;;
esac
"#;

fn strange(runtime: Runtime, tasks: u32) {
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    let project = serde_json::json!({
        "name": "strange",
        "image": runtime.image(),
        "items": {"range": format!("0..={}", tasks - 1)},
        "task": {"command": ["sh", "-c", STRANGE.replace('{', "{{").replace('}', "}}"), "strange", "{item}"]},
    });
    let file = home.write("strange.json", project.to_string());
    let ran = home.run(&file);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let mut sequential = Vec::new();
    for index in 0..tasks {
        let index = index.to_string();
        let alone =
            Command::new("sh").args(["-c", STRANGE, "strange", &index]).stderr(Stdio::null()).output();
        sequential.extend(alone.expect("sh").stdout);
    }
    assert!(ran.stdout == sequential, "the result differs from the sequential run's");
    assert!(!text(&ran.stderr).contains("only stderr"), "a task's stderr in ours: {}", text(&ran.stderr));
    // Each stream of a task by itself.
    let _server = home.server();
    let both = home.output(&["logs", "strange", "4"]);
    assert_eq!(
        (text(&both.stdout).as_str(), text(&both.stderr).as_str()),
        ("second 4\n", "first 4\nthird 4\n")
    );
    let only = home.output(&["logs", "strange", "4", "--stdout"]);
    assert_eq!((text(&only.stdout).as_str(), text(&only.stderr).as_str()), ("second 4\n", ""));
    if runtime == Runtime::Docker {
        assert_eq!(home.containers(), Vec::<String>::new());
    }
}

#[test]
fn strange_output_on_docker() {
    strange(Runtime::Docker, 24);
}

#[test]
fn strange_output_in_processes() {
    strange(Runtime::Process, 120);
}

fn large(runtime: Runtime) {
    const BYTES: usize = 50_000_000;
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    let project = serde_json::json!({
        "image": runtime.image(),
        "items": ["a", "b"],
        "task": {"command": ["sh", "-c", format!("yes \"line of $0\" | head -c {BYTES}"), "{item}"]},
    });
    let ran = home.run(&home.write("large.json", project.to_string()));
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let expected = ["a", "b"].map(|item| format!("line of {item}\n").into_bytes());
    assert_eq!(ran.stdout.len(), 2 * BYTES);
    for (half, line) in ran.stdout.chunks(BYTES).zip(expected) {
        let expected = line.iter().copied().cycle().take(BYTES);
        assert!(half.iter().copied().eq(expected), "the bytes differ");
    }
}

#[test]
fn a_hundred_megabytes_on_docker() {
    large(Runtime::Docker);
}

#[test]
fn a_hundred_megabytes_in_processes() {
    large(Runtime::Process);
}

#[test]
fn results_appear_while_later_tasks_run() {
    let home = Home::new(Runtime::Process);
    let gate = home.path("gate");
    let wait = "if [ $0 = later ]; then until [ -e \"$1\" ]; do sleep 0.02; done; fi; echo $0";
    let project = serde_json::json!({
        "image": "none",
        "items": ["sooner", "later"],
        "task": {"command": ["sh", "-c", wait, "{item}", gate], "timeout": "120s"},
    });
    let file = home.write("gate.json", project.to_string());
    let mut run = home.piecework(&["run", "--runtime", "process", "--slots", "2"]);
    let mut run = run.arg(&file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("piecework run");
    let mut stdout = BufReader::new(run.stdout.take().expect("its stdout"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line while the other task waits");
    assert_eq!(line, "sooner\n");
    fs::write(&gate, "").expect("the gate");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "later\n");
    assert!(run.wait().expect("its status").success());
}

#[test]
fn a_reassemble_command_reads_the_ordered_output() {
    for runtime in [Runtime::Docker, Runtime::Process] {
        if runtime.is_missing() {
            continue;
        }
        let home = Home::new(runtime);
        let project = serde_json::json!({
            "image": runtime.image(),
            "split": {"command": ["seq", "3"]},
            "task": {"command": ["sh", "-c", "sleep 0.$((5 - $0)); echo item $0 index $1", "{item}", "{index}"]},
            "reassemble": {"command": ["sh", "-c", "cat; echo that was all"]},
        });
        let ran = home.run(&home.write("fold.json", project.to_string()));
        assert_eq!(
            text(&ran.stdout),
            "item 1 index 0\nitem 2 index 1\nitem 3 index 2\nthat was all\n",
            "{}",
            text(&ran.stderr)
        );
    }
}

#[test]
fn a_list_of_tasks_is_several_projects_in_task_order() {
    let home = Home::new(Runtime::Process);
    let entry = |project: u32, task: serde_json::Value, phrase: &str| serde_json::json!({"cmd": "echo ", "id_projet": project, "id_task": task, "phrase": phrase, "url": "https://example.org"});
    let list = serde_json::json!([
        entry(0, "10".into(), "ten"),
        entry(1, 0.into(), "other project"),
        entry(0, "9".into(), "it's  nine"),
        entry(0, 1.into(), "one; $HOME `x`"),
    ]);
    let ran = home.run(&home.write("list.json", list.to_string()));
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(text(&ran.stdout), "one; $HOME `x`\nit's  nine\nten\nother project\n");
}

#[test]
fn retries_follow_the_policy() {
    let home = Home::new(Runtime::Process);
    let count = home.path("count");
    let script = "echo x >> \"$0\"; [ $(wc -l < \"$0\") -ge 3 ] && echo well";
    let project = |retries: u32| {
        serde_json::json!({
            "image": "none",
            "items": ["only"],
            "task": {"command": ["sh", "-c", script, count], "retries": retries},
        })
        .to_string()
    };
    let ran = home.run(&home.write("two.json", project(1)));
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stderr).contains("1 of 1 task failed"), "{}", text(&ran.stderr));
    fs::remove_file(&count).expect("the count");
    let ran = home.run(&home.write("three.json", project(2)));
    assert_eq!((ran.status.code(), text(&ran.stdout).as_str()), (Some(0), "well\n"), "{}", text(&ran.stderr));
}

#[test]
fn cancel_ends_what_runs() {
    if Runtime::Docker.is_missing() {
        return;
    }
    let home = Home::new(Runtime::Docker);
    let _server = home.server();
    let _agent = home.agent(2);
    let project = serde_json::json!({
        "image": home.runtime.image(),
        "items": ["a", "b", "c"],
        "task": {"command": ["sleep", "600"]},
    });
    let file = home.write("sleep.json", project.to_string());
    let submitted = home.output(&["submit", &file.to_string_lossy()]);
    let id = text(&submitted.stdout).trim().to_owned();
    let processes = || -> usize {
        let containers = home.containers();
        // One may go while it is looked at.
        let top = |id: &String| Command::new("docker").args(["top", id]).output().expect("docker");
        containers.iter().map(|id| text(&top(id).stdout).lines().skip(1).count()).sum()
    };
    home.wait("the agent is there", || home.data().join("agent/agent-id").exists());
    // Beside each its init.
    home.wait("two tasks run", || processes() == 4);
    let cancelled = home.output(&["cancel", &id]);
    assert!(cancelled.status.success(), "{}", text(&cancelled.stderr));
    home.wait("nothing runs but inits", || processes() == home.containers().len());
    let results = finish(home.piecework(&["results", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(results.status.code(), Some(6), "{}", text(&results.stderr));
}

fn stdin(runtime: Runtime) {
    if runtime.is_missing() {
        return;
    }
    let home = Home::new(runtime);
    let items = ["one", "", "two words\n", "{braces}"];
    let project = serde_json::json!({
        "image": runtime.image(),
        "items": items,
        "task": {"command": ["cat"], "stdin": "{item}"},
    });
    let ran = home.run(&home.write("items.json", project.to_string()));
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(text(&ran.stdout), items.concat());
    let contents: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    home.write("contents", &contents);
    let project = serde_json::json!({
        "image": runtime.image(),
        "items": ["a", "b", "c"],
        "task": {"command": ["cat"], "stdin": {"file": "contents"}},
    });
    let ran = home.run(&home.write("file.json", project.to_string()));
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert!(ran.stdout == contents.repeat(3), "the bytes differ");
}

#[test]
fn stdin_in_processes() {
    stdin(Runtime::Process);
}
