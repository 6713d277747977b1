//! `piecework submit`

use crate::{
    context::Context,
    error::CliError,
    exit_code, follow,
    output::json::Line,
    project_file::{Input, Submission},
};
use std::path::PathBuf;

/// Submit a project, and print its number.
///
/// When the number is there, the project is safe: it survives whatever ends this program or the coordinator. A list of
/// tasks becomes a project for each project id in it, with a number each.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    input: InputArgs,
    /// Stay, and show the progress until the project has ended.
    #[arg(short, long)]
    watch: bool,
}

/// What is submitted.
#[derive(Debug, clap::Args)]
pub(crate) struct InputArgs {
    /// A project file (YAML or JSON), or a JSON list of tasks. `-` is standard input.
    file: PathBuf,
    /// The image for a list of tasks, which names none.
    #[arg(long, env = "PIECEWORK_IMAGE", default_value = "debian:bookworm-slim", hide_env_values = true)]
    image: String,
}

impl InputArgs {
    /// Reads it all, without blocking other tasks.
    pub(crate) async fn load(self) -> Result<Vec<Submission>, CliError> {
        let loaded = tokio::task::spawn_blocking(move || Input::of(&self.file).load(&self.image)).await;
        match loaded {
            Ok(loaded) => Ok(loaded?),
            Err(error) => {
                Err(CliError::new(exit_code::LOCAL_FAILURE, "the input can't be read").cause(error))
            }
        }
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let submissions = args.input.load().await?;
    let client = context.connect().await?;
    let mut projects = Vec::new();
    for submission in &submissions {
        let project = client.submit(submission).await?;
        if context.is_json() {
            context.screen.json(&Line::Submitted((&project).into())).await?;
        } else {
            context.screen.print(format!("{}\n", project.id)).await?;
        }
        projects.push(project);
    }
    let mut verdict = Ok(());
    for project in projects.iter().filter(|_| args.watch) {
        verdict = verdict.and(follow::verdict(&follow::watch(context, &client, project).await?));
    }
    verdict
}
