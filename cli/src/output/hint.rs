//! What to change in the project file, guessed from how a task failed and from the end of its stderr.

use super::reason;
use piecework_proto::v1::{self, OutcomeKind as Kind};

/// What programs say that find no network.
const NO_NETWORK: &[&str] = &[
    "Temporary failure in name resolution",
    "Temporary failure resolving",
    "Could not resolve host",
    "could not resolve host",
    "Network is unreachable",
    "Name or service not known",
    "bad address",
];

/// What programs say that may not write where they want to.
const READ_ONLY: &[&str] = &["Read-only file system"];

/// What programs say that expect to be root.
const NOT_ROOT: &[&str] = &["Operation not permitted", "must be root", "are you root", "requires root"];

/// Beside `Permission denied`: words of programs that wanted to write, and not to execute or read.
const WRITES: &[&str] = &[
    "create", "write", "writing", "touch", "mkdir", "remove", "unlink", "lock", "open", "copy", "move",
    "rename", "Errno 13",
];

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// How it ended.
    pub outcome: &'a v1::Outcome,
    /// What it used.
    pub usage: v1::Usage,
    /// The end of its stderr.
    pub stderr: &'a str,
    /// What it ran by, and what that is called in a project file.
    pub task: (&'static str, &'a v1::TaskSpec),
}

/// One line that names the field to change, if there is a good guess.
#[must_use]
pub fn hint(failure: &Failure<'_>) -> Option<String> {
    let (field, task) = failure.task;
    let raise = |name: &str, now: Option<String>| match now {
        Some(now) => Some(format!("raise `{field}.{name}`, which is {now}")),
        None => Some(format!("set `{field}.{name}`")),
    };
    let memory = || match reason::memory(task) {
        Some(limit) => raise("resources.memory", Some(limit)),
        None => Some(format!(
            "its host has too little memory: set `{field}.resources.memory`, or let it run fewer tasks at a time"
        )),
    };
    let pids = || raise("resources.pids", reason::pids(task).map(|limit| limit.to_string()));
    match failure.outcome.kind() {
        Kind::OutOfMemory => memory(),
        Kind::PidsLimit => pids(),
        Kind::TimedOut => raise("timeout", (task.timeout_millis > 0).then(|| reason::timeout(task))),
        Kind::ImageUnavailable => Some(
            "choose another image: `image` in the project file, `--image` for a list of tasks".to_owned(),
        ),
        Kind::OutputLimit => raise("output_limit", Some(reason::output(task))),
        // It may have taken note of the death of a child, or of a refused one, in its own way.
        Kind::Exited | Kind::Signaled if failure.usage.oom_kills > 0 => memory(),
        Kind::Exited | Kind::Signaled if failure.usage.pids_refused > 0 => pids(),
        Kind::Exited | Kind::Signaled if failure.outcome.code != 0 => by_stderr(failure),
        Kind::LeaseLost => {
            Some("it may have run to its end on the lost agent: look before you run it again".to_owned())
        }
        _ => None,
    }
}

/// The last line that says something wins: what came before was survived.
fn by_stderr(failure: &Failure<'_>) -> Option<String> {
    let (field, task) = failure.task;
    let sealed = task.isolation() != v1::Isolation::Fresh;
    let network = task.network() == v1::Network::Bridge;
    failure.stderr.lines().rev().find_map(|line| {
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| line.contains(phrase));
        if !network && says(NO_NETWORK) {
            return Some(format!("it has no network: set `{field}.network` to `bridge`"));
        }
        if sealed && says(READ_ONLY) {
            return Some(format!(
                "its root is read-only: let it write in `/tmp`, or set `{field}.isolation` to `fresh`"
            ));
        }
        if sealed && (says(NOT_ROOT) || line.contains("Permission denied") && says(WRITES)) {
            return Some(format!("it does not run as root: set `{field}.isolation` to `fresh`"));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: Option<&str> = Some("it has no network: set `task.network` to `bridge`");
    const ROOT: Option<&str> =
        Some("its root is read-only: let it write in `/tmp`, or set `task.isolation` to `fresh`");
    const RIGHTS: Option<&str> = Some("it does not run as root: set `task.isolation` to `fresh`");

    #[track_caller]
    fn check(kind: Kind, stderr: &str, task: &v1::TaskSpec, expected: Option<&str>) {
        let code = i32::from(matches!(kind, Kind::Exited | Kind::Signaled));
        let outcome = v1::Outcome { kind: kind.into(), code, message: String::new() };
        let failure =
            Failure { outcome: &outcome, usage: v1::Usage::default(), stderr, task: ("task", task) };
        assert_eq!(hint(&failure).as_deref(), expected, "{stderr}");
    }

    #[test]
    fn stderr_tells_which_field_to_change() {
        let sealed = v1::TaskSpec::default();
        let fresh = v1::TaskSpec { isolation: v1::Isolation::Fresh.into(), ..sealed.clone() };
        let bridge = v1::TaskSpec { network: v1::Network::Bridge.into(), ..sealed.clone() };
        for (stderr, expected) in [
            ("ping: example.org: Temporary failure in name resolution", NETWORK),
            ("curl: (6) Could not resolve host: example.org", NETWORK),
            ("connect: Network is unreachable", NETWORK),
            ("wget: bad address 'example.org'", NETWORK),
            ("W: Temporary failure resolving 'deb.debian.org'\nE: Unable to locate package jq", NETWORK),
            ("touch: cannot touch '/etc/x': Read-only file system", ROOT),
            ("OSError: [Errno 30] Read-only file system: '/x'", ROOT),
            ("chown: changing ownership of 'x': Operation not permitted", RIGHTS),
            ("E: Could not open lock file - open (13: Permission denied)\nE: are you root?", RIGHTS),
            ("this program must be root", RIGHTS),
            ("sh: 1: cannot create /etc/x: Permission denied", RIGHTS),
            ("PermissionError: [Errno 13] Permission denied: '/x'", RIGHTS),
            ("sh: ./tool: Permission denied", None),
            ("division by zero", None),
            ("", None),
        ] {
            check(Kind::Exited, stderr, &sealed, expected);
            check(Kind::Signaled, stderr, &sealed, expected);
            check(Kind::CouldNotStart, stderr, &sealed, None);
            check(Kind::Exited, stderr, &fresh, expected.filter(|_| expected == NETWORK));
            check(Kind::Exited, stderr, &bridge, expected.filter(|_| expected != NETWORK));
        }
        let image = Some("choose another image: `image` in the project file, `--image` for a list of tasks");
        check(Kind::ImageUnavailable, "", &sealed, image);
        check(Kind::Exited, "bad address\nx: Read-only file system\nleaving", &sealed, ROOT);
    }

    #[test]
    fn limits_name_their_field() {
        let bare = v1::TaskSpec::default();
        let limited = v1::TaskSpec {
            timeout_millis: 60_000,
            output_bytes_max: 10 << 20,
            resources: Some(v1::Resources { cpus_milli: 0, memory_bytes: 64 << 20, pids_max: 128 }),
            ..bare.clone()
        };
        for (kind, without, with) in [
            (
                Kind::OutOfMemory,
                "its host has too little memory: set `task.resources.memory`, or let it run fewer tasks at a time",
                "raise `task.resources.memory`, which is 64 MiB",
            ),
            (Kind::PidsLimit, "set `task.resources.pids`", "raise `task.resources.pids`, which is 128"),
            (Kind::TimedOut, "set `task.timeout`", "raise `task.timeout`, which is 60s"),
            (
                Kind::OutputLimit,
                "raise `task.output_limit`, which is 1 GiB",
                "raise `task.output_limit`, which is 10 MiB",
            ),
        ] {
            check(kind, "bad address", &bare, Some(without));
            check(kind, "bad address", &limited, Some(with));
        }
    }

    #[test]
    fn what_the_kernel_refused_outweighs_words() {
        let outcome = v1::Outcome { kind: Kind::Exited.into(), code: 137, message: String::new() };
        let task = ("split", &v1::TaskSpec::default());
        let failure = |usage| hint(&Failure { outcome: &outcome, usage, stderr: "bad address", task });
        let oom = v1::Usage { oom_kills: 1, ..v1::Usage::default() };
        assert!(failure(oom).unwrap().contains("`split.resources.memory`"));
        let pids = v1::Usage { pids_refused: 1, ..v1::Usage::default() };
        assert_eq!(failure(pids).unwrap(), "set `split.resources.pids`");
    }
}
