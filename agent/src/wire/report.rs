//! Reports: sent to the coordinator, and kept in the outbox in the same form.

use super::{WireError, attempt_from_proto, attempt_to_proto, image::digest_from_proto};
use crate::domain::{Outcome, Output, Report, Usage};
use piecework_proto::{INLINE_OUTPUT_BYTES_MAX, v1};

/// Writes a report.
#[must_use]
pub fn report_to_proto(report: &Report) -> v1::Report {
    v1::Report {
        attempt: Some(attempt_to_proto(report.attempt)),
        outcome: Some(outcome_to_proto(&report.outcome)),
        usage: Some(v1::Usage {
            wall_micros: report.usage.wall_micros,
            user_micros: report.usage.user_micros,
            system_micros: report.usage.system_micros,
            peak_memory_bytes: report.usage.peak_memory_bytes,
            oom_kills: report.usage.oom_kills,
            pids_refused: report.usage.pids_refused,
        }),
        stdout: Some(output_to_proto(&report.stdout)),
        stderr: Some(output_to_proto(&report.stderr)),
    }
}

/// Reads a report.
///
/// # Errors
/// If a part is missing, unknown or contradicts itself.
pub fn report_from_proto(report: v1::Report) -> Result<Report, WireError> {
    let usage = report.usage.unwrap_or_default();
    Ok(Report {
        attempt: attempt_from_proto(report.attempt)?,
        outcome: outcome_from_proto(report.outcome.ok_or(WireError::Missing("outcome"))?)?,
        usage: Usage {
            wall_micros: usage.wall_micros,
            user_micros: usage.user_micros,
            system_micros: usage.system_micros,
            peak_memory_bytes: usage.peak_memory_bytes,
            oom_kills: usage.oom_kills,
            pids_refused: usage.pids_refused,
        },
        stdout: output_from_proto("stdout", report.stdout)?,
        stderr: output_from_proto("stderr", report.stderr)?,
    })
}

fn outcome_to_proto(outcome: &Outcome) -> v1::Outcome {
    use v1::OutcomeKind as Kind;
    let (kind, code, message) = match outcome {
        Outcome::Exited(code) => (Kind::Exited, *code, ""),
        Outcome::Signaled(signal) => (Kind::Signaled, *signal, ""),
        Outcome::TimedOut => (Kind::TimedOut, 0, ""),
        Outcome::OutOfMemory => (Kind::OutOfMemory, 0, ""),
        Outcome::PidsLimit => (Kind::PidsLimit, 0, ""),
        Outcome::CouldNotStart(why) => (Kind::CouldNotStart, 0, why.as_str()),
        Outcome::ImageUnavailable(why) => (Kind::ImageUnavailable, 0, why.as_str()),
        Outcome::OutputLimit => (Kind::OutputLimit, 0, ""),
        Outcome::WorkerLost(why) => (Kind::WorkerLost, 0, why.as_str()),
        Outcome::EngineLost(why) => (Kind::EngineLost, 0, why.as_str()),
        Outcome::Cancelled => (Kind::Cancelled, 0, ""),
    };
    v1::Outcome { kind: kind.into(), code, message: message.into() }
}

fn outcome_from_proto(outcome: v1::Outcome) -> Result<Outcome, WireError> {
    use v1::OutcomeKind as Kind;
    let v1::Outcome { kind, code, message } = outcome;
    let unknown = WireError::UnknownValue { field: "outcome.kind", value: kind };
    Ok(match Kind::try_from(kind).map_err(|_| unknown.clone())? {
        Kind::Exited => Outcome::Exited(code),
        Kind::Signaled => Outcome::Signaled(code),
        Kind::TimedOut => Outcome::TimedOut,
        Kind::OutOfMemory => Outcome::OutOfMemory,
        Kind::PidsLimit => Outcome::PidsLimit,
        Kind::CouldNotStart => Outcome::CouldNotStart(message),
        Kind::ImageUnavailable => Outcome::ImageUnavailable(message),
        Kind::OutputLimit => Outcome::OutputLimit,
        Kind::WorkerLost => Outcome::WorkerLost(message),
        Kind::EngineLost => Outcome::EngineLost(message),
        Kind::Cancelled => Outcome::Cancelled,
        // Only the coordinator can say that a lease is lost.
        Kind::LeaseLost => return Err(unknown),
        Kind::Unspecified => return Err(WireError::Missing("outcome.kind")),
    })
}

fn output_to_proto(output: &Output) -> v1::Output {
    match output {
        Output::Inline(bytes) => {
            v1::Output { length: bytes.len() as u64, inline: bytes.clone(), sha256: Vec::new() }
        }
        Output::Spooled { length, sha256 } => {
            v1::Output { length: *length, inline: bytes::Bytes::new(), sha256: sha256.to_vec() }
        }
    }
}

fn output_from_proto(field: &'static str, output: Option<v1::Output>) -> Result<Output, WireError> {
    let output = output.ok_or(WireError::Missing(field))?;
    if !output.sha256.is_empty() {
        let sha256 = digest_from_proto(field, &output.sha256)?;
        return Ok(Output::Spooled { length: output.length, sha256 });
    }
    let got = output.inline.len();
    if output.length != got as u64 || got > INLINE_OUTPUT_BYTES_MAX {
        return Err(WireError::OutputLength { field, got, said: output.length });
    }
    Ok(Output::Inline(output.inline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttemptKey, Phase};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let why = "[ -~]{0,40}";
        prop_oneof![
            any::<i32>().prop_map(Outcome::Exited),
            any::<i32>().prop_map(Outcome::Signaled),
            Just(Outcome::TimedOut),
            Just(Outcome::OutOfMemory),
            Just(Outcome::PidsLimit),
            why.prop_map(Outcome::CouldNotStart),
            why.prop_map(Outcome::ImageUnavailable),
            Just(Outcome::OutputLimit),
            why.prop_map(Outcome::WorkerLost),
            why.prop_map(Outcome::EngineLost),
            Just(Outcome::Cancelled),
        ]
    }

    fn outputs() -> impl Strategy<Value = Output> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200)
                .prop_map(|bytes| Output::Inline(Bytes::from(bytes))),
            (any::<u64>(), any::<[u8; 32]>()).prop_map(|(length, sha256)| Output::Spooled { length, sha256 }),
        ]
    }

    fn report(outcome: Outcome, stdout: Output, stderr: Output) -> Report {
        let attempt = AttemptKey { project: 7, phase: Phase::Task, index: 3, attempt: 2 };
        let usage = Usage {
            wall_micros: 1,
            user_micros: 2,
            system_micros: 3,
            peak_memory_bytes: u64::MAX,
            oom_kills: 4,
            pids_refused: u32::MAX,
        };
        Report { attempt, outcome, usage, stdout, stderr }
    }

    proptest! {
        #[test]
        fn reports_come_back_as_they_went(outcome in outcomes(), stdout in outputs(), stderr in outputs()) {
            let report = report(outcome, stdout, stderr);
            prop_assert_eq!(report_from_proto(report_to_proto(&report)), Ok(report));
        }
    }

    #[test]
    fn contradictions_are_named() {
        let empty = || Output::Inline(Bytes::new());
        let good = report_to_proto(&report(Outcome::TimedOut, empty(), empty()));
        let output = |length, inline: &[u8], sha256: &[u8]| {
            Some(v1::Output { length, inline: Bytes::copy_from_slice(inline), sha256: sha256.to_vec() })
        };
        let outcome = |kind| Some(v1::Outcome { kind, code: 0, message: String::new() });
        for (bad, error) in [
            (
                v1::Report { stdout: output(4, b"abc", b""), ..good.clone() },
                WireError::OutputLength { field: "stdout", got: 3, said: 4 },
            ),
            (
                v1::Report { stdout: output(32_769, &[0; 32_769], b""), ..good.clone() },
                WireError::OutputLength { field: "stdout", got: 32_769, said: 32_769 },
            ),
            (
                v1::Report { stderr: output(4, b"", b"abc"), ..good.clone() },
                WireError::DigestLength { field: "stderr", length: 3 },
            ),
            (v1::Report { stderr: None, ..good.clone() }, WireError::Missing("stderr")),
            (v1::Report { outcome: None, ..good.clone() }, WireError::Missing("outcome")),
            (v1::Report { outcome: outcome(0), ..good.clone() }, WireError::Missing("outcome.kind")),
            (
                v1::Report { outcome: outcome(77), ..good },
                WireError::UnknownValue { field: "outcome.kind", value: 77 },
            ),
        ] {
            assert_eq!(report_from_proto(bad), Err(error));
        }
    }
}
