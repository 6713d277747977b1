//! `piecework run`

use super::submit::InputArgs;
use crate::{
    client::{Client, ClientError, has_ended},
    context::Context,
    embedded::EmbeddedArgs,
    error::CliError,
    exit_code, failures,
    follow::{self, Sink},
    output::json::Line,
    project_file::Submission,
    session::Session,
};
use piecework_proto::v1;
use std::{pin::pin, time::Duration};

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
    // The input may be a pipe into which nobody writes.
    let submissions = until_interrupted(context, args.input.load()).await?;
    let mut session = until_interrupted(context, Box::pin(Session::open(context, &args.embedded))).await?;
    let client = session.client.clone();
    let mut submitted = Vec::new();
    let work = Box::pin(run_all(context, &client, &submissions, &mut submitted));
    let ended = session.during(context, work).await;
    let ended_with = ended.as_ref().map_or_else(CliError::exit_code, |()| exit_code::OK);
    let interruptions = u32::from(ended_with == exit_code::INTERRUPTED);
    // Nobody waits for the result any more: neither the user, nor the reader of stdout.
    if interruptions > 0 || ended_with == exit_code::STDOUT_CLOSED {
        tokio::select! {
            () = cancel_all(context, &client, &submitted) => {}
            () = context.interrupts.at_least(interruptions + 1) => {}
        }
    }
    session.close(context, interruptions).await;
    ended
}

/// Does some work that can be dropped at any time.
async fn until_interrupted<T>(
    context: &Context,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        done = work => done,
        () = context.interrupts.at_least(1) => Err(CliError::quiet(exit_code::INTERRUPTED)),
    }
}

/// Submits everything, then follows one project after the other, so that the results come in order.
async fn run_all(
    context: &Context,
    client: &Client,
    submissions: &[Submission],
    submitted: &mut Vec<v1::Project>,
) -> Result<(), CliError> {
    for submission in submissions {
        let project = submit(context, client, submission).await?;
        submitted.push(project.clone());
        until_interrupted(context, async {
            if context.is_json() {
                context.screen.json(&Line::Submitted((&project).into())).await
            } else {
                Ok(())
            }
        })
        .await?;
    }
    until_interrupted(context, Box::pin(follow_all(context, client, submitted))).await
}

/// Submits a project. A submission in flight is not dropped when the user interrupts it: it may be a project already, and
/// only its number lets it be cancelled.
async fn submit(
    context: &Context,
    client: &Client,
    submission: &Submission,
) -> Result<v1::Project, CliError> {
    let interrupted = || CliError::quiet(exit_code::INTERRUPTED);
    let mut in_flight = pin!(client.submit(submission));
    tokio::select! {
        project = &mut in_flight => return Ok(project?),
        () = context.interrupts.at_least(1) => {}
    }
    context.screen.note("waiting for the submission's answer, to cancel it; once more ends at once");
    tokio::select! {
        answer = tokio::time::timeout(CANCEL_MAX, in_flight) => match answer {
            // The next step sees the interruption.
            Ok(Ok(project)) => return Ok(project),
            // Nothing is there to be cancelled.
            Ok(Err(ClientError::Refused(_) | ClientError::Input(_))) => return Err(interrupted()),
            Ok(Err(_)) | Err(_) => {}
        },
        () = context.interrupts.at_least(2) => {}
    }
    context
        .screen
        .note("the submission may have become a project nevertheless: `piecework ls` lists it then");
    Err(interrupted())
}

async fn follow_all(context: &Context, client: &Client, projects: &[v1::Project]) -> Result<(), CliError> {
    let mut verdict = Ok(());
    for project in projects {
        let ended = follow::run(context, client, project, Sink::Stdout).await?;
        failures::tell_hints(context, client, &ended).await;
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
