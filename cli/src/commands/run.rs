//! `piecework run`

use super::submit::InputArgs;
use crate::{
    client::{Client, has_ended},
    context::Context,
    embedded::EmbeddedArgs,
    error::CliError,
    exit_code,
    follow::{self, Sink},
    output::json::Line,
    project_file::Submission,
    session::Session,
};
use piecework_proto::v1;
use std::{sync::Mutex, time::Duration};

/// How long a cancelled project is waited for.
const CANCEL_MAX: Duration = Duration::from_secs(10);

/// Submit a project, watch it, and print its result.
///
/// The result goes to stdout as it becomes known, progress to stderr, and the exit code tells whether the project
/// succeeded. If no coordinator is running, one is started in this process for as long as the project needs it. Ctrl-C
/// cancels the project; a second Ctrl-C ends at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten, next_help_heading = "If no coordinator is running")]
    embedded: EmbeddedArgs,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let submissions = args.input.load().await?;
    let mut session = tokio::select! {
        session = Session::open(context, &args.embedded) => session?,
        () = context.interrupts.at_least(1) => return Err(CliError::quiet(exit_code::INTERRUPTED)),
    };
    let client = session.client.clone();
    let submitted = Mutex::new(Vec::new());
    let work = session.during(context, run_all(context, &client, &submissions, &submitted));
    let (ended, interruptions) = tokio::select! {
        ended = work => (ended, 0),
        () = context.interrupts.at_least(1) => (Err(CliError::quiet(exit_code::INTERRUPTED)), 1),
    };
    // Nobody waits for the result any more: neither the user, nor the reader of stdout.
    let given_up =
        interruptions > 0 || matches!(&ended, Err(error) if error.exit_code() == exit_code::STDOUT_CLOSED);
    if given_up {
        let submitted = submitted.into_inner().unwrap_or_default();
        tokio::select! {
            () = cancel_all(context, &client, &submitted) => {}
            () = context.interrupts.at_least(interruptions + 1) => {}
        }
    }
    session.close(context, interruptions).await;
    ended
}

/// Submits everything, then follows one project after the other, so that the results come in order.
async fn run_all(
    context: &Context,
    client: &Client,
    submissions: &[Submission],
    submitted: &Mutex<Vec<v1::Project>>,
) -> Result<(), CliError> {
    let mut projects = Vec::new();
    for submission in submissions {
        let project = client.submit(submission).await?;
        if context.is_json() {
            context.screen.json(&Line::Submitted((&project).into())).await?;
        }
        if let Ok(mut submitted) = submitted.lock() {
            submitted.push(project.clone());
        }
        projects.push(project);
    }
    let mut verdict = Ok(());
    for project in &projects {
        let ended = follow::run(context, client, project, Sink::Stdout).await?;
        if let Err(error) = follow::verdict(&ended) {
            // All but the last to fail are told here.
            if let Err(earlier) = std::mem::replace(&mut verdict, Err(error)) {
                earlier.print();
            }
        }
    }
    verdict
}

async fn cancel_all(context: &Context, client: &Client, projects: &[v1::Project]) {
    let cancelled = async {
        for project in projects {
            let number = project.id.to_string();
            match client.project(&number).await {
                Ok(project) if has_ended(&project) => continue,
                _ => context.screen.note(&format!("cancelling project {number}; once more ends at once")),
            }
            match client.cancel(&number).await {
                Ok(_) => {
                    let mut events = client.watch(project.id);
                    while let Ok(Some(_)) = events.next().await {}
                }
                Err(error) => {
                    context.screen.note(&format!("project {number} could not be cancelled: {error}"))
                }
            }
        }
    };
    if tokio::time::timeout(CANCEL_MAX, cancelled).await.is_err() {
        context.screen.note("the cancelled project has not ended yet; it ends in the background");
    }
}
