//! Words, times and tables for people.

use comfy_table::{Table, presets};
use piecework_proto::v1;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Space between columns.
const COLUMN_GAP: u16 = 3;

/// A table in the style of `docker ps`: capitals on top, no lines.
#[must_use]
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, COLUMN_GAP));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// A text in one line: control characters are made visible, so that no output can steer a terminal.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(
            |char| if char.is_control() { char.escape_default().collect::<Vec<_>>() } else { vec![char] },
        )
        .collect()
}

/// The last lines of an output, without what would steer a terminal.
#[must_use]
pub fn tail(bytes: &[u8], lines_max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text.trim_end().lines().map(one_line).collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// A project's name.
#[must_use]
pub fn project_name(project: &v1::Project) -> &str {
    project.spec.as_ref().map_or("", |spec| spec.name.as_str())
}

/// A project's state in a word.
#[must_use]
pub const fn project_state(state: v1::ProjectState) -> &'static str {
    match state {
        v1::ProjectState::Unspecified => "unknown",
        v1::ProjectState::Splitting => "splitting",
        v1::ProjectState::Running => "running",
        v1::ProjectState::Reassembling => "reassembling",
        v1::ProjectState::Succeeded => "succeeded",
        v1::ProjectState::Failed => "failed",
        v1::ProjectState::Cancelled => "cancelled",
    }
}

/// A phase in a word.
#[must_use]
pub const fn phase(phase: v1::Phase) -> &'static str {
    match phase {
        v1::Phase::Unspecified => "unknown",
        v1::Phase::Split => "split",
        v1::Phase::Task => "task",
        v1::Phase::Reassemble => "reassemble",
    }
}

/// A task's state in a word.
#[must_use]
pub const fn task_state(state: v1::TaskState) -> &'static str {
    match state {
        v1::TaskState::Unspecified => "unknown",
        v1::TaskState::Todo => "todo",
        v1::TaskState::Running => "running",
        v1::TaskState::Succeeded => "succeeded",
        v1::TaskState::Failed => "failed",
    }
}

/// A number of bytes, short, with a unit of 1024.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (bytes.max(1).ilog2() / 10) as usize;
    let Some(unit) = power.checked_sub(1).and_then(|unit| UNITS.get(unit)) else {
        return format!("{bytes} B");
    };
    let one = 1_u64 << (10 * power);
    if bytes.is_multiple_of(one) {
        return format!("{} {unit}", bytes / one);
    }
    format!("{:.1} {unit}", bytes as f64 / one as f64)
}

/// An agent's state in a word or two.
#[must_use]
pub const fn agent_state(state: v1::AgentState) -> &'static str {
    match state {
        v1::AgentState::Unspecified => "unknown",
        v1::AgentState::Ready => "ready",
        v1::AgentState::NotReady => "not ready",
        v1::AgentState::Lost => "lost",
        v1::AgentState::Draining => "draining",
    }
}

/// What a task is called.
#[must_use]
pub fn task(key: &v1::TaskKey) -> String {
    match key.phase() {
        v1::Phase::Task | v1::Phase::Unspecified => format!("task {}", key.index),
        other => format!("the {} task", phase(other)),
    }
}

/// An attempt as logs name it: project, phase, index and number.
#[must_use]
pub fn attempt_key(key: &v1::AttemptKey) -> String {
    let task = key.task.unwrap_or_default();
    format!("{}/{}/{}#{}", task.project_id, phase(task.phase()), task.index, key.attempt)
}

/// How an attempt ended, in words.
#[must_use]
pub fn outcome(outcome: &v1::Outcome) -> String {
    use v1::OutcomeKind as Kind;
    let words = match outcome.kind() {
        Kind::Unspecified => "ended in an unknown way".to_owned(),
        Kind::Exited => format!("exit code {}", outcome.code),
        Kind::Signaled => format!("killed by signal {}", outcome.code),
        Kind::TimedOut => "timed out".to_owned(),
        Kind::OutOfMemory => "out of memory".to_owned(),
        Kind::PidsLimit => "reached its limit of processes and threads".to_owned(),
        Kind::CouldNotStart => "could not start".to_owned(),
        Kind::ImageUnavailable => "image unavailable".to_owned(),
        Kind::OutputLimit => "printed more than its output limit".to_owned(),
        Kind::WorkerLost => "worker lost".to_owned(),
        Kind::EngineLost => "engine lost".to_owned(),
        Kind::LeaseLost => "lease lost: its agent was not heard from".to_owned(),
        Kind::Cancelled => "cancelled".to_owned(),
    };
    if outcome.message.is_empty() { words } else { format!("{words}: {}", one_line(&outcome.message)) }
}

/// What the kernel refused to an attempt, to stand behind its ending; empty for most.
#[must_use]
pub fn refused(usage: &v1::Usage) -> String {
    let mut words = Vec::new();
    if usage.oom_kills > 0 {
        words.push(format!("{} for want of memory", count(usage.oom_kills.into(), "kill")));
    }
    if usage.pids_refused > 0 {
        words.push(format!("{} refused", count(usage.pids_refused.into(), "fork")));
    }
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

/// Whether a task has its result with this.
#[must_use]
pub fn is_success(outcome: &v1::Outcome) -> bool {
    outcome.kind() == v1::OutcomeKind::Exited && outcome.code == 0
}

/// The image of a project.
#[must_use]
pub fn image(spec: &v1::ProjectSpec) -> String {
    use v1::image_spec::Image;
    match spec.image.as_ref().and_then(|image| image.image.as_ref()) {
        None => "unknown".to_owned(),
        Some(Image::Reference(reference)) => reference.clone(),
        Some(Image::Build(build)) => {
            format!("built from {} with {}", build.from, count(build.files.len() as u64, "file"))
        }
    }
}

/// Where the items of a project come from.
#[must_use]
pub fn items(spec: &v1::ProjectSpec) -> String {
    use v1::item_source::Source;
    match spec.items.as_ref().and_then(|items| items.source.as_ref()) {
        None => "unknown".to_owned(),
        Some(Source::List(list)) => count(u64::from(list.count), "item"),
        Some(Source::Range(range)) if range.step == 1 => format!("{}..={}", range.first, range.last),
        Some(Source::Range(range)) => format!("{}..={} by {}", range.first, range.last, range.step),
        Some(Source::Split(task)) => format!("split by {}", command(&task.command)),
        Some(Source::Open(open)) if open.idle_millis == 0 => "added while it runs".to_owned(),
        Some(Source::Open(open)) => {
            let idle = Duration::from_millis(open.idle_millis);
            format!("added while it runs, until none comes for {}", humantime::format_duration(idle))
        }
        Some(Source::Matrix(matrix)) => {
            let axes: Vec<String> =
                matrix.axes.iter().map(|axis| format!("{} ({})", axis.name, axis.values.len())).collect();
            format!("matrix of {}", axes.join(" × "))
        }
    }
}

/// What becomes of the output.
#[must_use]
pub fn reassemble(spec: &v1::ProjectSpec) -> String {
    use v1::reassemble_spec::How;
    match spec.reassemble.as_ref().and_then(|reassemble| reassemble.how.as_ref()) {
        None => "concat".to_owned(),
        Some(How::Command(task)) => command(&task.command),
        Some(How::BuiltIn(way)) => match v1::BuiltInReassemble::try_from(*way) {
            Ok(v1::BuiltInReassemble::Sum) => "sum".to_owned(),
            Ok(v1::BuiltInReassemble::Json) => "json".to_owned(),
            Ok(v1::BuiltInReassemble::None) => "none".to_owned(),
            _ => "concat".to_owned(),
        },
    }
}

/// A command as a shell would take it.
#[must_use]
pub fn command(command: &[String]) -> String {
    if command.is_empty() { "each item's own".to_owned() } else { one_line(&shell_words::join(command)) }
}

/// `1 task`, `2 tasks`.
#[must_use]
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A time as RFC 3339.
#[must_use]
pub fn rfc3339(millis: i64) -> String {
    humantime::format_rfc3339_millis(time(millis)).to_string()
}

/// How long ago a time was.
#[must_use]
pub fn ago(millis: i64) -> String {
    let age = SystemTime::now().duration_since(time(millis)).unwrap_or_default();
    format!("{} ago", indicatif::HumanDuration(age))
}

/// How long something took, to a tenth of a second.
#[must_use]
pub fn took(from_millis: i64, to_millis: i64) -> String {
    let millis = u64::try_from(to_millis.saturating_sub(from_millis)).unwrap_or(0);
    duration(Duration::from_millis(millis))
}

/// A length of time, short.
#[must_use]
pub fn duration(duration: Duration) -> String {
    if duration < Duration::from_secs(60) {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// How long it is until then.
#[must_use]
pub fn until(millis: i64) -> String {
    match time(millis).duration_since(SystemTime::now()) {
        Ok(left) => format!("in {}", duration(left)),
        Err(_) => "expired".to_owned(),
    }
}

fn time(millis: i64) -> SystemTime {
    // Within the years that RFC 3339 can write.
    const MILLIS_MAX: u64 = 253_402_300_799_000;
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0).min(MILLIS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_neither_lines_nor_trailing_space() {
        let rows =
            vec![vec!["1".to_owned(), "queens-12".to_owned()], vec!["10".to_owned(), "a\x1b[31m".to_owned()]];
        assert_eq!(table(&["ID", "NAME"], rows), "ID   NAME\n1    queens-12\n10   a\\u{1b}[31m\n");
    }

    #[test]
    fn sizes_are_short() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn tails_are_cut_to_lines() {
        assert_eq!(tail(b"a\nb\nc\x07\n\n", 2), "b\nc\\u{7}");
        assert_eq!(tail(b"", 2), "");
    }

    #[test]
    fn times_never_panic() {
        for millis in [i64::MIN, -1, 0, i64::MAX] {
            assert!(
                !rfc3339(millis).is_empty() && !ago(millis).is_empty() && !took(millis, i64::MAX).is_empty()
            );
        }
        assert_eq!(rfc3339(1_000), "1970-01-01T00:00:01.000Z");
        assert_eq!(duration(Duration::from_secs(61)), "1m 1s");
    }
}
