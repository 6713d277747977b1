//! Why a task ended as it did, with the limit that it met.

use super::human;
use piecework_proto::{
    OUTPUT_BYTES_DEFAULT,
    v1::{self, OutcomeKind as Kind},
};
use std::time::Duration;

/// The names of signals 1 to 31.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// By what a phase's tasks run, and what that is called in a project file.
#[must_use]
pub fn phase_task(spec: &v1::ProjectSpec, phase: v1::Phase) -> (&'static str, v1::TaskSpec) {
    use v1::{item_source::Source, reassemble_spec::How};
    let (name, task) = match phase {
        v1::Phase::Split => (
            "split",
            spec.items.as_ref().and_then(|items| match &items.source {
                Some(Source::Split(task)) => Some(task),
                _ => None,
            }),
        ),
        v1::Phase::Reassemble => (
            "reassemble",
            spec.reassemble.as_ref().and_then(|reassemble| match &reassemble.how {
                Some(How::Command(task)) => Some(task),
                _ => None,
            }),
        ),
        v1::Phase::Task | v1::Phase::Unspecified => ("task", spec.task.as_ref()),
    };
    (name, task.cloned().unwrap_or_default())
}

/// How an attempt ended, in words, with the limit that it met.
#[must_use]
pub fn reason(outcome: &v1::Outcome, task: &v1::TaskSpec) -> String {
    match outcome.kind() {
        Kind::Signaled => format!("signal {}", signal(outcome.code)),
        Kind::TimedOut if task.timeout_millis > 0 => format!("timed out after {}", timeout(task)),
        Kind::OutOfMemory => match memory(task) {
            Some(limit) => format!("out of memory with a limit of {limit}"),
            None => "out of memory".to_owned(),
        },
        Kind::PidsLimit => match pids(task) {
            Some(limit) => format!("pids limit of {limit}"),
            None => "pids limit of its agent".to_owned(),
        },
        Kind::OutputLimit => format!("output limit of {}", output(task)),
        _ => human::outcome(outcome),
    }
}

/// The same, told after another one: a message that they have in common is not said twice.
#[must_use]
pub fn reason_after(outcome: &v1::Outcome, before: &v1::Outcome, task: &v1::TaskSpec) -> String {
    if outcome.message.is_empty() || outcome != before {
        return reason(outcome, task);
    }
    let words = reason(&v1::Outcome { message: String::new(), ..outcome.clone() }, task);
    format!("{words}, for the same reason")
}

/// The name of a signal, or its number.
fn signal(number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|number| SIGNALS.get(number.checked_sub(1)?));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// The timeout, as a project file has it.
pub(super) fn timeout(task: &v1::TaskSpec) -> String {
    match task.timeout_millis {
        // People think of a minute or so in seconds.
        millis @ 1..120_000 if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => humantime::format_duration(Duration::from_millis(millis)).to_string(),
    }
}

/// The memory limit, if the project names one.
pub(super) fn memory(task: &v1::TaskSpec) -> Option<String> {
    let bytes = task.resources.map_or(0, |resources| resources.memory_bytes);
    (bytes > 0).then(|| human::bytes(bytes))
}

/// The limit of processes and threads, if the project names one.
pub(super) fn pids(task: &v1::TaskSpec) -> Option<u32> {
    task.resources.map(|resources| resources.pids_max).filter(|pids| *pids > 0)
}

/// The output limit.
pub(super) fn output(task: &v1::TaskSpec) -> String {
    human::bytes(if task.output_bytes_max > 0 { task.output_bytes_max } else { OUTPUT_BYTES_DEFAULT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_once() {
        let unavailable = |message: &str| v1::Outcome {
            kind: Kind::ImageUnavailable.into(),
            message: message.to_owned(),
            ..v1::Outcome::default()
        };
        let after = |message, before: &v1::Outcome| {
            reason_after(&unavailable(message), before, &v1::TaskSpec::default())
        };
        assert_eq!(after("no x", &v1::Outcome::default()), "image unavailable: no x");
        assert_eq!(after("no x", &unavailable("no x")), "image unavailable, for the same reason");
        assert_eq!(after("no y", &unavailable("no x")), "image unavailable: no y");
        assert_eq!(after("", &unavailable("")), "image unavailable");
    }

    #[test]
    fn each_ending_has_its_words_and_its_limit() {
        let bare = v1::TaskSpec::default();
        let limited = v1::TaskSpec {
            timeout_millis: 60_000,
            output_bytes_max: 10 << 20,
            resources: Some(v1::Resources { cpus_milli: 0, memory_bytes: 64 << 20, pids_max: 128 }),
            ..bare.clone()
        };
        for (kind, code, message, without, with) in [
            (Kind::Exited, 7, "", "exit code 7", "exit code 7"),
            (Kind::Signaled, 11, "", "signal SEGV", "signal SEGV"),
            (Kind::Signaled, 40, "", "signal 40", "signal 40"),
            (Kind::Signaled, 0, "", "signal 0", "signal 0"),
            (Kind::TimedOut, 0, "", "timed out", "timed out after 60s"),
            (Kind::OutOfMemory, 0, "", "out of memory", "out of memory with a limit of 64 MiB"),
            (Kind::PidsLimit, 0, "", "pids limit of its agent", "pids limit of 128"),
            (Kind::OutputLimit, 0, "", "output limit of 1 GiB", "output limit of 10 MiB"),
            (Kind::WorkerLost, 0, "a\x07b", "worker lost: a\\u{7}b", "worker lost: a\\u{7}b"),
            (Kind::CouldNotStart, 0, "no x", "could not start: no x", "could not start: no x"),
        ] {
            let outcome = v1::Outcome { kind: kind.into(), code, message: message.into() };
            assert_eq!((&*reason(&outcome, &bare), &*reason(&outcome, &limited)), (without, with));
        }
    }
}
