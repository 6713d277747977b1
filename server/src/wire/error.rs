//! What is wrong with a message, and where in it.

use crate::domain::ClientKeyError;
use piecework_proto::label::LabelProblem;

/// A message that can't be understood. The path names the field as the schema does, such as `spec.task.command[1]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {kind}")]
pub struct WireError {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub kind: WireErrorKind,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireErrorKind {
    /// It must be there.
    #[error("missing")]
    Missing,
    /// A value of an enumeration that we don't know, or that is never sent.
    #[error("{value} is no value of {name}")]
    UnknownEnum {
        /// The enumeration.
        name: &'static str,
        /// The value.
        value: i32,
    },
    /// Bytes of a fixed length have another one.
    #[error("{expected} bytes expected, not {got}")]
    Length {
        /// The length that it must have.
        expected: u64,
        /// The length that it has.
        got: u64,
    },
    /// It is longer than allowed.
    #[error("at most {max} bytes, not {got}")]
    TooLong {
        /// The limit.
        max: usize,
        /// The length that it has.
        got: usize,
    },
    /// There are more than allowed.
    #[error("at most {max}, not {got}")]
    TooMany {
        /// The limit.
        max: usize,
        /// How many there are.
        got: usize,
    },
    /// It may be sent only once, and was.
    #[error("may be sent only once, as the first message")]
    Repeated,
    /// A number that counts from 1 is 0.
    #[error("counts from 1, and is 0")]
    Zero,
    /// Two fields exclude each other.
    #[error("can't be set together with `{0}`")]
    Excluded(&'static str),
    /// A text with characters that don't belong into it.
    #[error("must be a text without control characters")]
    Control,
    /// A text that is no key of a task.
    #[error("{0}")]
    ClientKey(#[from] ClientKeyError),
    /// A label is against the rule.
    #[error("{0}")]
    Label(LabelProblem),
}

impl WireError {
    pub(super) fn new(field: impl Into<String>, kind: WireErrorKind) -> Self {
        Self { field: field.into(), kind }
    }

    pub(super) fn missing(field: &str) -> Self {
        Self::new(field, WireErrorKind::Missing)
    }
}

/// Puts a path before that of an error, on the way out of a nested message.
pub trait Within {
    /// The path of the message that the error was found in.
    #[must_use]
    fn within(self, field: &str) -> Self;

    /// The same for one of a list.
    #[must_use]
    fn within_nth(self, field: &str, n: usize) -> Self;
}

impl Within for WireError {
    fn within(mut self, field: &str) -> Self {
        // A message that is no field of its own, such as a list's element, begins with its index.
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{field}{dot}{}", self.field);
        self
    }

    fn within_nth(self, field: &str, n: usize) -> Self {
        self.within(&format!("{field}[{n}]"))
    }
}

impl<T> Within for Result<T, WireError> {
    fn within(self, field: &str) -> Self {
        self.map_err(|error| error.within(field))
    }

    fn within_nth(self, field: &str, n: usize) -> Self {
        self.map_err(|error| error.within_nth(field, n))
    }
}

/// A SHA-256 digest.
///
/// # Errors
/// If it has not 32 bytes.
pub fn sha256(field: &str, bytes: &[u8]) -> Result<[u8; 32], WireError> {
    bytes
        .try_into()
        .map_err(|_| WireError::new(field, WireErrorKind::Length { expected: 32, got: bytes.len() as u64 }))
}

/// A value of an enumeration that must be a known one.
pub(super) fn known<E: TryFrom<i32>>(field: &str, name: &'static str, value: i32) -> Result<E, WireError> {
    E::try_from(value).map_err(|_| WireError::new(field, WireErrorKind::UnknownEnum { name, value }))
}

/// A value of an enumeration that was never meant to be sent.
pub(super) fn unspecified(field: &str, name: &'static str) -> WireError {
    WireError::new(field, WireErrorKind::UnknownEnum { name, value: 0 })
}

/// 0 on the wire is the absence of a value.
pub(super) fn nonzero<N: PartialEq + Default>(value: N) -> Option<N> {
    (value != N::default()).then_some(value)
}
