//! Reports of ended attempts.

use super::{
    error::{WireError, WireErrorKind, Within, sha256},
    key, outcome,
};
use crate::domain::{AttemptKey, Outcome, Output, OutputBody, Report, Usage};
use piecework_proto::{INLINE_OUTPUT_BYTES_MAX, v1 as pb};

/// Longest message of an outcome that is kept; the rest is cut. A full event of a watch must fit into one message.
const OUTCOME_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// How one attempt ended.
///
/// # Errors
/// If something is missing or unknown.
pub fn report(report: pb::Report) -> Result<Report, WireError> {
    let attempt = key::attempt_key(report.attempt).within("attempt")?;
    let mut outcome = report.outcome.ok_or_else(|| WireError::missing("outcome"))?;
    outcome.message = cut(outcome.message, OUTCOME_MESSAGE_BYTES_MAX);
    Ok(Report {
        attempt,
        outcome: outcome::outcome(outcome).within("outcome")?,
        usage: outcome::usage(report.usage),
        stdout: output(report.stdout.ok_or_else(|| WireError::missing("stdout"))?).within("stdout")?,
        stderr: output(report.stderr.ok_or_else(|| WireError::missing("stderr"))?).within("stderr")?,
    })
}

/// The same, but a report that names its attempt and is unintelligible otherwise (a newer agent's, perhaps) counts as the
/// loss of the worker: to refuse it would only make the agent send it again, for ever.
///
/// # Errors
/// If it is not clear which attempt it is about.
pub fn report_or_lost(message: pb::Report) -> Result<Report, WireError> {
    let key = message.attempt;
    report(message).or_else(|error| {
        let attempt = key::attempt_key(key).within("attempt")?;
        Ok(lost(attempt, format!("the agent's report can't be understood: {error}")))
    })
}

/// A report of an attempt whose result can't be had.
#[must_use]
pub fn lost(attempt: AttemptKey, why: String) -> Report {
    Report {
        attempt,
        outcome: Outcome::WorkerLost(why),
        usage: Usage::default(),
        stdout: Output::empty(),
        stderr: Output::empty(),
    }
}

fn output(output: pb::Output) -> Result<Output, WireError> {
    let pb::Output { length, inline, sha256: digest } = output;
    if digest.is_empty() {
        if inline.len() > INLINE_OUTPUT_BYTES_MAX {
            let kind = WireErrorKind::TooLong { max: INLINE_OUTPUT_BYTES_MAX, got: inline.len() };
            return Err(WireError::new("inline", kind));
        }
        if length != inline.len() as u64 {
            return Err(WireError::new(
                "inline",
                WireErrorKind::Length { expected: length, got: inline.len() as u64 },
            ));
        }
        return Ok(Output::inline(inline));
    }
    if !inline.is_empty() {
        return Err(WireError::new("inline", WireErrorKind::Excluded("sha256")));
    }
    Ok(Output { length, body: OutputBody::Stored(sha256("sha256", &digest)?) })
}

/// A text for people, cut at a character's border if it is long.
pub(super) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}
