//! Labels: what agents are said to have, and projects ask for.

use std::fmt;

/// Longest name of a label, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Longest value of a label, in bytes.
pub const VALUE_BYTES_MAX: usize = 255;

/// Most labels of one agent, and most that a task may ask for.
pub const LABELS_MAX: usize = 64;

/// What is wrong with a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelProblem {
    /// Its name.
    Name,
    /// Its value.
    Value,
}

impl fmt::Display for LabelProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => write!(
                f,
                "the name of a label is 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-` and `/`"
            ),
            Self::Value => {
                write!(
                    f,
                    "the value of a label is at most {VALUE_BYTES_MAX} bytes without control characters"
                )
            }
        }
    }
}

impl std::error::Error for LabelProblem {}

/// Checks one label.
///
/// # Errors
/// If its name or its value is against the rule.
pub fn check(name: &str, value: &str) -> Result<(), LabelProblem> {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_name_byte) {
        return Err(LabelProblem::Name);
    }
    if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(LabelProblem::Value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_short_name_and_a_line() {
        for (name, value) in [("gpu", "true"), ("example.org/zone", "eu-1"), ("disk", "ssd=1"), ("empty", "")]
        {
            assert_eq!(check(name, value), Ok(()), "{name}={value}");
        }
        for name in ["", "a b", "é", "a=b", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(check(name, "1"), Err(LabelProblem::Name), "{name}");
        }
        for value in ["a\nb", "\u{1b}[2J", &"x".repeat(VALUE_BYTES_MAX + 1)] {
            assert_eq!(check("gpu", value), Err(LabelProblem::Value), "{value}");
        }
    }
}
