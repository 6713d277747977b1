//! How attempts ended, and what they used.

use super::error::{WireError, known, unspecified};
use crate::domain::{Outcome, Usage};
use pb::OutcomeKind as Kind;
use piecework_proto::v1 as pb;

/// How an attempt ended.
///
/// # Errors
/// If its kind is unknown or unspecified.
pub fn outcome(outcome: pb::Outcome) -> Result<Outcome, WireError> {
    let pb::Outcome { kind, code, message } = outcome;
    Ok(match known("kind", "OutcomeKind", kind)? {
        Kind::Unspecified => return Err(unspecified("kind", "OutcomeKind")),
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
        Kind::LeaseLost => Outcome::LeaseLost,
        Kind::Cancelled => Outcome::Cancelled,
    })
}

/// The same for the wire.
#[must_use]
pub fn outcome_to_proto(outcome: &Outcome) -> pb::Outcome {
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
        Outcome::LeaseLost => (Kind::LeaseLost, 0, ""),
        Outcome::Cancelled => (Kind::Cancelled, 0, ""),
    };
    pb::Outcome { kind: kind.into(), code, message: message.to_owned() }
}

/// What an attempt used; nothing, if the agent did not measure.
pub(super) fn usage(usage: Option<pb::Usage>) -> Usage {
    let pb::Usage { wall_micros, user_micros, system_micros, peak_memory_bytes, oom_kills, pids_refused } =
        usage.unwrap_or_default();
    Usage { wall_micros, user_micros, system_micros, peak_memory_bytes, oom_kills, pids_refused }
}

/// The same for the wire.
#[must_use]
pub(super) const fn usage_to_proto(usage: Usage) -> pb::Usage {
    let Usage { wall_micros, user_micros, system_micros, peak_memory_bytes, oom_kills, pids_refused } = usage;
    pb::Usage { wall_micros, user_micros, system_micros, peak_memory_bytes, oom_kills, pids_refused }
}
