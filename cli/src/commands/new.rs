//! `piecework new`

use crate::{context::Context, error::CliError, exit_code, output::json::NewProject};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The solver of the queens, as a static binary. The build script makes it.
pub(crate) const QUEENS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/queens"));

/// Write a project that is ready to run.
///
/// `queens` counts in how many ways 12 queens can stand on a 12×12 board: a project file, and the solver as a static binary
/// that runs in an empty image. `hello` is a JSON list of a hundred greetings.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which project.
    template: Template,
    /// Where to write it. Without it: a directory of the project's name.
    dir: Option<PathBuf>,
    /// Overwrite files that are there.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Template {
    /// Counts the solutions of 12-queens.
    Queens,
    /// A hundred greetings.
    Hello,
}

/// One file of a template.
struct TemplateFile {
    name: &'static str,
    content: &'static [u8],
    mode: u32,
}

impl Template {
    const fn name(self) -> &'static str {
        match self {
            Self::Queens => "queens",
            Self::Hello => "hello",
        }
    }

    /// The files; the one to run comes first.
    const fn files(self) -> &'static [TemplateFile] {
        match self {
            Self::Queens => &[
                TemplateFile {
                    name: "queens.yaml",
                    content: include_bytes!("../../../examples/queens/queens.yaml"),
                    mode: 0o644,
                },
                TemplateFile { name: "queens", content: QUEENS, mode: 0o755 },
            ],
            Self::Hello => &[TemplateFile {
                name: "hello.json",
                content: include_bytes!("../../../examples/hello/hello.json"),
                mode: 0o644,
            }],
        }
    }
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(args.template.name()));
    let paths: Vec<PathBuf> = args.template.files().iter().map(|file| dir.join(file.name)).collect();
    // Nothing is written if anything is in the way.
    if let Some(path) = paths.iter().find(|path| !args.force && path.symlink_metadata().is_ok()) {
        return Err(CliError::new(exit_code::BAD_INPUT, format!("{} is there already", path.display()))
            .hint("name another directory, or overwrite it with `--force`"));
    }
    fs::create_dir_all(&dir).map_err(|error| CliError::file("make the directory", &dir, &error))?;
    for (file, path) in args.template.files().iter().zip(&paths) {
        write(file, path).map_err(|error| CliError::file("write", path, &error))?;
    }
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let project_file = shown.first().cloned().unwrap_or_default();
    context.screen.note(&format!("run it with: piecework run {}", shell_words::quote(&project_file)));
    if context.is_json() {
        return context.screen.json(&NewProject { files: shown, project_file }).await;
    }
    context.screen.print(shown.join("\n") + "\n").await
}

/// Writes a new file and puts it in place, so that a program that is running is not written into.
fn write(file: &TemplateFile, path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&temporary)?;
        new.write_all(file.content)?;
        new.set_permissions(fs::Permissions::from_mode(file.mode))?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
