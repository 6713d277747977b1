//! Adds up the integers that tasks printed. Pure; takes bytes in any pieces.

/// How much of a text that is no integer is shown.
const EXCERPT_BYTES_MAX: usize = 32;

/// Why there is no sum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SumError {
    #[error("{0:?} is no integer")]
    NoInteger(String),
    #[error("the sum does not fit in 128 bits")]
    Overflow,
}

/// The sum so far, and the word whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Sum {
    total: i128,
    word: Word,
}

/// A word, read byte by byte: however many zeros it has, it needs no more room.
#[derive(Debug, Default)]
struct Word {
    /// Its first bytes, to show.
    excerpt: Vec<u8>,
    negative: bool,
    digits: bool,
    /// The value so far, negative if the word is; none if it does not fit.
    value: Option<i128>,
    wrong: bool,
}

impl Sum {
    /// Takes the next bytes of a task's output.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), SumError> {
        for &byte in bytes {
            if byte.is_ascii_whitespace() || byte == 0x0b {
                self.end_word()?;
            } else {
                self.word.push(byte);
                if self.word.wrong && self.word.excerpt.len() == EXCERPT_BYTES_MAX {
                    return self.end_word();
                }
            }
        }
        Ok(())
    }

    /// A task's output ends, and with it its last word.
    pub(super) fn end_word(&mut self) -> Result<(), SumError> {
        let word = std::mem::take(&mut self.word);
        if word.excerpt.is_empty() {
            return Ok(());
        }
        if word.wrong || !word.digits {
            return Err(SumError::NoInteger(String::from_utf8_lossy(&word.excerpt).into_owned()));
        }
        let sum = word.value.and_then(|value| self.total.checked_add(value));
        self.total = sum.ok_or(SumError::Overflow)?;
        Ok(())
    }

    /// The sum of all words that have ended.
    pub(super) fn total(&self) -> i128 {
        self.total
    }
}

impl Word {
    fn push(&mut self, byte: u8) {
        if self.excerpt.is_empty() {
            self.value = Some(0);
        }
        match byte {
            b'0'..=b'9' => {
                self.digits = true;
                let digit = i128::from(byte - b'0');
                let ten = self.value.and_then(|value| value.checked_mul(10));
                self.value =
                    ten.and_then(
                        |ten| {
                            if self.negative { ten.checked_sub(digit) } else { ten.checked_add(digit) }
                        },
                    );
            }
            b'-' if self.excerpt.is_empty() => self.negative = true,
            b'+' if self.excerpt.is_empty() => {}
            _ => self.wrong = true,
        }
        if self.excerpt.len() < EXCERPT_BYTES_MAX {
            self.excerpt.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each inner slice is one task's output, in pieces.
    fn sum<'b, T: IntoIterator<Item = &'b [u8]>>(
        tasks: impl IntoIterator<Item = T>,
    ) -> Result<i128, SumError> {
        let mut sum = Sum::default();
        for task in tasks {
            for piece in task {
                sum.add(piece)?;
            }
            sum.end_word()?;
        }
        Ok(sum.total())
    }

    fn sum_of(text: &str) -> Result<i128, SumError> {
        sum([[text.as_bytes()]])
    }

    #[test]
    fn words() {
        assert_eq!(sum_of(""), Ok(0));
        assert_eq!(sum_of(" 1\n-2\t+30\r\n"), Ok(29));
        assert_eq!(sum_of(&format!("{}7", "0".repeat(1000))), Ok(7));
        assert_eq!(sum([[&b"1"[..], b"2"], [b"3", b""]]), Ok(15), "a task's end ends its word");
    }

    #[test]
    fn what_is_refused() {
        let no_integer = |text: &str| Err(SumError::NoInteger(text.to_owned()));
        for text in ["-", "+", "1.5", "0x10", "--1", "1-", "é"] {
            assert_eq!(sum_of(&format!("1 {text} 2")), no_integer(text));
        }
        assert_eq!(sum_of(&"x".repeat(100)), no_integer(&"x".repeat(EXCERPT_BYTES_MAX)));
        assert_eq!(sum_of("error: no"), no_integer("error:"));
    }

    #[test]
    fn the_borders_of_128_bits() {
        for border in [i128::MAX, i128::MIN] {
            assert_eq!(sum_of(&border.to_string()), Ok(border));
            assert_eq!(sum_of(&format!("{border}0")), Err(SumError::Overflow));
            assert_eq!(sum_of(&format!("{border} {}", border.signum())), Err(SumError::Overflow));
        }
        assert_eq!(sum_of(&"9".repeat(100)), Err(SumError::Overflow));
    }

    proptest! {
        #[test]
        fn the_pieces_make_no_difference(numbers: Vec<i64>, spaces in "[ \n\t]{1,3}", size in 1..9_usize) {
            let words: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            let text = words.join(&spaces);
            let expected = numbers.iter().map(|&number| i128::from(number)).sum();
            prop_assert_eq!(sum([text.as_bytes().chunks(size)]), Ok(expected));
        }
    }
}
