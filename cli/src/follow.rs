//! Follows a project to its end: its progress to stderr, its result to where it is wanted, both at the same time.

use crate::{
    client::{Client, has_ended},
    context::Context,
    error::CliError,
    exit_code,
    output::{
        human,
        json::{DataCutter, Line, ResultBytes},
        progress::Progress,
    },
};
use bytes::Bytes;
use piecework_proto::v1::{self, watch_event::Event};
use std::{path::PathBuf, pin::pin, time::Duration};
use tokio::{fs::File, io::AsyncWriteExt, time::timeout};

/// After how long without an event it is asked what a project waits for.
const QUIET: Duration = Duration::from_secs(3);

/// Where a result goes.
pub(crate) enum Sink {
    /// To stdout: as it is, or as JSON lines.
    Stdout,
    /// Into a file, as it is.
    File(File, PathBuf),
}

impl Sink {
    /// A file to write to, emptied if it is there.
    pub(crate) async fn file(path: PathBuf) -> Result<Self, CliError> {
        let file = File::create(&path).await.map_err(|error| CliError::file("write", &path, &error))?;
        Ok(Self::File(file, path))
    }
}

/// Follows a project with its progress and its result, and returns it as it ended.
pub(crate) async fn run(
    context: &Context,
    client: &Client,
    project: &v1::Project,
    sink: Sink,
) -> Result<v1::Project, CliError> {
    let (watched, _) =
        tokio::try_join!(watch(context, client, project), results(context, client, project.id, false, sink))?;
    Ok(watched)
}

/// Shows what happens in a project until it ends, and returns it as it ended.
pub(crate) async fn watch(
    context: &Context,
    client: &Client,
    project: &v1::Project,
) -> Result<v1::Project, CliError> {
    let mut events = client.watch(project.id);
    let mut progress = (!context.is_json()).then(|| Progress::new(context.screen.clone(), project));
    let mut last = project.clone();
    let mut waits_for = String::new();
    loop {
        let event = {
            let mut next = pin!(events.next());
            loop {
                match timeout(QUIET, &mut next).await {
                    Ok(event) => break event?,
                    Err(_) if progress.is_some() => {
                        tell_wait(context, client, project.id, &mut waits_for).await
                    }
                    Err(_) => {}
                }
            }
        };
        let Some(event) = event else { break };
        let Some(event) = event.event else { continue };
        match &mut progress {
            Some(progress) => progress.event(&event),
            None => print_event(context, &event).await?,
        }
        if let Event::Project(project) = event {
            last = project;
        }
    }
    if let Some(progress) = progress {
        progress.finish()?;
    }
    Ok(last)
}

/// Says what a project waits for, if that is not what was said last. Whoever can't be asked now is asked again.
async fn tell_wait(context: &Context, client: &Client, project: u64, said: &mut String) {
    let Ok(Ok(project)) = timeout(QUIET, client.project(&project.to_string())).await else { return };
    if !project.waiting.is_empty() && project.waiting != *said {
        let called = human::one_line(human::project_name(&project));
        context.screen.note(&format!("{called} waits for {}", human::one_line(&project.waiting)));
    }
    *said = project.waiting;
}

async fn print_event(context: &Context, event: &Event) -> Result<(), CliError> {
    match event {
        Event::Project(project) => context.screen.json(&Line::Project(project.into())).await,
        Event::AttemptsEnded(ended) => {
            for attempt in &ended.attempts {
                context.screen.json(&Line::Attempt(attempt.into())).await?;
            }
            Ok(())
        }
    }
}

/// Writes a project's result as it becomes known, and returns the project as it ended (or as it is, with `no_wait`).
pub(crate) async fn results(
    context: &Context,
    client: &Client,
    project: u64,
    no_wait: bool,
    mut sink: Sink,
) -> Result<v1::Project, CliError> {
    let mut chunks = client.results(project, no_wait);
    let mut cutter = DataCutter::default();
    let mut end = None;
    while let Some(chunk) = chunks.next().await? {
        if !chunk.data.is_empty() {
            write(context, &mut sink, &mut cutter, project, chunk.data).await?;
        }
        end = chunk.end.or(end);
    }
    if let Some(data) = cutter.finish() {
        context.screen.json(&Line::Result(ResultBytes { project, data })).await?;
    }
    if let Sink::File(file, path) = &mut sink {
        file.sync_all().await.map_err(|error| CliError::file("write", path, &error))?;
    }
    end.ok_or_else(|| {
        CliError::new(exit_code::REFUSED, "the coordinator ended the result without saying why")
    })
}

async fn write(
    context: &Context,
    sink: &mut Sink,
    cutter: &mut DataCutter,
    project: u64,
    data: Bytes,
) -> Result<(), CliError> {
    match sink {
        Sink::File(file, path) => {
            let written = async {
                file.write_all(&data).await?;
                file.flush().await
            };
            written.await.map_err(|error| CliError::file("write", path, &error))
        }
        Sink::Stdout if context.is_json() => match cutter.cut(&data) {
            Some(data) => context.screen.json(&Line::Result(ResultBytes { project, data })).await,
            None => Ok(()),
        },
        Sink::Stdout => context.screen.bytes(data).await,
    }
}

/// What a project's end means for the exit code.
pub(crate) fn verdict(project: &v1::Project) -> Result<(), CliError> {
    let called = format!("project {} ({})", project.id, human::one_line(human::project_name(project)));
    let error = |exit_code, what: &str| {
        let error = CliError::new(exit_code, format!("{called} {what}"));
        if project.message.is_empty() { error } else { error.cause(human::one_line(&project.message)) }
    };
    match project.state() {
        v1::ProjectState::Succeeded => Ok(()),
        v1::ProjectState::Cancelled => Err(error(exit_code::CANCELLED, "was cancelled")),
        v1::ProjectState::Failed => {
            let id = project.id;
            // A built-in reassembly fails by what tasks have printed, and none of them failed.
            let reassemble = project.spec.as_ref().and_then(|spec| spec.reassemble.as_ref()?.how.as_ref());
            let is_built_in = matches!(reassemble, Some(v1::reassemble_spec::How::BuiltIn(_)));
            let all_succeeded = project.tasks > 0 && project.succeeded == project.tasks;
            let (list, what) = if is_built_in && all_succeeded {
                ("tasks", "lists the tasks")
            } else {
                ("show", "lists what failed")
            };
            Err(error(exit_code::PROJECT_FAILED, "failed").hint(format!(
                "`piecework {list} {id}` {what}, `piecework logs {id} INDEX` shows what a task printed"
            )))
        }
        _ if has_ended(project) => Ok(()),
        state => Err(error(exit_code::REFUSED, &format!("is still {}", human::project_state(state)))),
    }
}
