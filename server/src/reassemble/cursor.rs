//! Where a reader of a project's result stands.

use crate::domain::Generation;
use std::{fmt, num::ParseIntError, str::FromStr};

/// All bytes before this place were sent. Its text form is `generation.index.offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The generation; 0 stands for the project's current one.
    pub generation: Generation,
    /// The first task of which something is to be sent; 0 for a result that is not made of the tasks' outputs.
    pub index: u32,
    /// How much of that task's output, or of the result, was sent.
    pub offset: u64,
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It has not three parts.
    #[error("a cursor has the form generation.index.offset")]
    Form,
    /// A part is no number.
    #[error("a cursor has the form generation.index.offset: {0}")]
    Number(#[from] ParseIntError),
}

impl Cursor {
    /// From the start of the current generation.
    pub const START: Self = Self { generation: Generation(0), index: 0, offset: 0 };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation.0, self.index, self.offset)
    }
}

/// The empty text is [`Cursor::START`].
impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.is_empty() {
            return Ok(Self::START);
        }
        let mut parts = text.split('.');
        let (Some(generation), Some(index), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CursorError::Form);
        };
        Ok(Self {
            generation: Generation(generation.parse()?),
            index: index.parse()?,
            offset: offset.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_text_form_can_be_read_back(generation: u32, index: u32, offset: u64) {
            let cursor = Cursor { generation: Generation(generation), index, offset };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        assert_eq!("".parse(), Ok(Cursor::START));
        for text in ["1", "1.2", "1.2.3.4"] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError::Form), "{text}");
        }
        for text in ["1.2.", "a.2.3", "1.-2.3", "1.4294967296.3", ".."] {
            assert!(matches!(text.parse::<Cursor>(), Err(CursorError::Number(_))), "{text}");
        }
    }
}
