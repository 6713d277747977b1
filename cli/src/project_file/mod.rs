//! Input files: a project file in YAML or JSON, or a JSON list of tasks, to what is submitted.
//!
//! `document` is the file as it is written, `convert` makes the specification of it, `task_list` reads the other form,
//! and `problem` draws what is wrong.

mod convert;
mod document;
mod files;
mod items;
mod placeholders;
mod problem;
mod shape;
mod source;
mod syntax;
mod task_list;
mod values;

pub use files::{Blocks, FileToSend};
pub use items::{ItemIter, Items, item_lines};
pub use problem::{Mistake, ProjectFileError};

use convert::ConvertError;
use piecework_proto::v1;
use problem::PROJECT_FILE;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Longest project file or list of tasks.
pub const PROJECT_FILE_BYTES_MAX: u64 = 64 << 20;

/// Everything that one submission carries.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The project.
    pub spec: v1::ProjectSpec,
    /// Its items, if they are sent.
    pub items: Items,
    /// The files that its image and its stdin need, each once.
    pub files: Vec<FileToSend>,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input, `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// What is meant by an argument.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path.to_owned()) }
    }

    /// Reads it whole, within its limit, and makes submissions of it; at least one. `image` is for lists of tasks, which
    /// name none.
    ///
    /// # Errors
    /// If it, or a file that it names, can't be read or is wrong.
    pub fn load(&self, image: &str) -> Result<Vec<Submission>, ProjectFileError> {
        match self {
            Self::Stdin => {
                let shown = Path::new("standard input");
                let text = read(io::stdin().lock(), shown)?;
                parse(&text, &Place { shown: "<stdin>", stem: "stdin", base: Path::new(".") }, image)
            }
            Self::File(path) => {
                let file = File::open(path).map_err(|source| unreadable(path, source))?;
                let text = read(file, path)?;
                let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
                let base = path.parent().unwrap_or(Path::new("."));
                parse(&text, &Place { shown: &path.to_string_lossy(), stem: &stem, base }, image)
            }
        }
    }
}

/// What an input is called, and where the files that it names are looked for.
struct Place<'a> {
    shown: &'a str,
    stem: &'a str,
    base: &'a Path,
}

fn unreadable(path: &Path, source: io::Error) -> ProjectFileError {
    ProjectFileError::Read { what: PROJECT_FILE, path: path.to_owned(), source }
}

fn read(source: impl Read, path: &Path) -> Result<String, ProjectFileError> {
    let mut bytes = Vec::new();
    source
        .take(PROJECT_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| unreadable(path, source))?;
    if bytes.len() as u64 > PROJECT_FILE_BYTES_MAX {
        return Err(ProjectFileError::TooLong {
            what: PROJECT_FILE,
            path: path.to_owned(),
            max: PROJECT_FILE_BYTES_MAX,
        });
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| unreadable(path, io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text")))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn parse(text: &str, place: &Place<'_>, image: &str) -> Result<Vec<Submission>, ProjectFileError> {
    let name = values::to_name(place.stem);
    let submissions = if is_list(text) {
        syntax::parse(text)
            .and_then(|entries| task_list::convert(entries, &name, image))
            .map_err(ConvertError::Content)
    } else {
        syntax::parse(text)
            .map_err(ConvertError::Content)
            .and_then(|document| convert::convert(document, &name, place.base))
            .map(|submission| vec![submission])
    };
    submissions.map_err(|error| match error {
        ConvertError::Content(problem) => {
            ProjectFileError::from(Box::new(problem.into_mistake(place.shown, text)))
        }
        ConvertError::File(error) => error,
    })
}

/// Whether the first thing in a text opens a list.
fn is_list(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .find(|line| !line.is_empty() && !line.starts_with('#') && line.trim_end() != "---")
        .is_some_and(|line| line.starts_with('[') || line.starts_with("- "))
}

/// The JSON Schema of the project file.
#[must_use]
pub fn json_schema() -> schemars::Schema {
    schemars::schema_for!(document::Document)
}

#[cfg(test)]
mod tests;
