//! The tidy test: what no compiler checks, over every file of the repository. CONTRIBUTING.md lists the rules; each rule
//! has tests of its own, which show that it finds what it should.

mod imports;
mod lexer;
mod paths;
mod schema;
mod text;

use std::{env, fmt, fs, io, path::PathBuf, process::Command};

/// Something against the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// From the root of the repository.
    file: String,
    /// From 1.
    line: usize,
    /// What is wrong, and what to do.
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// What is wrong with one file.
fn findings(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = text::text_findings(file, text);
    if file.ends_with(".rs") {
        findings.extend(text::rust_findings(file, text));
        findings.extend(imports::findings(file, text));
    } else if file.ends_with(".proto") {
        findings.extend(schema::findings(file, text));
    }
    findings
}

fn root() -> PathBuf {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    PathBuf::from(manifest_dir).parent().expect("the crate lies in the workspace").to_owned()
}

/// All files that git tracks, or would with the next `git add`.
fn files() -> Vec<String> {
    let output = Command::new("git")
        // A clone that belongs to another user is read all the same.
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("the tidy test needs git");
    assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).expect("file names are UTF-8");
    list.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn the_repository_is_tidy() {
    let mut found = Vec::new();
    let files = files();
    assert!(files.iter().any(|file| file.ends_with(".rs")), "git lists no sources");
    for file in &files {
        match fs::read(root().join(file)) {
            Ok(bytes) => found.extend(String::from_utf8(bytes).iter().flat_map(|text| findings(file, text))),
            // Deleted, and git has not been told yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{file}: {error}"),
        }
    }
    let list: Vec<String> = found.iter().map(Finding::to_string).collect();
    assert!(list.is_empty(), "{} against the rules:\n{}\n", list.len(), list.join("\n"));
}

#[test]
fn findings_name_file_and_line() {
    let found = findings("server/src/domain/x.rs", "//! X.\nuse tokio::time;\n");
    assert_eq!(found.len(), 1);
    let shown = found[0].to_string();
    assert!(shown.starts_with("server/src/domain/x.rs:2: a core names `tokio::time`"), "{shown}");
}
