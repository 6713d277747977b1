//! Splits the split task's output into items: one line, one item. Pure; takes bytes in any pieces.

// A line becomes an item: what plan has promised of items holds for lines, which are counted without their end.
use crate::domain::{ITEMS_MAX, SPLIT_ITEM_BYTES_MAX as LINE_BYTES_MAX};

/// Why an output is no list of items. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("the split task printed no lines")]
    None,
    #[error("line {0} of the split task's output is not valid UTF-8")]
    Utf8(u32),
    #[error("line {0} of the split task's output has a zero byte, which no argument can have")]
    Zero(u32),
    #[error("line {0} of the split task's output is longer than {LINE_BYTES_MAX} bytes")]
    TooLong(u32),
    #[error("the split task printed more than {ITEMS_MAX} lines")]
    TooMany,
}

/// Lines end with `\n` or `\r\n`, and the last one may lack its end. An empty line is an empty item.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come; bounded by the longest line.
    partial: Vec<u8>,
    /// How many lines have ended.
    count: u32,
}

impl Lines {
    /// How many lines have ended.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Takes the next bytes, up to and with the next line's end; returns that line, and the bytes after it.
    pub(super) fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<(String, &'b [u8])>, LineError> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        // The carriage return may still be taken off.
        if self.partial.len() + line.len() > LINE_BYTES_MAX + 1 {
            return Err(LineError::TooLong(self.count.saturating_add(1)));
        }
        self.partial.extend_from_slice(line);
        let Some(end) = end else { return Ok(None) };
        if self.partial.last() == Some(&b'\r') {
            self.partial.pop();
        }
        Ok(Some((self.take()?, &bytes[end + 1..])))
    }

    /// The last line, if it lacks its end.
    pub(super) fn last(&mut self) -> Result<Option<String>, LineError> {
        let last = if self.partial.is_empty() { None } else { Some(self.take()?) };
        if self.count == 0 { Err(LineError::None) } else { Ok(last) }
    }

    fn take(&mut self) -> Result<String, LineError> {
        if self.count == ITEMS_MAX {
            return Err(LineError::TooMany);
        }
        self.count += 1;
        let line = std::mem::take(&mut self.partial);
        if line.len() > LINE_BYTES_MAX {
            return Err(LineError::TooLong(self.count));
        }
        if line.contains(&0) {
            return Err(LineError::Zero(self.count));
        }
        String::from_utf8(line).map_err(|_| LineError::Utf8(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Result<Vec<String>, LineError> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for mut bytes in pieces {
            while let Some((line, rest)) = lines.next(bytes)? {
                found.push(line);
                bytes = rest;
            }
        }
        found.extend(lines.last()?);
        assert_eq!(lines.count() as usize, found.len());
        Ok(found)
    }

    #[test]
    fn line_ends() {
        let lines = |text: &str| split([text.as_bytes()]).unwrap();
        assert_eq!(lines("a\nb\n"), ["a", "b"]);
        assert_eq!(lines("a\r\nb"), ["a", "b"]);
        assert_eq!(lines("\n\na\n\n"), ["", "", "a", ""]);
        assert_eq!(lines("a\rb\r\r\nc\r"), ["a\rb\r", "c\r"]);
    }

    #[test]
    fn what_is_refused() {
        let refused = |bytes: &[u8]| split([bytes]).unwrap_err();
        assert_eq!(refused(b""), LineError::None);
        assert_eq!(refused(b"a\n\xff\nb"), LineError::Utf8(2));
        assert_eq!(refused(b"a\nb\nc\0"), LineError::Zero(3));
        let long = [b'x'; LINE_BYTES_MAX];
        assert_eq!(split([&long[..], b"\r", b"\n"]).unwrap()[0].len(), LINE_BYTES_MAX);
        assert_eq!(split([b"a\n", &long[..], b"x", b"\n"]).unwrap_err(), LineError::TooLong(2));
        assert_eq!(split([&long[..], b"xx"]).unwrap_err(), LineError::TooLong(1));
        let mut full = Lines { count: ITEMS_MAX, ..Lines::default() };
        assert_eq!(full.next(b"one more\n").unwrap_err(), LineError::TooMany);
    }

    proptest! {
        #[test]
        fn the_pieces_make_no_difference(text in "[a\r\né]{0,40}", size in 1..8_usize) {
            prop_assert_eq!(split(text.as_bytes().chunks(size)), split([text.as_bytes()]));
        }
    }
}
