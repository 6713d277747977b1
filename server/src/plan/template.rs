//! One argument with placeholders, parsed once: `{item}`, `{index}`, `{axis}`, and `{{` and `}}` for literal braces.

use super::problem::quoted;
use std::fmt::Write as _;

/// A parsed argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

/// Adjacent texts are one piece, and no text is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Item,
    Index,
    /// The value of the matrix axis with this number.
    Axis(usize),
}

/// Why a text is no template. Positions count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace is not closed.
    #[error("the `{{` at position {position} has no `}}`; write `{{{{` for a literal brace")]
    Unclosed {
        /// Where it is.
        position: usize,
    },
    /// A brace was not opened.
    #[error("the `}}` at position {position} has no `{{`; write `}}}}` for a literal brace")]
    Unopened {
        /// Where it is.
        position: usize,
    },
    /// A placeholder that means nothing here.
    #[error("unknown placeholder {{{}}} at position {position}; {known}; write `{{{{` for a literal brace", cut(.name))]
    Unknown {
        /// Its name.
        name: String,
        /// Where its brace is.
        position: usize,
        /// The known ones, as a clause.
        known: String,
    },
}

/// The name of an unknown placeholder may be the half of a shell script: show its beginning.
fn cut(name: &str) -> String {
    let quoted = quoted(name);
    quoted.trim_matches('`').to_owned()
}

/// The placeholders that mean something in a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known<'a> {
    /// None: the command of a split or reassemble task.
    Nothing,
    /// `{item}`, `{index}` and the names of the matrix' axes.
    Task(&'a [&'a str]),
}

impl Known<'_> {
    fn find(self, name: &str) -> Option<Piece> {
        let Self::Task(axes) = self else { return None };
        match name {
            "item" => Some(Piece::Item),
            "index" => Some(Piece::Index),
            _ => axes.iter().position(|axis| *axis == name).map(Piece::Axis),
        }
    }

    fn clause(self) -> String {
        const NAMED_MAX: usize = 10;
        let Self::Task(axes) = self else {
            return "known are none, as this task has no item".to_owned();
        };
        let mut clause = "known are {item}, {index}".to_owned();
        for axis in axes.iter().take(NAMED_MAX) {
            let _ = write!(clause, ", {{{axis}}}");
        }
        clause
    }
}

/// What the placeholders of one task stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) item: &'a str,
    pub(super) index: u32,
    /// The values of the axes, in their order.
    pub(super) axes: &'a [&'a str],
}

impl Template {
    pub(super) fn parse(text: &str, known: Known<'_>) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().enumerate().peekable();
        while let Some((at, char)) = chars.next() {
            let position = at + 1;
            let doubled = chars.next_if(|(_, next)| matches!(char, '{' | '}') && *next == char).is_some();
            match char {
                '{' if !doubled => {
                    let name = placeholder(&mut chars).ok_or(TemplateError::Unclosed { position })?;
                    let Some(piece) = known.find(&name) else {
                        return Err(TemplateError::Unknown { name, position, known: known.clause() });
                    };
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                }
                '}' if !doubled => return Err(TemplateError::Unopened { position }),
                _ => literal.push(char),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// A template that stands for the text itself.
    pub(super) fn literal(text: &str) -> Self {
        Self { pieces: if text.is_empty() { Vec::new() } else { vec![Piece::Text(text.to_owned())] } }
    }

    pub(super) fn expand(&self, values: Values<'_>) -> String {
        // An axis that is not there can't come out of `parse` with the axes of the same specification.
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Item => out.push_str(values.item),
                Piece::Index => {
                    let _ = write!(out, "{}", values.index);
                }
                Piece::Axis(axis) => out.push_str(values.axes.get(*axis).copied().unwrap_or_default()),
            }
        }
        out
    }

    /// How long it becomes with an item of that length, an index of the most digits, and axes' values of those lengths.
    pub(super) fn expanded_bytes(&self, item: usize, axes: &[usize]) -> usize {
        const INDEX_DIGITS_MAX: usize = 10;
        self.pieces.iter().fold(0_usize, |sum, piece| {
            sum.saturating_add(match piece {
                Piece::Text(text) => text.len(),
                Piece::Item => item,
                Piece::Index => INDEX_DIGITS_MAX,
                Piece::Axis(axis) => axes.get(*axis).copied().unwrap_or_default(),
            })
        })
    }

    /// Whether it is the empty text whatever the item.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Takes a placeholder's name and its closing brace; none if another brace or the end comes first.
fn placeholder(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<String> {
    let mut name = String::new();
    loop {
        match chars.next()? {
            (_, '}') => return Some(name),
            (_, '{') => return None,
            (_, char) => name.push(char),
        }
    }
}

/// The template that stands for this text: its braces doubled.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AXES: Known<'static> = Known::Task(&["size", "seed"]);
    const VALUES: Values<'static> = Values { item: "the item", index: 7, axes: &["big", "42"] };

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(
            Template::parse(text, AXES).map(|template| template.expand(VALUES)),
            Ok(expected.to_owned())
        );
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(Template::parse(text, AXES).map_err(|error| error.to_string()), Err(expected.to_owned()));
    }

    #[test]
    fn placeholders_are_replaced_within_the_argument() {
        check("", "");
        check("{item}", "the item");
        check("--n={index}/{item}{item}", "--n=7/the itemthe item");
        check("{size}-{seed}", "big-42");
        check("{{item}}", "{item}");
        check("{{{item}}}", "{the item}");
        check("awk '{{print $1}}'", "awk '{print $1}'");
        check("é{index}", "é7");
    }

    #[test]
    fn a_value_is_never_expanded_again() {
        let template = Template::parse("{item}", AXES).unwrap();
        assert_eq!(template.expand(Values { item: "{index} }{", ..VALUES }), "{index} }{");
    }

    #[test]
    fn errors_name_place_and_remedy() {
        check_error(
            "é{itm}",
            "unknown placeholder {itm} at position 2; known are {item}, {index}, {size}, {seed}; write `{{` for a literal brace",
        );
        check_error(
            "{}",
            "unknown placeholder {} at position 1; known are {item}, {index}, {size}, {seed}; write `{{` for a literal brace",
        );
        check_error("a{item", "the `{` at position 2 has no `}`; write `{{` for a literal brace");
        check_error("{it{item}", "the `{` at position 1 has no `}`; write `{{` for a literal brace");
        check_error("{item}}", "the `}` at position 7 has no `{`; write `}}` for a literal brace");
        let error = Template::parse("{item}", Known::Nothing).unwrap_err();
        assert!(error.to_string().contains("known are none, as this task has no item"), "{error}");
    }

    proptest! {
        #[test]
        fn escaped_text_expands_to_itself(text in "\\PC{0,40}|[{}a]{0,20}") {
            let template = Template::parse(&escape(&text), AXES).unwrap();
            prop_assert_eq!(template.expand(VALUES), text);
        }

        #[test]
        fn text_without_braces_is_itself(text in "[^{}]{0,40}") {
            prop_assert_eq!(Template::parse(&text, Known::Nothing).unwrap().expand(VALUES), text);
        }

        #[test]
        fn no_text_panics_and_lengths_are_right(text in "([{}]|item|index|size|.){0,20}") {
            if let Ok(template) = Template::parse(&text, AXES) {
                let length = template.expand(Values { index: u32::MAX, ..VALUES }).len();
                prop_assert_eq!(length, template.expanded_bytes(VALUES.item.len(), &[3, 2]));
            }
        }
    }
}
