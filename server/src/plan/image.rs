//! Validates the image: references roughly (the engine has the last word), files of a build exactly.

use super::{IMAGE_FILE_BYTES_MAX, IMAGE_FILES_MAX, PATH_BYTES_MAX, ProblemKind, problem::Collector};
use crate::domain::{ImageFile, ImageSpec};
use std::collections::BTreeSet;

pub(super) fn validate(image: &ImageSpec, problems: &mut Collector) {
    match image {
        ImageSpec::Reference(reference) => check_reference(reference, "image.reference", problems),
        ImageSpec::Build { from, files, run } => {
            if from != "scratch" {
                check_reference(from, "image.build.from", problems);
            }
            validate_files(files, problems);
            for (n, command) in run.iter().enumerate() {
                let field = || format!("image.build.run[{n}]");
                problems.no_zero(field, command);
                problems.check(!command.trim().is_empty(), &field(), || ProblemKind::Blank);
            }
        }
    }
}

fn validate_files(files: &[ImageFile], problems: &mut Collector) {
    let field = "image.build.files";
    problems.check(files.len() <= IMAGE_FILES_MAX, field, || ProblemKind::TooManyFiles(files.len()));
    let mut paths = BTreeSet::new();
    for (n, file) in files.iter().enumerate().take(IMAGE_FILES_MAX) {
        let path = format!("{field}[{n}].path");
        problems.check(absolute_path(&file.path), &path, || ProblemKind::Path(file.path.clone()));
        problems.check(paths.insert(&file.path), &path, || ProblemKind::PathTwice(file.path.clone()));
        problems.check(file.mode <= 0o7777, &format!("{field}[{n}].mode"), || ProblemKind::Mode(file.mode));
        let good = file.length <= IMAGE_FILE_BYTES_MAX;
        problems.check(good, &format!("{field}[{n}].length"), || ProblemKind::FileTooLong(file.length));
    }
}

/// Whether a path is absolute, names something below the root, and takes no detours.
pub(super) fn absolute_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX
        && !path.chars().any(char::is_control)
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

fn check_reference(reference: &str, field: &str, problems: &mut Collector) {
    if let Err(what) = parse_reference(reference) {
        problems.add(field, ProblemKind::ImageReference { what });
    }
}

/// `[host[:port]/]name[/name…][:tag][@algorithm:digest]`
fn parse_reference(reference: &str) -> Result<(), &'static str> {
    const REFERENCE_BYTES_MAX: usize = 512;
    const TAG_BYTES_MAX: usize = 128;
    if reference.is_empty() {
        return Err("it is empty");
    }
    if reference.len() > REFERENCE_BYTES_MAX {
        return Err("it is longer than 512 bytes");
    }
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    if let Some(digest) = digest {
        let good = digest.split_once(':').is_some_and(|(algorithm, hex)| {
            let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
            word(algorithm) && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if !good {
            return Err("after the `@` stands no digest such as `sha256:…`");
        }
    }
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = match name[last..].split_once(':') {
        None => name,
        Some((stem, tag)) => {
            let good = !tag.is_empty()
                && tag.len() <= TAG_BYTES_MAX
                && !tag.starts_with(['.', '-'])
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
            if !good {
                return Err("the tag after the `:` is empty, too long, or has a forbidden character");
            }
            &name[..last + stem.len()]
        }
    };
    let is_host =
        |part: &str| part == "localhost" || part.contains(['.', ':']) || part.chars().any(char::is_uppercase);
    let path = match name.split_once('/') {
        Some((host, path)) if is_host(host) => {
            if !host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
            {
                return Err("the registry's host has a forbidden character");
            }
            path
        }
        _ => name,
    };
    for part in path.split('/') {
        if part.is_empty() {
            return Err("a part of the name is empty");
        }
        if part.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("names of images are lower-case");
        }
        let edge = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
        let inner = |char: char| edge(char) || matches!(char, '.' | '_' | '-');
        if !part.chars().all(inner) {
            return Err("it has a forbidden character");
        }
        if !part.starts_with(edge) || !part.ends_with(edge) {
            return Err("a part of the name does not begin and end with a letter or digit");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_references_pass() {
        for reference in [
            "debian",
            "debian:bookworm-slim",
            "library/debian",
            "registry.example.org/team/app:1.0_x",
            "localhost:5000/app",
            "localhost/app:latest",
            "a__b/c-d.e",
            "app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "app:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(parse_reference(reference), Ok(()), "{reference}");
        }
    }

    #[test]
    fn bad_references_are_refused() {
        for reference in [
            "",
            " ",
            "debian bookworm",
            "Debian",
            "debian:",
            "debian:-x",
            "debian:a b",
            "-rm",
            "a//b",
            "a/",
            "/a",
            "app@",
            "app@sha256:xyz",
            "app\n",
            "été",
        ] {
            assert!(parse_reference(reference).is_err(), "{reference:?}");
        }
    }

    #[test]
    fn paths_are_absolute_and_take_no_detours() {
        for path in ["/a", "/usr/local/bin/x y", "/a..b"] {
            assert!(absolute_path(path), "{path:?}");
        }
        for path in ["", "/", "a", "./a", "/a/", "/a//b", "/a/../b", "/..", "/a/./b", "/a\nb", "/a\0"] {
            assert!(!absolute_path(path), "{path:?}");
        }
    }
}
