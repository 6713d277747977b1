//! The lines of `/proc/self/mountinfo`.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// What of its file system is seen.
    pub(crate) root: PathBuf,
    /// Where it is seen.
    pub(crate) point: PathBuf,
    /// The file system's type.
    pub(crate) kind: &'a str,
    options: &'a str,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        Some(Self {
            root: unescape(front.next()?),
            point: unescape(front.next()?),
            options: front.next()?,
            kind: back.next()?,
            super_options: back.nth(1).unwrap_or_default(),
        })
    }

    /// Whether the file system has this option.
    pub(crate) fn super_has(&self, option: &str) -> bool {
        has(self.super_options, option)
    }

    /// Neither this mount nor its file system is read-only.
    pub(crate) fn is_writable(&self) -> bool {
        has(self.options, "rw") && !self.super_has("ro")
    }
}

fn has(options: &str, option: &str) -> bool {
    options.split(',').any(|one| one == option)
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = others
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &others[3..] } else { others };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_line_is_taken_apart() {
        let line = r"36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 shared:2 - tmpfs tmpfs rw,size=64k";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(
            (mount.point.as_path(), mount.root.as_path()),
            (Path::new("/mnt two"), Path::new("/mnt1"))
        );
        assert_eq!((mount.kind, mount.is_writable(), mount.super_has("size=64k")), ("tmpfs", true, true));
        assert!(!Mount::parse("1 2 0:1 / /x ro - tmpfs tmpfs rw").unwrap().is_writable());
        assert!(!Mount::parse("1 2 0:1 / /x rw - ext4 /dev/sda ro").unwrap().is_writable());
        assert_eq!(Mount::parse("1 2 0:1 / /x"), None);
    }
}
