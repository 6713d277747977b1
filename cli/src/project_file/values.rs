//! Single values: names, durations, sizes and numbers, each within the limits that the coordinator holds as well.

use super::{
    document::Scalar,
    problem::{Problem, nearest, quoted},
    shape::Ordered,
};
use piecework_proto::label::{self, LabelProblem};
use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

/// Longest name of a project.
pub(super) const NAME_BYTES_MAX: usize = 63;
/// Weights of a project.
pub(super) const WEIGHTS: RangeInclusive<u32> = 1..=1000;
/// Attempts of a project at a time.
pub(super) const PARALLEL: RangeInclusive<u32> = 1..=1_000_000;
/// Retries of a task.
pub(super) const RETRIES: RangeInclusive<u32> = 0..=1000;
/// Processes of a worker.
pub(super) const PIDS: RangeInclusive<u32> = 1..=1 << 22;
/// Longest timeout: a year.
const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Shortest idle time of an open project. The longest is that of a timeout.
const IDLE_MILLIS_MIN: u64 = 1000;
/// Processors of a worker, in thousandths.
const CPUS_MILLI: RangeInclusive<u32> = 10..=1024 * 1000;
/// Memory of a worker; engines take no less.
pub(super) const MEMORY_BYTES: RangeInclusive<u64> = 6 * MEBIBYTE..=1 << 50;
/// Output of an attempt.
pub(super) const OUTPUT_BYTES: RangeInclusive<u64> = 1..=1 << 40;
/// Longest path in an image.
const PATH_BYTES_MAX: usize = 4095;

const MEBIBYTE: u64 = 1 << 20;

/// One of a few names.
pub(super) fn one_of<T: Copy>(
    what: &str,
    scalar: &Scalar,
    names: &[(&'static str, T)],
) -> Result<T, Problem> {
    let name = scalar.value.as_str();
    names.iter().find(|(known, _)| *known == name).map(|(_, value)| *value).ok_or_else(|| {
        Problem::at(scalar.referenced, format!("{} is no {what}", quoted(name)))
            .hint(nearest(name, names.iter().map(|(known, _)| *known)))
    })
}

/// A whole number within bounds.
pub(super) fn whole(what: &str, scalar: &Scalar, bounds: &RangeInclusive<u32>) -> Result<u32, Problem> {
    scalar.value.trim().parse().ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
        let (first, last) = (bounds.start(), bounds.end());
        Problem::at(
            scalar.referenced,
            format!("{what} is a whole number from {first} to {last}, not {}", quoted(&scalar.value)),
        )
    })
}

/// An integer.
pub(super) fn integer(what: &str, scalar: &Scalar) -> Result<i64, Problem> {
    scalar.value.trim().parse().map_err(|_| {
        Problem::at(
            scalar.referenced,
            format!("{what} is an integer of at most 64 bits, not {}", quoted(&scalar.value)),
        )
    })
}

/// A length of time, in milliseconds.
pub(super) fn duration_millis(what: &str, scalar: &Scalar) -> Result<u64, Problem> {
    let text = scalar.value.trim();
    let wrong = |why: String| Problem::at(scalar.referenced, format!("{what}: {why}"));
    let duration = humantime::parse_duration(text).map_err(|error| {
        if text.parse::<u64>().is_ok() {
            wrong(format!("{} has no unit", quoted(text)))
                .hint(format!("`{text}s` are seconds, `{text}m` are minutes"))
        } else {
            wrong(format!("{} is no length of time: {error}", quoted(text)))
                .hint("write it like `90s`, `10m` or `1h 30m`")
        }
    })?;
    if duration > TIMEOUT_MAX {
        return Err(wrong(format!("{} is longer than a year", quoted(text))));
    }
    match u64::try_from(duration.as_millis()) {
        Ok(millis) if millis > 0 => Ok(millis),
        _ => Err(wrong(format!("{} is shorter than a millisecond", quoted(text)))
            .hint("leave the field out for no limit")),
    }
}

/// After how long without a new item an open project takes no more, in milliseconds.
pub(super) fn idle_millis(scalar: &Scalar) -> Result<u64, Problem> {
    let millis = duration_millis("idle", scalar)?;
    if millis < IDLE_MILLIS_MIN {
        return Err(Problem::at(
            scalar.referenced,
            format!("idle: {} is shorter than a second", quoted(&scalar.value)),
        ));
    }
    Ok(millis)
}

/// A number of bytes.
pub(super) fn bytes(what: &str, scalar: &Scalar, bounds: &RangeInclusive<u64>) -> Result<u64, Problem> {
    let text = scalar.value.trim();
    let wrong = |why: String| Problem::at(scalar.referenced, format!("{what}: {why}"));
    let unit_at = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = unit.trim();
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        letter @ ("k" | "m" | "g" | "t" | "ki" | "mi" | "gi" | "ti") => {
            let letter = letter.chars().next().unwrap_or_default().to_ascii_uppercase();
            let hint =
                format!("write `{number}{letter}iB` (units of 1024) or `{number}{letter}B` (units of 1000)");
            return Err(wrong(format!("the unit of {} is not clear", quoted(text))).hint(hint));
        }
        _ => {
            return Err(
                wrong(format!("{} is no number of bytes", quoted(text))).hint("write it like `256MiB`")
            );
        }
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => number.parse::<f64>().ok().map(|number| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a fraction of a unit, saturating, and checked against the bounds below"
            )]
            let bytes = (number * factor as f64).round() as u64;
            bytes
        }),
    };
    let bytes = bytes.ok_or_else(|| {
        wrong(format!("{} is no number of bytes", quoted(text))).hint("write it like `256MiB`")
    })?;
    if bounds.contains(&bytes) {
        return Ok(bytes);
    }
    let problem = wrong(format!(
        "{} is not between {} and {}",
        quoted(text),
        size(*bounds.start()),
        size(*bounds.end())
    ));
    Err(if unit.is_empty() && bytes < *bounds.start() {
        problem.hint(format!("a number without a unit is bytes; write `{number}MiB` for mebibytes"))
    } else {
        problem
    })
}

/// A number of bytes, as people read it.
fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Processors, in thousandths.
pub(super) fn cpus_milli(scalar: &Scalar) -> Result<u32, Problem> {
    let wrong = || {
        Problem::at(
            scalar.referenced,
            format!("cpus is a number from 0.01 to 1024, not {}", quoted(&scalar.value)),
        )
        .hint("write it like `2` or `0.5`")
    };
    let number: f64 = scalar.value.trim().parse().map_err(|_| wrong())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and is checked below"
    )]
    let milli = (number * 1000.0).round() as u32;
    if number.is_finite() && CPUS_MILLI.contains(&milli) { Ok(milli) } else { Err(wrong()) }
}

/// Whether a text is the name of a project.
pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_name_char)
}

/// Labels that are asked for.
pub(super) fn labels(labels: &Ordered<Scalar>) -> Result<HashMap<String, String>, Problem> {
    if let Some((name, _)) = labels.0.get(label::LABELS_MAX) {
        let what = format!("an agent has at most {} labels", label::LABELS_MAX);
        return Err(Problem::at(name.referenced, what));
    }
    let one = |(name, value): &(Scalar, Scalar)| match label::check(&name.value, &value.value) {
        Ok(()) => Ok((name.value.clone(), value.value.clone())),
        Err(why) => {
            let (scalar, hint) = match why {
                LabelProblem::Name => (name, "labels are written like `requires: {gpu: \"true\"}`"),
                LabelProblem::Value => (value, "it must be just what the agent's `--label NAME=VALUE` says"),
            };
            Err(Problem::at(scalar.referenced, format!("{why}, not {}", quoted(&scalar.value))).hint(hint))
        }
    };
    labels.0.iter().map(one).collect()
}

/// The nearest name to a text, such as a file's name with spaces.
pub(super) fn to_name(text: &str) -> String {
    let name: String =
        text.chars().take(NAME_BYTES_MAX).map(|char| if is_name_char(char) { char } else { '-' }).collect();
    if name.is_empty() { "project".to_owned() } else { name }
}

const fn is_name_char(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-')
}

/// Whether a text is an absolute path without detours.
pub(super) fn is_image_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX
        && path.strip_prefix('/').is_some_and(|parts| {
            parts
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control))
        })
}

/// Refuses a zero byte, which no program can be given.
pub(super) fn no_zero(scalar: &Scalar) -> Result<&str, Problem> {
    if scalar.value.contains('\0') {
        return Err(Problem::at(
            scalar.referenced,
            "there is a zero byte here, which no program can be given",
        ));
    }
    Ok(&scalar.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_saphyr::Location;

    fn scalar(text: &str) -> Scalar {
        Scalar::new(text.to_owned(), Location::UNKNOWN, Location::UNKNOWN)
    }

    #[track_caller]
    fn check_bytes(text: &str, expected: Option<u64>) {
        assert_eq!(bytes("memory", &scalar(text), &MEMORY_BYTES).ok(), expected, "{text}");
    }

    #[test]
    fn sizes_have_clear_units() {
        check_bytes("256MiB", Some(256 << 20));
        check_bytes("256 mib", Some(256 << 20));
        check_bytes("256MB", Some(256_000_000));
        check_bytes("1.5GiB", Some(3 << 29));
        check_bytes("8388608", Some(8 << 20));
        for bad in [
            "256M",
            "256",
            "",
            "MiB",
            "-1GiB",
            "1.2.3GiB",
            "9999999999999GiB",
            "99999999999999999999",
            "1EiB",
            "nanMiB",
        ] {
            check_bytes(bad, None);
        }
    }

    #[test]
    fn durations_need_a_unit() {
        let millis = |text: &str| duration_millis("timeout", &scalar(text)).ok();
        assert_eq!(millis("60s"), Some(60_000));
        assert_eq!(millis("1h 30m"), Some(5_400_000));
        assert_eq!(millis("1ms"), Some(1));
        for bad in ["60", "0s", "2years", "soon", "-1s", "1ns"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }

    #[test]
    fn processors_are_bounded() {
        let milli = |text: &str| cpus_milli(&scalar(text)).ok();
        assert_eq!(milli("1"), Some(1000));
        assert_eq!(milli("0.5"), Some(500));
        for bad in ["0", "-1", "nan", "inf", "2000", "two", ""] {
            assert_eq!(milli(bad), None, "{bad}");
        }
    }

    #[test]
    fn any_text_becomes_a_name() {
        for text in ["", "my project", "queens-12", "é\n", &"x".repeat(100)] {
            assert!(is_name(&to_name(text)), "{text}");
        }
    }

    #[test]
    fn paths_have_no_detours() {
        assert!(is_image_path("/bin/queens"));
        for bad in ["bin/queens", "/", "/bin/../queens", "/bin//queens", "/bin/", "/a\nb"] {
            assert!(!is_image_path(bad), "{bad}");
        }
    }
}
