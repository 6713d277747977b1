//! Errors for clients: a fitting code, a message for people, details for programs. What is our own fault is logged with
//! its cause and shown without.

use crate::{
    driver::DriverError, output::OutputError, plan::Problems, queues::QueueError,
    reassemble::ReassembleError, store::StoreError, wire::WireError,
};
use std::{error::Error, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Most violations in one status: all of a status must fit into a header of 8 KiB, twice and encoded.
const VIOLATIONS_MAX: usize = 8;

/// Longest description of a violation.
const DESCRIPTION_CHARS_MAX: usize = 220;

/// When to try again after a passing failure.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Refuses a request for one field.
pub(super) fn bad_field(field: impl Into<String>, description: impl Into<String>) -> Status {
    bad_fields([(field.into(), description.into())].into_iter())
}

/// Refuses a request for several fields.
pub(super) fn bad_fields(mut fields: impl ExactSizeIterator<Item = (String, String)>) -> Status {
    let mut details = ErrorDetails::new();
    let mut lines = Vec::new();
    for (field, description) in fields.by_ref().take(VIOLATIONS_MAX) {
        let description = cut(&description);
        lines.push(if field.is_empty() {
            description.clone()
        } else {
            format!("{}: {description}", cut(&field))
        });
        let violation = FieldViolation::new(cut(&field), description);
        let mut violations =
            details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        violations.push(violation);
        details.set_bad_request(violations);
    }
    if fields.len() > 0 {
        lines.push(format!("and {} more problems", fields.len()));
    }
    Status::with_error_details(Code::InvalidArgument, lines.join("\n"), details)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(DESCRIPTION_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A message that can't be understood.
pub(super) fn wire(error: WireError) -> Status {
    bad_field(error.field, error.kind.to_string())
}

/// A specification or item that makes no sense.
pub(super) fn problems(problems: &Problems) -> Status {
    bad_fields(problems.all().iter().map(|problem| (problem.field.clone(), problem.kind.to_string())))
}

/// The store did not do what was asked.
pub(super) fn store(error: StoreError) -> Status {
    match error {
        StoreError::Full => {
            full("the disk that holds the coordinator's store is full: free some space, then try again")
        }
        StoreError::Fenced { .. } => Status::unavailable("another coordinator has taken over this store"),
        StoreError::Closed => stopping(),
        error => internal("the store failed", &error),
    }
}

/// Something can't be done with a queue, whose name the request has in `name_field`.
pub(super) fn queue(error: QueueError, name_field: &str) -> Status {
    match error {
        QueueError::Invalid { field, why } => {
            let field = match &*field {
                "name" => name_field.to_owned(),
                "wait" | "visibility" | "extend" => format!("{field}_millis"),
                _ => field,
            };
            bad_field(field, why)
        }
        QueueError::NotFound(_) | QueueError::UnknownReceipt { .. } => Status::not_found(error.to_string()),
        QueueError::System(_) => Status::permission_denied(error.to_string()),
        QueueError::Full { .. } | QueueError::TooMany(_) => {
            try_again(Code::ResourceExhausted, error.to_string())
        }
        QueueError::Precondition(why) => Status::failed_precondition(why),
        QueueError::Unavailable(why) => try_again(Code::Unavailable, why),
        QueueError::Store(error) => store(error),
    }
}

/// The driver did not do what was asked.
pub(super) fn driver(error: DriverError) -> Status {
    match error {
        DriverError::Recovering => try_again(Code::Unavailable, error.to_string()),
        DriverError::Stopped => stopping(),
    }
}

/// Bulk bytes can't be kept or read.
pub(super) fn output(error: OutputError) -> Status {
    match error {
        OutputError::Full => {
            full("the disk that holds the coordinator's output is full: free some space, then try again")
        }
        OutputError::Gap { .. } => Status::out_of_range(error.to_string()),
        OutputError::Replaced => Status::aborted(error.to_string()),
        OutputError::Digest | OutputError::TooLong => Status::invalid_argument(error.to_string()),
        OutputError::Missing => Status::not_found("these bytes are not stored"),
        error => internal("stored output failed", &error),
    }
}

/// A result can't be read.
pub(super) fn reassemble(error: ReassembleError) -> Status {
    match error {
        ReassembleError::NoProject(_) => Status::not_found(error.to_string()),
        ReassembleError::Generation { .. } => {
            bad_field("cursor", format!("{error}: start again with an empty cursor"))
        }
        ReassembleError::BehindEnd => bad_field("cursor", error.to_string()),
        ReassembleError::Unfinished { .. } => Status::failed_precondition(error.to_string()),
        ReassembleError::Stopping => stopping(),
        ReassembleError::Store(error) => store(error),
        ReassembleError::Output(error) => output(error),
    }
}

/// Tokens and certificates are of use over TCP alone.
pub(super) fn not_listening() -> Status {
    Status::failed_precondition(
        "this coordinator listens on its socket alone: start it with --listen ADDRESS:PORT for agents and clients on other hosts",
    )
}

/// The coordinator goes down; another one may come up.
pub(super) fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// A passing failure, with the advice to try again.
pub(super) fn try_again(code: Code, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(RETRY_AFTER)))
}

/// Our own fault.
pub(super) fn internal(what: &'static str, error: &dyn Error) -> Status {
    let mut causes = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push_str(": ");
        causes.push_str(&error.to_string());
        cause = error.source();
    }
    tracing::error!(%error, causes, "{what}");
    Status::internal(format!("{what}; the coordinator's log has the cause"))
}

fn full(message: &'static str) -> Status {
    Status::resource_exhausted(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_each_field_and_fits_into_a_header() {
        let long = "ü".repeat(1000);
        let status = bad_fields(
            (0..100).map(|n| (format!("field[{n}]"), long.clone())).collect::<Vec<_>>().into_iter(),
        );
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().ends_with("and 92 more problems"), "{}", status.message());
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 8);
        assert_eq!(violations[7].field, "field[7]");
    }

    #[test]
    fn our_own_faults_show_no_internals() {
        let status = store(StoreError::Damaged("secret".to_owned()));
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "the store failed; the coordinator's log has the cause")
        );
    }
}
