//! The items of a submission: those that are given, or the lines of a file that is read when they are sent, so that a
//! million of them never are in memory.

use super::problem::ProjectFileError;
use piecework_proto::v1;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Longest item: the longest single argument that Linux passes to a program.
pub(super) const ITEM_BYTES_MAX: usize = 128 * 1024 - 1;
/// Most items of a project.
pub(super) const ITEMS_MAX: u32 = 10_000_000;

/// What to call an item file in messages.
const ITEM_FILE: &str = "the item file";

/// The items that are sent with a submission. Cloned for every try at it.
#[derive(Clone, Debug)]
pub enum Items {
    /// None: the coordinator makes them.
    None,
    /// Texts.
    Texts(Arc<Vec<String>>),
    /// Items with arguments and resources of their own.
    Full(Arc<Vec<v1::Item>>),
    /// The lines of a file.
    Lines {
        /// The file.
        path: PathBuf,
        /// How many items it had when it was looked through.
        count: u32,
    },
}

impl Items {
    /// Looks through a file of items: every line must be fit to be one.
    pub(super) fn lines_of(path: PathBuf) -> Result<Self, ProjectFileError> {
        let mut count = 0_u32;
        for line in Lines::open(&path)? {
            line?;
            count += 1;
            if count > ITEMS_MAX {
                let why = format!("a project has at most {ITEMS_MAX} items");
                return Err(ProjectFileError::Item { path, line: u64::from(count), why });
            }
        }
        Ok(Self::Lines { path, count })
    }

    /// The items, one after the other.
    ///
    /// # Errors
    /// If their file can't be opened again.
    pub fn iter(&self) -> Result<ItemIter<'_>, ProjectFileError> {
        Ok(match self {
            Self::None => Box::new(std::iter::empty()),
            Self::Texts(texts) => Box::new(texts.iter().map(|text| Ok(item(text.clone())))),
            Self::Full(items) => Box::new(items.iter().cloned().map(Ok)),
            Self::Lines { path, .. } => Box::new(Lines::open(path)?.map(|line| line.map(item))),
        })
    }
}

/// Items, each as it is sent.
pub type ItemIter<'a> = Box<dyn Iterator<Item = Result<v1::Item, ProjectFileError>> + 'a>;

fn item(text: String) -> v1::Item {
    v1::Item { text, ..v1::Item::default() }
}

/// Why a text can't be an item.
pub(super) fn unfit(text: &str) -> Option<String> {
    if text.len() > ITEM_BYTES_MAX {
        Some(format!(
            "the item is {} bytes long, and a program's argument has at most {ITEM_BYTES_MAX}",
            text.len()
        ))
    } else if text.contains('\0') {
        Some("there is a zero byte in the item, which no program can be given".to_owned())
    } else {
        None
    }
}

/// The lines of a file, or of standard input if it is `-`, as they come: each is the text of an item.
///
/// # Errors
/// If the file can't be opened.
pub fn item_lines(
    path: &Path,
) -> Result<Box<dyn Iterator<Item = Result<String, ProjectFileError>> + Send>, ProjectFileError> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(Lines::of(PathBuf::from("<stdin>"), BufReader::new(io::stdin()))));
    }
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    Ok(Box::new(Lines::of(path.to_owned(), BufReader::new(file))))
}

fn unreadable(path: &Path, source: io::Error) -> ProjectFileError {
    ProjectFileError::Read { what: ITEM_FILE, path: path.to_owned(), source }
}

/// The lines of a file that are not empty, without their ends (`\n` or `\r\n`).
struct Lines<R> {
    path: PathBuf,
    reader: R,
    line: u64,
    ended: bool,
}

impl Lines<BufReader<File>> {
    fn open(path: &Path) -> Result<Self, ProjectFileError> {
        let read = |source| unreadable(path, source);
        let file = File::open(path).map_err(read)?;
        if !file.metadata().map_err(read)?.is_file() {
            // It is read twice, which a pipe can't be.
            return Err(read(io::Error::other("it is not a regular file")));
        }
        Ok(Self::of(path.to_owned(), BufReader::new(file)))
    }
}

impl<R: BufRead> Lines<R> {
    fn of(path: PathBuf, reader: R) -> Self {
        Self { path, reader, line: 0, ended: false }
    }

    fn read(&mut self) -> Result<Option<String>, ProjectFileError> {
        loop {
            let mut bytes = Vec::new();
            let limit = ITEM_BYTES_MAX as u64 + 3;
            (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| unreadable(&self.path, source))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.line += 1;
            let wrong =
                |why: String| ProjectFileError::Item { path: self.path.clone(), line: self.line, why };
            let text =
                bytes.strip_suffix(b"\n").map_or(&bytes[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
            if text.is_empty() {
                continue;
            }
            if bytes.len() as u64 == limit {
                return Err(wrong(format!("the line is longer than {ITEM_BYTES_MAX} bytes")));
            }
            let text = std::str::from_utf8(text).map_err(|_| wrong("the line is not UTF-8".to_owned()))?;
            if let Some(why) = unfit(text) {
                return Err(wrong(why));
            }
            return Ok(Some(text.to_owned()));
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<String, ProjectFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let line = self.read().transpose();
        self.ended = !matches!(line, Some(Ok(_)));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(content: &[u8]) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let items = Items::lines_of(file.path().to_owned()).map_err(|error| error.to_string())?;
        let texts: Vec<String> = items.iter().unwrap().map(|item| item.unwrap().text).collect();
        assert!(matches!(items, Items::Lines { count, .. } if count as usize == texts.len()));
        Ok(texts)
    }

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        assert_eq!(texts(b"a\r\n b \n\n\nc").unwrap(), ["a", " b ", "c"]);
        assert_eq!(texts(b"").unwrap(), [""; 0]);
    }

    #[test]
    fn lines_that_no_program_can_be_given_are_refused_with_their_number() {
        let long = [vec![b'x'; ITEM_BYTES_MAX + 1], b"\nb".to_vec()].concat();
        for (content, why) in [
            (&b"a\n\xff\n"[..], "line 2: the line is not UTF-8"),
            (b"a\0b", "line 1: there is a zero byte"),
            (&long, "line 1: "),
        ] {
            let error = texts(content).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(texts(&[vec![b'x'; ITEM_BYTES_MAX], b"\r\nb".to_vec()].concat()).unwrap().len(), 2);
    }

    #[test]
    fn a_pipe_or_directory_is_refused() {
        assert!(Items::lines_of(PathBuf::from("/")).is_err());
    }
}
