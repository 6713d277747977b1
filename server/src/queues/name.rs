//! What queues are called.

use super::{
    error::{NAME_RULE, QueueError},
    limits::NAME_BYTES_MAX,
};
use std::{fmt, str::FromStr, sync::Arc};

/// The name of a queue, as people give it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = QueueError;

    fn from_str(name: &str) -> Result<Self, QueueError> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_name = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && !name.starts_with(['-', '.'])
            && name.bytes().all(is_fine);
        if is_name { Ok(Self(name.into())) } else { Err(QueueError::invalid("name", NAME_RULE)) }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "jobs.eu-1_x", "9", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(name.parse::<QueueName>().expect(name).as_str(), name);
        }
        for wrong in ["", ".a", "-a", "a b", "ü", "a/b", "a\n", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(matches!(wrong.parse::<QueueName>(), Err(QueueError::Invalid { .. })), "{wrong}");
        }
    }
}
