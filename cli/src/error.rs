//! The one error type of the border: what is said to the user, and the exit code.
//!
//! The heading says what went wrong, causes are listed below it, and hints (what to do about it) stand apart.

use crate::{client::ClientError, exit_code, project_file::ProjectFileError};
use anstyle::{AnsiColor, Style};
use piecework_proto::address::Address;
use std::{io, io::Write, path::Path};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Why a command did not end well.
#[derive(Debug)]
pub struct CliError {
    exit_code: u8,
    /// None ends quietly.
    heading: Option<Heading>,
    causes: Vec<String>,
    hints: Vec<String>,
}

#[derive(Debug)]
enum Heading {
    Text(String),
    /// Drawn already, with its own `error:`.
    Picture(String),
}

impl CliError {
    /// An error with its exit code.
    #[must_use]
    pub fn new(exit_code: u8, heading: impl Into<String>) -> Self {
        let heading = Some(Heading::Text(heading.into()));
        Self { exit_code, heading, causes: Vec::new(), hints: Vec::new() }
    }

    /// An end of which nothing is to be said.
    #[must_use]
    pub const fn quiet(exit_code: u8) -> Self {
        Self { exit_code, heading: None, causes: Vec::new(), hints: Vec::new() }
    }

    /// With one more cause.
    #[must_use]
    pub fn cause(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// With one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// A file of the user's that can't be read or written.
    #[must_use]
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(exit_code::LOCAL_FAILURE, format!("can't {what} {}", path.display())).cause(error)
    }

    /// Stdout can't be written. If only nobody reads it any more, nothing is said.
    #[must_use]
    pub fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::quiet(exit_code::STDOUT_CLOSED);
        }
        Self::new(exit_code::LOCAL_FAILURE, "can't write to stdout").cause(error)
    }

    /// The exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// What is said, with ANSI colours.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = match &self.heading {
            None => return String::new(),
            Some(Heading::Picture(picture)) => format!("{picture}\n"),
            Some(Heading::Text(heading)) => format!("{ERROR}error:{ERROR:#} {heading}\n"),
        };
        for cause in &self.causes {
            text.push_str(&format!("  cause: {}\n", cause.replace('\n', "\n         ")));
        }
        for hint in &self.hints {
            text.push_str(&format!("{HINT}hint:{HINT:#} {hint}\n"));
        }
        text
    }

    /// Says it on stderr.
    pub fn print(&self) {
        // Nothing is left to be done if stderr can't be written.
        let _ = anstream::stderr().write_all(self.render().as_bytes());
    }
}

impl From<ProjectFileError> for CliError {
    fn from(error: ProjectFileError) -> Self {
        let mut said = match &error {
            ProjectFileError::Content(mistake) => {
                let heading = match mistake.picture() {
                    Some(picture) => Heading::Picture(picture),
                    None => Heading::Text(mistake.to_string()),
                };
                Self { heading: Some(heading), ..Self::quiet(exit_code::BAD_INPUT) }
            }
            other => Self::new(exit_code::BAD_INPUT, other.to_string()),
        };
        said.hints.extend(error.hint().map(str::to_owned));
        said
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Input(error) => error.into(),
            ClientError::NoCoordinator { address, source } => {
                let error = Self::new(
                    exit_code::NO_COORDINATOR,
                    format!("no coordinator can be reached at {address}"),
                );
                let kind = source.kind();
                let error = error.cause(source);
                match (address, kind) {
                    (Address::Socket(_), io::ErrorKind::PermissionDenied) => {
                        error.hint("only the user who started the coordinator may use its socket")
                    }
                    (Address::Socket(_), _) => error
                        .hint("start one with `piecework up`, or say where it is with `--server` or `--data`"),
                    (Address::Tls { .. }, io::ErrorKind::InvalidData) => error
                        .hint("is it the address of the coordinator that the token is for? Does it listen with `--listen`?"),
                    (Address::Tls { .. }, _) => {
                        error.hint("is it the right address, and does the coordinator listen there with `--listen`?")
                    }
                }
            }
            ClientError::NoToken(address) => {
                Self::new(exit_code::BAD_INPUT, format!("a token is needed to use the coordinator at {address}"))
                    .hint("make one with `piecework tokens create` where the coordinator runs, and set PIECEWORK_TOKEN, or name a file with `--token-file`")
            }
            ClientError::Lost { patience, status } => {
                let heading =
                    format!("the coordinator was lost, and did not come back in {} s", patience.as_secs());
                Self::new(exit_code::NO_COORDINATOR, heading)
                    .cause(status.message())
                    .hint("what was submitted is safe: start the coordinator again, and go on with `piecework watch` or `results`")
            }
            ClientError::Refused(status) => refused(&status),
            ClientError::BadAnswer(what) => {
                Self::new(exit_code::REFUSED, format!("the coordinator's answer makes no sense: {what}"))
            }
        }
    }
}

/// What the coordinator says of a refusal, with the details that it sends.
fn refused(status: &tonic::Status) -> CliError {
    use tonic_types::StatusExt;
    let exit_code = match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => exit_code::BAD_INPUT,
        tonic::Code::NotFound => exit_code::NOT_FOUND,
        tonic::Code::Unavailable => exit_code::NO_COORDINATOR,
        _ => exit_code::REFUSED,
    };
    let details = status.get_error_details();
    let mut error = match details.bad_request() {
        // The message lists the same fields, one a line.
        Some(bad) if !bad.field_violations.is_empty() => status
            .message()
            .lines()
            .fold(CliError::new(exit_code, "the coordinator finds mistakes in this"), |error, line| {
                error.cause(line)
            }),
        _ if status.message().is_empty() => CliError::new(exit_code, status.code().description()),
        _ => CliError::new(exit_code, status.message()),
    };
    if let Some(failure) = details.precondition_failure() {
        for violation in &failure.violations {
            error = error.cause(&violation.description);
        }
    }
    if let Some(help) = details.help() {
        for link in &help.links {
            error = error.hint(&link.description);
        }
    }
    error
}
