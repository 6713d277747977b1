//! How soon a small project gets its turn while a large one has the whole fleet, and when it has ended.

use super::{RUN_SECS_MAX, error::BenchError, parts::Coordinator, place::Place, project::Work};
use crate::output::bench::BenchRow;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many tasks are there before.
const AHEAD_DEFAULT: u32 = 100_000;

/// How many come after.
const TASKS: u32 = 10;

/// How long each of them takes, in milliseconds.
const TASK_MILLIS: u32 = 50;

/// How many of those before have ended when it begins, for each slot: the agent knows by then how long they take.
const WARM_UPS: u32 = 20;

/// How often it is looked whether they have.
const POLL: Duration = Duration::from_millis(100);

const FIRST_SECS_MAX: f64 = 1.0;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let ahead = place.tasks(AHEAD_DEFAULT);
    let sleeping = format!("sleep={TASK_MILLIS}ms");
    let work = |tasks| Work::range("none", &["scripted", &sleeping], tasks);
    let busy = place.coordinator("behind").await?;
    place.scripted_agent(&busy).await?;
    let idle = place.coordinator("behind-nothing").await?;
    place.scripted_agent(&idle).await?;
    work(place.options.slots).run(&idle.client, place.options.slots).await?;

    let small = work(TASKS);
    let (mut first, mut idle_first) = (Vec::new(), Vec::new());
    let before_end = Duration::from_millis(TASK_MILLIS.into());
    let (ours, theirs) = place
        .in_turn(
            "s",
            async |_| {
                // A new one each time, so that there is always enough of it.
                let large = busy.client.submit(&work(ahead).submission()).await?.id.to_string();
                until_ended(&busy, &large, ahead.min(WARM_UPS * place.options.slots)).await?;
                let ran = small.run(&busy.client, TASKS).await?;
                first.push(ran.first.saturating_sub(before_end).as_secs_f64());
                // It may have ended already if it was not that large.
                if !crate::client::has_ended(&busy.client.project(&large).await?) {
                    busy.client.cancel(&large).await?;
                }
                Ok(ran.over.as_secs_f64())
            },
            async |_| {
                let ran = small.run(&idle.client, TASKS).await?;
                idle_first.push(ran.first.saturating_sub(before_end).as_secs_f64());
                Ok(ran.over.as_secs_f64())
            },
        )
        .await?;
    let what = format!("{TASKS} tasks of {TASK_MILLIS} ms, submitted while {ahead} others have all slots");
    Ok(vec![
        BenchRow::new("behind", format!("the first start of {what}"), "s", first)
            .at_most(FIRST_SECS_MAX)
            .note(format!(
                "the first start is the first ending that was seen, less {TASK_MILLIS} ms; with nothing before them it \
                 comes after {:.0} ms",
                crate::output::bench::median(&idle_first) * 1e3
            )),
        BenchRow::new("behind", format!("the end of {what}"), "s", ours)
            .against("the same with nothing before", theirs),
    ])
}

/// Waits until so many tasks of a project have ended well.
async fn until_ended(coordinator: &Coordinator, project: &str, tasks: u32) -> Result<(), BenchError> {
    let deadline = Instant::now() + Duration::from_secs(RUN_SECS_MAX);
    while coordinator.client.project(project).await?.succeeded < tasks {
        if Instant::now() >= deadline {
            return Err(BenchError::TooLong { what: format!("project {project}"), secs: RUN_SECS_MAX });
        }
        sleep(POLL).await;
    }
    Ok(())
}
