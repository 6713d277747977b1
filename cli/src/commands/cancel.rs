//! `piecework cancel`

use crate::{
    context::Context,
    error::CliError,
    output::{human, json::Project},
};
use piecework_proto::v1;

/// Cancel a project: what runs is killed, what waits never starts.
///
/// Cancelling a project that has ended changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.cancel(&args.project).await?;
    if context.is_json() {
        return context.screen.json(&Project::from(&project)).await;
    }
    let (id, name) = (project.id, human::one_line(human::project_name(&project)));
    let state = match project.state() {
        v1::ProjectState::Cancelled => "is cancelled".to_owned(),
        state => format!("had ended already: {}", human::project_state(state)),
    };
    context.screen.note(&format!("project {id} ({name}) {state}"));
    Ok(())
}
