//! `piecework ls`

use crate::{
    context::Context,
    error::CliError,
    output::{
        human,
        json::{Project, Projects},
    },
};
use piecework_proto::v1;

/// Most projects in one answer.
const PAGE_MAX: u32 = 1000;

/// List projects, newest first.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also list projects that have ended.
    #[arg(short, long)]
    all: bool,
    /// List at most this many.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let mut projects: Vec<v1::Project> = Vec::new();
    loop {
        let missing = args.limit - u32::try_from(projects.len()).unwrap_or(args.limit);
        let request = v1::ListProjectsRequest {
            active_only: !args.all,
            limit: missing.min(PAGE_MAX),
            before_id: projects.last().map_or(0, |project| project.id),
        };
        let page = client.list(request).await?;
        let more = page.more && !page.projects.is_empty();
        projects.extend(page.projects);
        if !more || projects.len() >= args.limit as usize {
            break;
        }
    }
    if context.is_json() {
        return context
            .screen
            .json(&Projects { projects: projects.iter().map(Project::from).collect() })
            .await;
    }
    if projects.is_empty() {
        context.screen.note(if args.all {
            "there are no projects yet; `piecework run FILE` submits one"
        } else {
            "no project is active; `piecework ls -a` also lists those that have ended"
        });
    }
    context
        .screen
        .print(human::table(
            &["PROJECT", "NAME", "STATE", "TASKS", "FAILED", "SUBMITTED", "TOOK"],
            projects.iter().map(row).collect(),
        ))
        .await
}

fn row(project: &v1::Project) -> Vec<String> {
    let done = project.succeeded + project.failed;
    let took = if project.ended_millis > 0 {
        human::took(project.created_millis, project.ended_millis)
    } else {
        "-".to_owned()
    };
    vec![
        project.id.to_string(),
        human::project_name(project).to_owned(),
        human::project_state(project.state()).to_owned(),
        if project.tasks == 0 { "-".to_owned() } else { format!("{done}/{}", project.tasks) },
        project.failed.to_string(),
        human::ago(project.created_millis),
        took,
    ]
}
