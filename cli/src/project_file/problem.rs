//! What is wrong with an input file: where, why, and what to do about it.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_saphyr::Location;
use std::{fmt, io, ops::Range, path::PathBuf};

/// What to call a project file in messages.
pub(super) const PROJECT_FILE: &str = "the project file";

/// Why an input file can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ProjectFileError {
    /// Something in it is wrong.
    #[error(transparent)]
    Content(#[from] Box<Mistake>),
    /// A file can't be read.
    #[error("can't read {what} {}: {source}", .path.display())]
    Read {
        /// What kind of file.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is longer than its limit.
    #[error("{what} {} is longer than {max} bytes", .path.display())]
    TooLong {
        /// What kind of file.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// A file that was read at the start has changed since.
    #[error("{} changed while it was being submitted", .0.display())]
    Changed(PathBuf),
    /// A line of an item file can't be an item.
    #[error("{}, line {line}: {why}", .path.display())]
    Item {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
}

impl ProjectFileError {
    /// What to do about it, if that can be told.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Content(mistake) => mistake.hint.as_deref(),
            Self::Read { what: PROJECT_FILE, source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("`piecework new hello` writes a first project to try")
            }
            Self::TooLong { .. } => {
                Some("items in great number belong in a file of their own: `items: {file: items.txt}`")
            }
            Self::Changed(_) => Some("submit it again"),
            Self::Read { .. } | Self::Item { .. } => None,
        }
    }
}

/// One thing that is wrong with the text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, for people.
    pub file: String,
    /// What is wrong, in one line.
    pub what: String,
    /// Where, as bytes of the text; none if it is the file as a whole.
    pub place: Option<Range<usize>>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line of the place, the place within it, and the line's number.
    excerpt: Option<(String, Range<usize>, usize)>,
}

impl Mistake {
    /// The place in its line, drawn under an `error:` heading, with ANSI colours. Without a place there is no picture.
    #[must_use]
    pub fn picture(&self) -> Option<String> {
        let (text, place, line) = self.excerpt.as_ref()?;
        let snippet = Snippet::source(text)
            .path(&self.file)
            .line_start(*line)
            .annotation(AnnotationKind::Primary.span(place.clone()));
        let report = &[Level::ERROR.primary_title(&self.what).element(snippet)];
        Some(Renderer::styled().render(report))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

impl std::error::Error for Mistake {}

/// A mistake before its file is known: what the steps of reading speak in.
#[derive(Debug)]
pub(super) struct Problem {
    what: String,
    location: Option<Location>,
    hint: Option<String>,
}

impl Problem {
    /// Something wrong with the file as a whole.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), location: None, hint: None }
    }

    /// Something wrong at a place.
    pub(super) fn at(location: Location, what: impl Into<String>) -> Self {
        Self { location: (location != Location::UNKNOWN).then_some(location), ..Self::new(what) }
    }

    /// With what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// In its file.
    pub(super) fn into_mistake(self, file: &str, text: &str) -> Mistake {
        let place = self.location.map(|location| byte_range(text, location));
        let excerpt = place.clone().map(|place| excerpt(text, place));
        Mistake { file: file.to_owned(), what: self.what, place, hint: self.hint, excerpt }
    }
}

/// The bytes of a location, within the text and on character borders whatever the parser said.
fn byte_range(text: &str, location: Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().and_then(|offset| usize::try_from(offset).ok()).unwrap_or_else(|| {
        let line = usize::try_from(location.line().saturating_sub(1)).unwrap_or(0);
        let column = usize::try_from(location.column().saturating_sub(1)).unwrap_or(0);
        let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        before
            + text.get(before..).unwrap_or_default().chars().take(column).map(char::len_utf8).sum::<usize>()
    });
    let start = text.floor_char_boundary(start);
    let length = span.byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(1);
    let end = text.floor_char_boundary(start.saturating_add(length));
    // A long value is shown by its first line.
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..end.clamp(start, line_end)
}

/// The line of a place, the place within it, and its number: a file of megabytes is not kept whole.
fn excerpt(text: &str, place: Range<usize>) -> (String, Range<usize>, usize) {
    let from = text[..place.start].rfind('\n').map_or(0, |at| at + 1);
    let to = text[place.start..].find('\n').map_or(text.len(), |at| place.start + at);
    let line = text[..from].matches('\n').count() + 1;
    (text[from..to].to_owned(), place.start - from..place.end - from, line)
}

/// A text from a file within a message: quoted, its control characters visible, and cut when long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(SHOWN_CHARS_MAX).is_some() { "…" } else { "" };
    format!("`{shown}{more}`")
}

/// The hint for a name that is not among the known ones: the nearest, or all.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    const SIMILARITY_MIN: f64 = 0.8;
    let best = known
        .clone()
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((similarity, candidate)) if similarity >= SIMILARITY_MIN => {
            format!("did you mean `{candidate}`?")
        }
        _ => {
            let known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
            format!("known here: {}", known.join(", "))
        }
    }
}
