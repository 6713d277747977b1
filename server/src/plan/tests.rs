//! What is refused and with which words, and what tasks come out of a specification.

use super::{CommandTemplate, ProblemKind, STDIN_BYTES_MAX, check_item, command, item, task_count, validate};
use crate::domain::{
    BuiltIn, FailurePolicy, ImageFile, ImageSpec, Isolation, Item, ItemSource, LeaseLossPolicy, MatrixAxis,
    Network, Phase, Placement, ProjectSpec, Reassemble, Resources, RetryOn, Stdin, TaskSpec,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn task(command: &[&str]) -> TaskSpec {
    TaskSpec {
        command: command.iter().map(ToString::to_string).collect(),
        env: BTreeMap::new(),
        workdir: None,
        timeout_millis: None,
        retries: 0,
        retry_on: RetryOn::ALL.to_vec(),
        resources: Resources::default(),
        network: Network::None,
        isolation: Isolation::Sealed,
        stdin: None,
        requires: BTreeMap::new(),
        output_bytes_max: None,
    }
}

fn spec(items: ItemSource) -> ProjectSpec {
    ProjectSpec {
        name: "queens-12".to_owned(),
        image: ImageSpec::Reference("debian:bookworm-slim".to_owned()),
        items,
        task: task(&["echo", "{index}:{item}"]),
        reassemble: Reassemble::BuiltIn(BuiltIn::Concat),
        on_failure: FailurePolicy::Continue,
        weight: 0,
        max_parallel: None,
        placement: Placement::Spread,
        on_lease_loss: LeaseLossPolicy::Rerun,
    }
}

fn range(first: i64, last: i64, step: i64) -> ItemSource {
    ItemSource::Range { first, last, step }
}

fn matrix(axes: &[(&str, &[&str])]) -> ItemSource {
    let axis = |(name, values): &(&str, &[&str])| MatrixAxis {
        name: (*name).to_owned(),
        values: values.iter().map(ToString::to_string).collect(),
    };
    ItemSource::Matrix(axes.iter().map(axis).collect())
}

/// Changes a good specification and compares what is said of it, a line a problem.
#[track_caller]
fn check(change: impl FnOnce(&mut ProjectSpec), expected: &[&str]) {
    let mut spec = spec(range(1, 3, 1));
    change(&mut spec);
    let said = match validate(spec) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    };
    assert_eq!(said, expected);
}

#[test]
fn a_good_one_passes_with_weight_one() {
    check(|_| (), &[]);
    assert_eq!(validate(spec(range(1, 3, 1))).map(|spec| spec.weight), Ok(1));
}

#[test]
fn every_problem_is_told_with_its_field() {
    check(
        |spec| {
            spec.name = "a b".to_owned();
            spec.image = ImageSpec::Reference("No Image".to_owned());
            spec.task.command = vec!["echo".to_owned(), "{itm}".to_owned(), "{".to_owned()];
            spec.task.retries = 1001;
            spec.task.env.insert("A=B".to_owned(), String::new());
            spec.weight = 1001;
        },
        &[
            "name: a name is 1 to 63 letters, digits, `.`, `_` and `-`, not `a b`",
            "image.reference: not an image reference such as `debian:bookworm-slim`: names of images are lower-case",
            "task.command[1]: unknown placeholder {itm} at position 1; known are {item}, {index}; write `{{` for a literal brace",
            "task.command[2]: the `{` at position 1 has no `}`; write `{{` for a literal brace",
            "task.env: a variable's name is letters, digits, `_`, `.` and `-`, and does not begin with a digit; not `A=B`",
            "task.retries: at most 1000 retries, not 1001",
            "weight: a weight is from 1 to 1000, not 1001",
        ],
    );
}

#[test]
fn what_no_agent_can_have_is_refused() {
    check(
        |spec| {
            spec.task.requires =
                [("gpu".to_owned(), "true".to_owned()), ("a b".to_owned(), "c".to_owned())].into();
            spec.max_parallel = Some(1_000_001);
        },
        &[
            "task.requires: the name of a label is 1 to 63 letters, digits, `.`, `_`, `-` and `/`: not `a b=c`",
            "max_parallel: at most 1000000 attempts at a time, not 1000001",
        ],
    );
    check(
        |spec| spec.task.requires = (0..65).map(|n| (format!("l{n}"), String::new())).collect(),
        &["task.requires: 65 labels are more than any agent has, the limit is 64"],
    );
}

#[test]
fn sources_without_items_are_refused() {
    check(|spec| spec.items = ItemSource::List(0), &["items.list.count: there are no items"]);
    check(|spec| spec.items = range(1, 9, 0), &["items.range.step: the step is 0, so the range never ends"]);
    check(|spec| spec.items = range(1, 9, -1), &["items.range: the range from 1 to 9 by -1 is empty"]);
    check(|spec| spec.items = matrix(&[]), &["items.matrix.axes: a matrix needs at least one axis"]);
    check(
        |spec| spec.items = matrix(&[("a", &[]), ("a", &["1"]), ("item", &["1"]), ("", &["\0"])]),
        &[
            "items.matrix.axes[0].values: an axis needs at least one value",
            "items.matrix.axes[1].name: another axis has the name `a` already",
            "items.matrix.axes[2].name: the name of an axis is a letter or `_`, then letters, digits, `_` and `-`, but not `item` or `index`; not `item`",
            "items.matrix.axes[3].name: the name of an axis is a letter or `_`, then letters, digits, `_` and `-`, but not `item` or `index`; not ``",
            "items.matrix.axes[3].values[0]: there is a zero byte at position 1, which no program can be given",
        ],
    );
}

#[test]
fn sources_with_too_many_items_are_refused() {
    check(|spec| spec.items = range(1, 10_000_000, 1), &[]);
    check(
        |spec| spec.items = range(i64::MIN, i64::MAX, 1),
        &["items.range: there are 18446744073709551616 items, and a project has at most 10000000"],
    );
    check(
        |spec| spec.items = ItemSource::List(10_000_001),
        &["items.list.count: there are 10000001 items, and a project has at most 10000000"],
    );
    let values: Vec<&str> = vec!["x"; 1000];
    check(
        |spec| spec.items = matrix(&[("a", &values), ("b", &values), ("c", &values)]),
        &["items.matrix: there are 1000000000 items, and a project has at most 10000000"],
    );
}

#[test]
fn open_projects_are_closed_after_a_second_to_a_year_or_never() {
    for idle_millis in [None, Some(1000), Some(366 * 24 * 3600 * 1000)] {
        check(|spec| spec.items = ItemSource::Open { idle_millis }, &[]);
    }
    for idle in [0, 999, 366 * 24 * 3600 * 1000 + 1] {
        let said = format!("items.open.idle_millis: an idle time is from 1000 to 31622400000 ms, not {idle}");
        check(|spec| spec.items = ItemSource::Open { idle_millis: Some(idle) }, &[&said]);
    }
}

#[test]
fn commands_are_needed_unless_items_bring_them() {
    check(|spec| spec.task.command.clear(), &["task.command: there is no command"]);
    check(
        |spec| {
            spec.items = ItemSource::List(3);
            spec.task.command.clear();
        },
        &[],
    );
    check(
        |spec| {
            spec.items = ItemSource::Open { idle_millis: None };
            spec.task.command.clear();
        },
        &[],
    );
    check(|spec| spec.task.command = vec![String::new()], &["task.command[0]: the program's name is empty"]);
    check(
        |spec| {
            spec.items = ItemSource::Split(task(&[]));
            spec.reassemble = Reassemble::Command(task(&["sum", "{item}"]));
        },
        &[
            "items.split.command: there is no command",
            "reassemble.command.command[1]: unknown placeholder {item} at position 1; known are none, as this task has no item; write `{{` for a literal brace",
        ],
    );
}

#[test]
fn commands_that_linux_would_refuse_are_refused() {
    check(
        |spec| spec.task.command = vec!["a\0".to_owned()],
        &["task.command[0]: there is a zero byte at position 2, which no program can be given"],
    );
    let long = "x".repeat(70_000);
    check(
        |spec| {
            spec.items = matrix(&[("a", &["y", &long])]);
            spec.task.command = vec!["echo".to_owned(), "{a}{item}".to_owned()];
        },
        &["task.command: the argument may become 140001 bytes long, and Linux takes at most 131071"],
    );
}

#[test]
fn a_split_can_not_make_a_command_too_long_for_a_message() {
    let items = |times| vec!["{item}".to_owned(); times];
    let split = |spec: &mut ProjectSpec, times| {
        spec.items = ItemSource::Split(task(&["ls"]));
        spec.task.command = items(times);
    };
    check(|spec| split(spec, 31), &[]);
    check(
        |spec| split(spec, 32),
        &["task.command: the command may become 2097184 bytes long, and the limit is 2097152"],
    );
}

#[test]
fn limits_hold() {
    check(
        |spec| {
            spec.task.workdir = Some("work".to_owned());
            spec.task.timeout_millis = Some(u64::MAX);
            spec.task.resources =
                Resources { cpus_milli: Some(1), memory_bytes: Some(1024), pids_max: Some(u32::MAX) };
            spec.task.output_bytes_max = Some(u64::MAX);
        },
        &[
            "task.workdir: a path here is absolute, has no `.`, `..`, empty or control parts, and at most 4095 bytes; not `work`",
            "task.timeout_millis: a timeout is at most 31622400000 ms, not 18446744073709551615",
            "task.resources.cpus_milli: from 10 to 1024000 thousandths of a processor, not 1",
            "task.resources.memory_bytes: from 6291456 to 1125899906842624 bytes of memory, not 1024",
            "task.resources.pids_max: at most 4194304 processes, not 4294967295",
            "task.output_bytes_max: at most 1099511627776 bytes of output, not 18446744073709551615",
        ],
    );
}

#[test]
fn files_of_a_build_stay_in_the_image() {
    let file = |path: &str, mode| ImageFile { path: path.to_owned(), sha256: [0; 32], mode, length: 1 };
    check(
        |spec| {
            spec.image = ImageSpec::Build {
                from: "scratch".to_owned(),
                files: vec![file("/a/../../b", 0o644), file("/c", 0o10000), file("/c", 0)],
                run: vec![" ".to_owned()],
            };
        },
        &[
            "image.build.files[0].path: a path here is absolute, has no `.`, `..`, empty or control parts, and at most 4095 bytes; not `/a/../../b`",
            "image.build.files[1].mode: permission bits are from 0 to 0o7777, not 0o10000",
            "image.build.files[2].path: another file has the path `/c` already",
            "image.build.run[0]: the command is blank",
        ],
    );
}

#[test]
fn items_are_made_from_the_index() {
    let texts = |items: ItemSource| -> Vec<String> {
        let spec = spec(items);
        (0..task_count(&spec).unwrap()).map(|index| item(&spec, index, None).text).collect()
    };
    assert_eq!(texts(range(3, -4, -3)), ["3", "0", "-3"]);
    assert_eq!(texts(range(5, 5, -7)), ["5"]);
    assert_eq!(texts(range(i64::MAX - 1, i64::MAX, 1)), ["9223372036854775806", "9223372036854775807"]);
    assert_eq!(
        texts(matrix(&[("a", &["x", "y"]), ("b", &["1", "2", "3"])])),
        ["x 1", "x 2", "x 3", "y 1", "y 2", "y 3"]
    );
    assert_eq!(task_count(&spec(ItemSource::Split(task(&["ls"])))), None);
    assert!(texts(ItemSource::Open { idle_millis: None }).is_empty());
}

#[test]
fn commands_are_made_of_template_and_item() {
    let mut spec = spec(matrix(&[("a", &["x", "y"]), ("b", &["1", "2"])]));
    spec.task.command = ["{b}", "{{{a}}}", "{index}", "{item}"].map(str::to_owned).to_vec();
    assert_eq!(command(&spec, Phase::Task, 2, None), ["1", "{y}", "2", "y 1"]);
    spec.items = ItemSource::List(1);
    spec.task.command = ["echo", "{item}"].map(str::to_owned).to_vec();
    let stored = Item { text: "a b".to_owned(), args: vec!["{item}".to_owned()], resource: None };
    assert_eq!(command(&spec, Phase::Task, 0, Some(&stored)), ["echo", "a b", "{item}"]);
    spec.reassemble = Reassemble::Command(task(&["awk", "{{print}}"]));
    assert_eq!(command(&spec, Phase::Reassemble, 0, None), ["awk", "{print}"]);
    assert!(command(&spec, Phase::Split, 0, None).is_empty());
}

#[test]
fn items_that_can_not_become_commands_are_refused() {
    let check = |command: &[&str], item: &Item, expected: &[&str]| {
        let mut spec = spec(ItemSource::List(1));
        spec.task = task(command);
        let said = check_item(&CommandTemplate::new(&spec, Phase::Task), 4, item).err();
        let said: Vec<String> = said
            .map(|problems| problems.to_string().lines().map(str::to_owned).collect())
            .unwrap_or_default();
        assert_eq!(said, expected);
    };
    let text = |text: &str| Item { text: text.to_owned(), ..Item::default() };
    check(&["echo"], &text(""), &[]);
    check(
        &[],
        &text("x"),
        &["items[4].args: the task has no command, so every item needs arguments of its own"],
    );
    check(
        &["echo"],
        &text("\0"),
        &["items[4].text: there is a zero byte at position 1, which no program can be given"],
    );
    check(
        &["echo", "{item}{item}"],
        &text(&"x".repeat(100_000)),
        &["items[4]: the argument may become 200000 bytes long, and Linux takes at most 131071"],
    );
    let args = Item { args: vec!["x".repeat(100_000); 21], ..Item::default() };
    check(
        &["echo"],
        &args,
        &["items[4]: the command may become 2100026 bytes long, and the limit is 2097152"],
    );
}

proptest! {
    #[test]
    fn a_range_has_as_many_items_as_it_steps(first in -50_i64..50, last in -50_i64..50, step in -9_i64..9) {
        let stepped: Vec<String> = match step {
            0 => Vec::new(),
            1.. => (first..=last).step_by(usize::try_from(step).unwrap()).map(|n| n.to_string()).collect(),
            _ => (last..=first).rev().step_by(usize::try_from(-step).unwrap()).map(|n| n.to_string()).collect(),
        };
        let spec = spec(range(first, last, step));
        let count = task_count(&spec).unwrap();
        let made: Vec<String> = (0..count).map(|index| item(&spec, index, None).text).collect();
        prop_assert_eq!(made, stepped);
        prop_assert_eq!(validate(spec).is_ok(), count > 0);
    }

    #[test]
    fn a_command_has_one_argument_for_each_of_its_template(text in ".{0,40}", index: u32) {
        let mut spec = spec(ItemSource::List(1));
        spec.task.command = ["a", "{item}", "x{index}y"].map(str::to_owned).to_vec();
        let stored = Item { text: text.clone(), ..Item::default() };
        let command = command(&spec, Phase::Task, index, Some(&stored));
        prop_assert_eq!(command, ["a".to_owned(), text, format!("x{index}y")]);
    }
}

#[test]
fn a_stdin_is_checked_and_made_from_the_item() {
    let with = |text: &str| ProjectSpec {
        task: TaskSpec { stdin: Some(Stdin::Template(text.to_owned())), ..task(&["cat"]) },
        ..spec(ItemSource::List(1))
    };
    let spec = validate(with("{item}-{index}{{")).unwrap();
    let template = CommandTemplate::new(&spec, Phase::Task);
    let item = |bytes: usize| Item { text: "x".repeat(bytes), ..Item::default() };
    let stdin = template.stdin(&spec, Phase::Task, 7, Some(&item(2)));
    assert_eq!(stdin.as_deref(), Some("xx-7{"));
    assert!(check_item(&template, 0, &item(STDIN_BYTES_MAX - 12)).is_ok());
    let long = check_item(&template, 0, &item(STDIN_BYTES_MAX - 11)).unwrap_err();
    assert_eq!(long.all()[0].kind, ProblemKind::StdinTooLong(STDIN_BYTES_MAX + 1));
    let problem = |spec| validate(spec).unwrap_err().to_string();
    assert!(problem(with("{itm}")).starts_with("task.stdin: unknown placeholder"));
    let text = "x".repeat(STDIN_BYTES_MAX + 1);
    assert!(problem(with(&text)).starts_with("task.stdin: the stdin may become 131073 bytes long"));
    let file = Some(Stdin::File { sha256: [0; 32], length: 1 });
    let own = TaskSpec { stdin: file, ..task(&["cat"]) };
    let spec = ProjectSpec { reassemble: Reassemble::Command(own), ..with("") };
    assert!(problem(spec).starts_with("reassemble.command.stdin: the stdin of a reassemble task"));
}
