//! One task's output as an element of a JSON array. Pure.

use serde::de::IgnoredAny;
use std::ops::Range;

/// The longest output that can be an element: each is held in memory.
pub(super) const ELEMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How much text is escaped at once.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What stands for bytes that are no UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// Where in the output its one JSON value is, without the white space around it. None if it has not exactly one, or one
/// that is nested too deeply to be read safely.
pub(super) fn value(output: &[u8]) -> Option<Range<usize>> {
    let text = std::str::from_utf8(output).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let white = [' ', '\t', '\r', '\n'];
    let start = text.len() - text.trim_start_matches(white).len();
    Some(start..text.trim_end_matches(white).len())
}

/// The output as the inside of a JSON string, in bounded pieces.
pub(super) fn escaped(output: &[u8]) -> impl Iterator<Item = Result<String, serde_json::Error>> {
    output.utf8_chunks().flat_map(|chunk| {
        let replacement = if chunk.invalid().is_empty() { "" } else { REPLACEMENT };
        pieces(chunk.valid()).chain([replacement]).map(escape)
    })
}

fn escape(text: &str) -> Result<String, serde_json::Error> {
    let mut quoted = serde_json::to_string(text)?;
    quoted.pop();
    if !quoted.is_empty() {
        quoted.remove(0);
    }
    Ok(quoted)
}

fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE_BYTES_MAX));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string_of(output: &[u8]) -> String {
        let inside: String = escaped(output).map(Result::unwrap).collect();
        serde_json::from_str(&format!("\"{inside}\"")).unwrap()
    }

    #[test]
    fn values_stay_as_they_are() {
        let output = b" {\"a\": [1.50, null]}\r\n";
        assert_eq!(&output[value(output).unwrap()], b"{\"a\": [1.50, null]}");
        for output in [&b""[..], b" \n", b"1 2", b"{", b"\"\xff\"", b"nul"] {
            assert_eq!(value(output), None, "{output:?}");
        }
        assert_eq!(value("[".repeat(100_000).as_bytes()), None, "no stack overflow");
    }

    #[test]
    fn long_texts_are_escaped_piece_by_piece() {
        let text = "é\"\n".repeat(PIECE_BYTES_MAX);
        assert_eq!(string_of(text.as_bytes()), text);
        assert!(escaped(text.as_bytes()).count() > 3);
    }

    proptest! {
        #[test]
        fn strings_are_lossy_and_whole(output: Vec<u8>) {
            prop_assert_eq!(string_of(&output), String::from_utf8_lossy(&output));
        }
    }
}
