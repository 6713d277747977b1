//! Documents that are made from the code: the manual of the command line, and the check that what is published is current.

use crate::args::Args;
use clap::CommandFactory;
use std::fmt::Write as _;

/// The manual in Markdown: the help of every command.
#[must_use]
pub fn manual() -> String {
    let mut text = "# piecework: the command line\n\nThis page is the help of every command, as `piecework COMMAND --help` prints it; only the global options are not repeated.\n".to_owned();
    let mut command = Args::command().term_width(100);
    command.build();
    section(&mut text, &mut command);
    sections_below(&mut text, &mut command);
    text
}

/// The help of the commands of a command, and of theirs.
fn sections_below(text: &mut String, command: &mut clap::Command) {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<String> = shown.map(|command| command.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        if let Some(command) = command.find_subcommand_mut(name) {
            let mut command = command.clone().mut_args(|arg| {
                let global = arg.is_global_set();
                arg.hide(global)
            });
            section(text, &mut command);
            sections_below(text, &mut command);
        }
    }
}

fn section(text: &mut String, command: &mut clap::Command) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n"));
}

/// Compares a document under `docs/` with what the code makes of it. With `PIECEWORK_UPDATE_DOCS=1` it is written instead.
#[cfg(test)]
#[track_caller]
pub(crate) fn check_published(name: &str, current: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("PIECEWORK_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, current).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == current,
        "docs/{name} is not current: run `PIECEWORK_UPDATE_DOCS=1 cargo test -p piecework-cli published`"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_manual_is_current() {
        check_published("cli.md", &manual());
    }

    #[test]
    fn the_arguments_are_well_formed() {
        Args::command().debug_assert();
    }
}
