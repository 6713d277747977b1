//! Tasks for open projects.

use super::super::{Context, status};
use crate::{
    intake::{Intake, IntakeError},
    wire,
};
use piecework_proto::v1 as pb;
use tonic::Status;

/// Adds the tasks of one call.
pub(super) async fn add(
    context: &Context,
    request: pb::AddTasksRequest,
) -> Result<pb::AddTasksResponse, Status> {
    let pb::AddTasksRequest { project, tasks, end } = request;
    let tasks = wire::new_tasks(tasks).map_err(status::wire)?;
    let project = context.project(&project).await?.id;
    let intake = Intake::new(context.store.clone(), context.driver.clone());
    let added = intake.add(project, tasks, end).await.map_err(intake_status)?;
    Ok(pb::AddTasksResponse {
        tasks: added.into_iter().map(wire::added_to_proto).collect(),
        project: Some(wire::project_to_proto(&context.known_project(project).await?)),
    })
}

fn intake_status(error: IntakeError) -> Status {
    match error {
        IntakeError::NoProject(_) => Status::not_found(error.to_string()),
        IntakeError::NeverOpen(_)
        | IntakeError::Closed(_)
        | IntakeError::Ended { .. }
        | IntakeError::TooMany(_) => Status::failed_precondition(error.to_string()),
        IntakeError::TooManyAtOnce(_) => status::bad_field("tasks", error.to_string()),
        IntakeError::Item { nth, problems } => {
            let fields = problems.all().iter().map(|problem| {
                // `items[N].text` for those who submit.
                let rest = problem.field.split_once(']').map_or("", |(_, rest)| rest);
                (format!("tasks[{nth}].item{rest}"), problem.kind.to_string())
            });
            status::bad_fields(fields)
        }
        IntakeError::Store(error) => status::store(error),
        IntakeError::Driver(error) => status::driver(error),
    }
}
