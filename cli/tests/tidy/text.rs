//! Rules about Rust files and about text as such: names, lengths, openings, leftovers.

use crate::{
    Finding,
    lexer::{is_test_file, tokens, without_tests},
};

/// A longer file holds more than one thing.
const LINES_MAX: usize = 500;

/// Names that say nothing about what a file holds.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc", "imp"];

/// Queues without a bound, of std, tokio and futures.
const UNBOUNDED: &[&str] = &["unbounded", "unbounded_channel", "UnboundedSender", "UnboundedReceiver"];

/// Endings of the files that people write line by line.
const WRITTEN: &[&str] = &["rs", "proto", "toml", "md", "yaml", "yml", "json", "sh", "run"];

/// Folders of one machine, which mean nothing on another. In pieces, so that this file does not name them.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// What is wrong with a Rust file.
pub(crate) fn rust_findings(file: &str, source: &str) -> Vec<Finding> {
    let mut found = Found { file, findings: Vec::new() };
    if !source.starts_with("//!") {
        found.add(1, "no module documentation: open the file with `//!` lines that say what it is for");
    }
    let lines = source.lines().count();
    if lines > LINES_MAX {
        found.add(
            LINES_MAX + 1,
            &format!("{lines} lines, more than {LINES_MAX}: split the file by what it holds"),
        );
    }
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    if let Some(name) = stem.split('/').find(|part| EMPTY_NAMES.contains(part)) {
        found.add(1, &format!("`{name}` says nothing: name files for what they hold"));
    }
    let tokens = tokens(source);
    for window in tokens.windows(3) {
        match window {
            [a, b, c] if a.is("#") && b.is("[") && c.is("ignore") => {
                found.add(c.line, "an ignored test: mend it or delete it");
            }
            [a, b, _] if b.is("!") && (a.is("todo") || a.is("unimplemented")) => {
                found.add(a.line, &format!("`{}!`: finish it", a.text));
            }
            _ => {}
        }
    }
    if !is_test_file(file) {
        for token in without_tests(&tokens).iter().filter(|token| UNBOUNDED.contains(&token.text.as_str())) {
            found.add(token.line, &format!("`{}`: every queue has a bound", token.text));
        }
    }
    found.findings
}

/// What is wrong with any text file.
pub(crate) fn text_findings(file: &str, text: &str) -> Vec<Finding> {
    let mut found = Found { file, findings: Vec::new() };
    let is_written = file.rsplit(['/', '.']).next().is_some_and(|ending| WRITTEN.contains(&ending));
    for (number, line) in (1..).zip(text.lines()) {
        if is_written && line.contains('\t') {
            found.add(number, "a tab");
        }
        if is_written && line.ends_with([' ', '\r']) {
            found.add(number, "white space at the end of the line");
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|path| names_path(line, path)) {
            found.add(number, &format!("`{path}` is a folder of one machine"));
        }
    }
    found.findings
}

/// Whether the path stands there from its root, not as the end of a longer one.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '*'))
    })
}

struct Found<'a> {
    file: &'a str,
    findings: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, message: &str) {
        self.findings.push(Finding { file: self.file.to_owned(), line, message: message.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[Finding], expected: &[(usize, &str)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (finding, (line, part)) in found.iter().zip(expected) {
            assert!(finding.line == *line && finding.message.contains(part), "{finding:?}");
        }
    }

    fn check_rust(source: &str, expected: &[(usize, &str)]) {
        check(&rust_findings("server/src/a.rs", source), expected);
    }

    #[test]
    fn a_file_opens_with_its_documentation() {
        check_rust("use a;\n//! Late.\n", &[(1, "no module documentation")]);
        check_rust("", &[(1, "no module documentation")]);
        check_rust("//! What it is for.\n", &[]);
    }

    #[test]
    fn files_are_not_too_long() {
        check_rust(&"//! A.\n".repeat(LINES_MAX), &[]);
        check_rust(&"//! A.\n".repeat(LINES_MAX + 1), &[(LINES_MAX + 1, "501 lines")]);
    }

    #[test]
    fn file_names_say_something() {
        for file in
            ["server/src/utils.rs", "agent/src/common/mod.rs", "cli/src/helpers.rs", "a/misc.rs", "a/imp.rs"]
        {
            check(&rust_findings(file, "//! A."), &[(1, "says nothing")]);
        }
        check(&rust_findings("server/src/impartial.rs", "//! A."), &[]);
    }

    #[test]
    fn no_test_is_ignored() {
        check_rust("//! A.\n#[test]\n#[ignore = \"slow\"]\nfn f() {}", &[(3, "an ignored test")]);
        check_rust("//! A.\n#[ignore]\nfn f() {}", &[(2, "an ignored test")]);
        check_rust("//! A.\n// #[ignore]\nlet a = \"#[ignore]\";", &[]);
    }

    #[test]
    fn nothing_is_left_to_do() {
        check_rust("//! A.\nfn f() { todo!() }", &[(2, "`todo!`")]);
        check_rust("//! A.\nfn f() {\n std::unimplemented!(\"x\") }", &[(3, "`unimplemented!`")]);
        check_rust("//! A.\n// todo!\nlet todo = !a;", &[]);
    }

    #[test]
    fn every_queue_has_a_bound() {
        check_rust("//! A.\nlet (a, b) = mpsc::unbounded_channel();", &[(2, "every queue has a bound")]);
        check_rust("//! A.\n#[cfg(test)]\nmod tests { use x::UnboundedSender; }\n// unbounded", &[]);
        check(&rust_findings("server/tests/it/a.rs", "//! A.\nuse x::unbounded_channel;"), &[]);
    }

    #[test]
    fn lines_have_no_tabs_and_no_white_space_at_the_end() {
        check(
            &text_findings("a.md", "a\n\tb\nc \nd\r\r\n"),
            &[(2, "a tab"), (3, "white space"), (4, "white space")],
        );
        check(&text_findings("help.stdout", "a \n\tb"), &[]);
        check(&text_findings(".ci/run", "a \n"), &[(1, "white space")]);
    }

    #[test]
    fn no_folder_of_one_machine_is_named() {
        for path in MACHINE_PATHS {
            check(&text_findings("a.txt", &format!("a\nsee {path}b\n")), &[(2, "folder of one machine")]);
            check(&text_findings("a.md", &format!("{path}b")), &[(1, "folder of one machine")]);
            check(&text_findings("a.rs", &format!("/var{path}b .{path} ${{X}}{path}")), &[]);
        }
    }
}
