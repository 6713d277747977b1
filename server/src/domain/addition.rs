//! Tasks that are added to an open project while it runs.

use super::Item;
use std::fmt;

/// Longest key that a client gives to a task.
pub const CLIENT_KEY_BYTES_MAX: usize = 128;

/// What a client calls a task that it adds. Within a project each key is one task, however often it is added.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(String);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeyError {
    /// It is empty.
    #[error("missing: a task that is added needs a key, so that it can be added again without harm")]
    Empty,
    /// It is too long.
    #[error("a key has at most {CLIENT_KEY_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
    /// It has control characters.
    #[error("a key is a text without control characters")]
    Control,
}

impl ClientKey {
    /// Takes a text that came in.
    ///
    /// # Errors
    /// If it can't be a key.
    pub fn new(text: String) -> Result<Self, ClientKeyError> {
        match text.len() {
            0 => Err(ClientKeyError::Empty),
            1..=CLIENT_KEY_BYTES_MAX if text.chars().any(char::is_control) => Err(ClientKeyError::Control),
            1..=CLIENT_KEY_BYTES_MAX => Ok(Self(text)),
            bytes => Err(ClientKeyError::TooLong(bytes)),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A task to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// What the client calls it.
    pub key: ClientKey,
    /// Its item.
    pub item: Item,
}

/// What became of a task that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedTask {
    /// Its index in the project.
    pub index: u32,
    /// Its key was known: nothing was added.
    pub existed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_texts() {
        let key = |text: &str| ClientKey::new(text.to_owned()).map(|key| key.to_string());
        assert_eq!(key("order 7/é"), Ok("order 7/é".to_owned()));
        assert_eq!(key(&"k".repeat(128)), Ok("k".repeat(128)));
        assert_eq!(key(&"k".repeat(129)), Err(ClientKeyError::TooLong(129)));
        assert_eq!(key(""), Err(ClientKeyError::Empty));
        assert_eq!(key("a\nb"), Err(ClientKeyError::Control));
    }
}
