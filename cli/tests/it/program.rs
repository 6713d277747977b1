//! Runs the program, and checks what it says and how it ends.

use assert_cmd::Command;
use std::{path::Path, process::Output};

/// The program, with nothing of the user's surroundings.
pub(crate) fn piecework(dir: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("piecework"));
    command.current_dir(dir).env_clear().env("HOME", dir).timeout(std::time::Duration::from_secs(120));
    command
}

/// How the program ended: exit code, stdout and stderr, with the directory's name left out.
pub(crate) fn said(dir: &Path, output: &Output) -> String {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(&dir.display().to_string(), "DIR");
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n")
    };
    format!(
        "exit code {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code().map_or("none".to_owned(), |code| code.to_string()),
        text(&output.stdout),
        text(&output.stderr)
    )
}
