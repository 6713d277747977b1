//! From text to the document types: the parser's settings, and its errors in our words.

use super::{
    PROJECT_FILE_BYTES_MAX,
    problem::{Problem, nearest, quoted},
};
use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Location, MessageFormatter as _, Options, UserMessageFormatter};

/// Parses YAML or JSON.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(&error))
}

/// Bounds that a file within its size limit can meet: the size is what is limited, not the number of items.
fn options() -> Options {
    let bytes_max = usize::try_from(PROJECT_FILE_BYTES_MAX).unwrap_or(usize::MAX);
    serde_saphyr::options! {
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_events: bytes_max,
            max_nodes: bytes_max,
            max_total_scalar_bytes: bytes_max,
        },
    }
}

fn explain(error: &Error) -> Problem {
    let error = error.without_snippet();
    let location = error.location().unwrap_or(Location::UNKNOWN);
    match error {
        Error::AliasError { error, .. } => explain(error),
        Error::SerdeUnknownField { field, expected, .. } => {
            Problem::at(location, format!("unknown field {}", quoted(field)))
                .hint(nearest(field, expected.iter().copied()))
        }
        Error::SerdeMissingField { field, .. } => {
            let problem = Problem::at(location, format!("the field `{field}` is missing"));
            match *field {
                "task" => problem.hint("say what runs for every item: `task: {command: [echo, \"{item}\"]}`"),
                "command" => problem.hint("program and arguments as a list: `command: [echo, \"{item}\"]`"),
                "from" => problem.hint("name the base image, or `scratch` for the empty one"),
                _ => problem,
            }
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map(quoted).unwrap_or_default();
            Problem::at(location, format!("the key {key} is there twice")).hint("keep one of them")
        }
        Error::NullIntoString { .. } => Problem::at(location, "a value is missing here")
            .hint("write the value, or \"\" for the empty text"),
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            Problem::at(location, format!("expected {expected}, found {unexpected}"))
        }
        Error::SerdeInvalidValue { unexpected, expected, .. } => {
            Problem::at(location, format!("expected {expected}, found {unexpected}"))
        }
        Error::Unexpected { expected, .. } => Problem::at(
            location,
            match *expected {
                "string scalar" => "expected one text or number here".to_owned(),
                "mapping start" => "expected a map here, such as `name: value`".to_owned(),
                "sequence start" => "expected a list here, such as `[one, two]`".to_owned(),
                other => format!("expected {other}"),
            },
        ),
        Error::Eof { .. } => {
            Problem::new("the file is empty").hint("`piecework new hello` writes a first project to try")
        }
        Error::MultipleDocuments { .. } => Problem::at(location, "a second document begins here")
            .hint("a project file holds one project: remove the `---` line, or make two files"),
        other => Problem::at(location, UserMessageFormatter.format_message(other).into_owned()),
    }
}
