//! What good files become, and what is said of bad ones.

use super::*;

const IMAGE: &str = "debian:bookworm-slim";

fn parse_text(text: &str) -> Result<Vec<Submission>, ProjectFileError> {
    // Relative to the package, where tests run: pictures are the same on every machine.
    parse(text, &Place { shown: "hello.yaml", stem: "hello", base: Path::new("tests/data") }, IMAGE)
}

#[track_caller]
fn one(text: &str) -> Submission {
    let mut submissions = parse_text(text).unwrap_or_else(|error| panic!("{}", picture(&error)));
    assert_eq!(submissions.len(), 1);
    submissions.remove(0)
}

fn picture(error: &ProjectFileError) -> String {
    let mut text = match error {
        ProjectFileError::Content(mistake) => mistake
            .picture()
            .map_or_else(|| format!("error: {mistake}"), |p| anstream::adapter::strip_str(&p).to_string()),
        other => format!("error: {other}"),
    };
    if let Some(hint) = error.hint() {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    text
}

/// A snapshot of the error of each text.
#[track_caller]
fn check_errors(name: &str, texts: &[&str]) {
    let pictures: Vec<String> = texts
        .iter()
        .map(|text| match parse_text(text) {
            Ok(_) => panic!("no error in:\n{text}"),
            Err(error) => picture(&error),
        })
        .collect();
    insta::assert_snapshot!(name, pictures.join("\n\n"));
}

fn texts(submission: &Submission) -> Vec<String> {
    submission.items.iter().unwrap().map(|item| item.unwrap().text).collect()
}

#[test]
fn a_full_file_becomes_its_specification() {
    let submission = one(r#"
name: full-1
image: debian:bookworm-slim
items: [1, 0.10, 007, yes, "a b", null-ish]
task:
  command: [echo, "{item}", "{index}", 12, "{{literal}}"]
  env: {LANG: C, N: 1}
  workdir: /tmp
  timeout: 1m 30s
  retries: 2
  retry_on: [exit, timeout, oom, pids]
  resources: {cpus: 0.5, memory: 256MiB, pids: 100}
  network: bridge
  isolation: fresh
  stdin: "{item}\n"
  output_limit: 10MB
  requires: {gpu: true}
reassemble:
  command: [sort, -n]
  timeout: 5s
on_failure: stop
weight: 3
max_parallel: 8
placement: pack
on_lease_loss: stop
"#);
    assert_eq!(texts(&submission), ["1", "0.10", "007", "yes", "a b", "null-ish"]);
    let mut spec = submission.spec;
    let env = std::mem::take(&mut spec.task.as_mut().unwrap().env);
    assert_eq!(env.len(), 2);
    assert_eq!(env["N"], "1");
    insta::assert_debug_snapshot!("full_specification", spec);
}

#[test]
fn the_least_file_takes_the_defaults() {
    let spec = one("image: a\nitems: {range: 1..=3}\ntask: {command: [echo, '{item}']}").spec;
    assert_eq!(spec.name, "hello");
    insta::assert_debug_snapshot!("least_specification", spec);
}

#[test]
fn json_is_taken_with_any_white_space() {
    for space in ["", " ", "\t", "\n", "\r\n\t"] {
        let text = r#"{~"image":~"a",~"items":~[~"x\ty",~"\u00e9\ud83d\ude00\/"~],~"task":~{~"command":~[~"echo",~"{item}"~]~}~}"#;
        assert_eq!(texts(&one(&text.replace('~', space))), ["x\ty", "é😀/"], "{space:?}");
    }
}

#[test]
fn items_come_from_lists_ranges_files_and_matrices_or_later() {
    let with = |items: &str| one(&format!("image: a\nitems: {items}\ntask: {{command: [echo, '{{item}}']}}"));
    assert_eq!(texts(&with("[a]")), ["a"]);
    assert_eq!(texts(&with("{file: items.txt}")), ["one", "two", "three"]);
    let range = |items: &str| with(items).spec.items.and_then(|items| items.source);
    let is = |first, last, step| Some(v1::item_source::Source::Range(v1::ItemRange { first, last, step }));
    assert_eq!(range("{range: -3..=5}"), is(-3, 5, 1));
    assert_eq!(range("{range: {first: 10, last: 1, step: -2}}"), is(10, 1, -2));
    let open = |idle_millis| Some(v1::item_source::Source::Open(v1::ItemOpen { idle_millis }));
    assert_eq!(range("{open: {}}"), open(0));
    assert_eq!(range("{open: {idle: 1h 30m}}"), open(5_400_000));
    assert!(texts(&with("{open: {}}")).is_empty());
    let axes = one(
        "image: a\nitems: {matrix: {size: [b, a], seed: [1, 02]}}\ntask: {command: [run, '{seed}', '{size}']}",
    );
    let Some(v1::item_source::Source::Matrix(matrix)) = axes.spec.items.and_then(|items| items.source) else {
        panic!()
    };
    let axes: Vec<_> = matrix.axes.iter().map(|axis| (axis.name.as_str(), axis.values.join(" "))).collect();
    assert_eq!(axes, [("size", "b a".to_owned()), ("seed", "1 02".to_owned())]);
}

#[test]
fn the_sample_list_becomes_a_project_in_task_order() {
    let text = r#"[
      {"cmd": "echo ", "id_projet": 0, "id_task": "10", "phrase": "dix $HOME", "url": "u10"},
      {"phrase": "la tache", "cmd": "printf '%s\\n' \"a b\"", "id_task": 9, "id_project": "0"}
    ]"#;
    let submission = one(text);
    let items: Vec<v1::Item> = submission.items.iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(items[0].args, ["printf", "%s\\n", "a b", "la tache"]);
    assert_eq!(items[1].args, ["echo", "dix $HOME"]);
    assert_eq!((items[1].text.as_str(), items[1].resource.as_str()), ("dix $HOME", "u10"));
    assert_eq!(submission.spec.name, "hello");
    assert!(submission.spec.task.unwrap().command.is_empty());
}

#[test]
fn each_project_id_of_a_list_is_a_project() {
    let text = r#"[{"cmd":"echo","id_project":"b","id_task":1},{"cmd":"echo","id_project":10,"id_task":1},
                   {"cmd":"echo","id_project":9,"id_task":1},{"cmd":"echo","id_project":10,"id_task":2}]"#;
    let submissions = parse_text(text).unwrap();
    let names: Vec<&str> = submissions.iter().map(|submission| submission.spec.name.as_str()).collect();
    assert_eq!(names, ["hello-9", "hello-10", "hello-b"]);
    assert_eq!(submissions[1].items.iter().unwrap().count(), 2);
}

#[test]
fn the_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let hello = Input::of(&examples.join("hello/hello.json")).load(IMAGE).unwrap();
    assert_eq!(hello[0].items.iter().unwrap().count(), 100);
    // Its binary is made by `piecework new queens`; here any file will do.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(examples.join("queens/queens.yaml"), dir.path().join("queens.yaml")).unwrap();
    std::fs::write(dir.path().join("queens"), "x").unwrap();
    let queens = Input::of(&dir.path().join("queens.yaml")).load(IMAGE).unwrap();
    assert_eq!(queens[0].files.len(), 1);
}

#[test]
fn a_million_items_are_read_within_bounds() {
    let list = (0..1_000_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let submission = one(&format!(
        "{{\"image\":\"a\",\"items\":[{list}],\"task\":{{\"command\":[\"echo\",\"{{item}}\"]}}}}"
    ));
    assert_eq!(submission.items.iter().unwrap().count(), 1_000_000);
}

#[test]
fn nested_aliases_are_refused_soon() {
    let mut text = "image: a\nitems:\n  - &a0 x\n".to_owned();
    for n in 1..40 {
        text.push_str(&format!("  - &a{n} [*a{m}, *a{m}, *a{m}]\n", m = n - 1));
    }
    assert!(parse_text(&text).is_err());
}

#[test]
fn broken_syntax() {
    check_errors(
        "broken_syntax",
        &[
            "",
            "# nothing\n",
            "image: a\ntask: {command: [echo\n",
            "image: \"a\ntask: b\n",
            "image: a\n  items: [1]\n",
            "image: a\nitems: [1]\n\ttask: {}\n",
            "{\"image\": \"a\", \"items\": [1,, 2]}",
            "image: a\nimage: b\n",
            "image: a\nitems: [1]\ntask: {command: [echo]}\n---\nimage: b\n",
            "image: *nowhere\n",
            "image: !secret a\n",
            "just text",
            "a: [\n",
        ],
    );
}

#[test]
fn unknown_and_missing_fields() {
    check_errors(
        "unknown_and_missing_fields",
        &[
            "image: a\nitmes: [1]\ntask: {command: [echo]}",
            "image: a\nitems: [1]\ntask:\n  comand: [echo]\n",
            "image: a\nitems: [1]\ntask:\n  command: [echo]\n  resources:\n    ram: 1GiB\n",
            "image: a\nitems: {rnge: 1..=2}\ntask: {command: [echo]}",
            "image: a\nitems: [1]\nreassemble: {cmd: [sort]}\ntask: {command: [echo]}",
            "image: a\nitems: [1]\n",
            "image: a\nitems: [1]\ntask: {}\n",
            "items: [1]\ntask: {command: [echo]}",
            "image: a\ntask: {command: [echo]}",
            "image: a\nbuild: {from: scratch}\nitems: [1]\ntask: {command: [echo]}",
            "image: a\nsplit: {command: [x]}\nitems: [1]\ntask: {command: [echo]}",
            "build: {}\nitems: [1]\ntask: {command: [echo]}",
        ],
    );
}

#[test]
fn wrong_items() {
    let file = |items: &str| format!("image: a\nitems: {items}\ntask: {{command: [echo]}}");
    let texts: Vec<String> = [
        "[]",
        "{}",
        "one",
        "[a, [b]]",
        "[a, ~]",
        "{range: 1..10}",
        "{range: [1, 10]}",
        "{range: {first: 1}}",
        "{range: {first: 1, last: ten}}",
        "{range: {first: 1, last: 10, step: 0}}",
        "{range: 10..=1}",
        "{range: 1..=100000000}",
        "{range: 1..=2, file: b}",
        "{file: missing.txt}",
        "{file: empty.txt}",
        "{matrix: {}}",
        "{matrix: {index: [1]}}",
        "{matrix: {size: []}}",
        "{matrix: {size: 3}}",
        "[\"a\\0b\"]",
        "open",
        "{open: yes}",
        "{open: {idle: 10}}",
        "{open: {idle: 10ms}}",
        "{open: {}, file: items.txt}",
    ]
    .iter()
    .map(|items| file(items))
    .collect();
    check_errors("wrong_items", &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn wrong_tasks() {
    let file = |task: &str| format!("image: a\nitems: [1]\ntask:\n  {task}\n");
    let texts: Vec<String> = [
        "command: echo {item}",
        "command: echo {item} | sort",
        "command: []",
        "command: ['']",
        "command: {program: echo}",
        "command: [echo, \"{itm}\"]",
        "command: [echo, \"{item\"]",
        "command: [awk, \"{print $1}\"]",
        "command: [echo]\n  timeout: 60",
        "command: [echo]\n  timeout: soon",
        "command: [echo]\n  retries: -1",
        "command: [echo]\n  retries: [1]",
        "command: [echo]\n  retry_on: [exit, oom-kill]",
        "command: [echo]\n  retry_on: exit",
        "command: [echo]\n  resources: {memory: 256M}",
        "command: [echo]\n  resources: {memory: 256}",
        "command: [echo]\n  resources: {memory: lots}",
        "command: [echo]\n  resources: {cpus: many}",
        "command: [echo]\n  resources: 3",
        "command: [echo]\n  network: host",
        "command: [echo]\n  isolation: none",
        "command: [cat]\n  stdin: 007",
        "command: [cat]\n  stdin: '{itm}'",
        "command: [cat]\n  stdin: [a]",
        "command: [cat]\n  stdin: {file: none.txt}",
        "command: [cat]\nreassemble: {command: [cat], stdin: x}",
        "command: [echo]\n  workdir: tmp",
        "command: [echo]\n  env: {1A: x}",
        "command: [echo]\n  env: [A=x]",
        "command: [echo]\n  env:\n    A:\n      B: c",
    ]
    .iter()
    .map(|task| file(task))
    .collect();
    check_errors("wrong_tasks", &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn wrong_policies_and_images() {
    let file = |rest: &str| format!("items: [1]\ntask: {{command: [echo]}}\n{rest}\n");
    let texts: Vec<String> = [
        "image: a b",
        "image: [a]",
        "image: a\nname: my project",
        "image: a\nreassemble: add",
        "image: a\nreassemble: [sum]",
        "image: a\nreassemble: {command: [sort, \"{item}\"]}",
        "image: a\non_failure: ignroe",
        "image: a\nweight: 0",
        "image: a\nmax_parallel: 0",
        "image: a\nplacement: spred",
        "image: a\non_lease_loss: retry",
        "build: {from: scratch, copy: [queens]}",
        "build: {from: scratch, copy: {missing: /bin/missing}}",
        "build: {from: scratch, copy: {items.txt: bin/items}}",
        "build: {from: scratch, run: make}",
    ]
    .iter()
    .map(|rest| file(rest))
    .collect();
    check_errors("wrong_policies_and_images", &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn wrong_lists() {
    check_errors(
        "wrong_lists",
        &[
            "[]",
            "[1]",
            "[{\"cmd\": \"echo\"}]",
            "[{\"cmd\": \"echo\", \"id_task\": 1}]",
            "[{\"cmd\": \"echo\", \"id_task\": 1, \"id_projet\": 1, \"id_project\": 1}]",
            "[{\"cmd\": \"echo 'a\", \"id_task\": 1, \"id_projet\": 1}]",
            "[{\"cmd\": \" \", \"id_task\": 1, \"id_projet\": 1}]",
            "[{\"cmd\": \"echo\", \"id_task\": 1, \"id_projet\": 1, \"phrse\": \"x\"}]",
            "[{\"cmd\": \"echo\", \"id_task\": 1, \"id_projet\": 1},\n {\"cmd\": \"echo\", \"id_task\": \"01\", \"id_projet\": \"1\"}]",
            "[{\"cmd\": \"echo\", \"id_task\": {}, \"id_projet\": 1}]",
            "[{\"cmd\": \"echo\", \"id_task\": 1, \"id_projet\": 1}",
        ],
    );
}

#[test]
fn the_published_schema_is_current() {
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    crate::manual::check_published("project-file.schema.json", &schema);
}
