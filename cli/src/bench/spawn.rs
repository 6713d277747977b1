//! How fast tasks that do nothing follow one another, against `xargs` with the same program.

use super::{error::BenchError, host, place::Place, project::Work};
use crate::output::bench::{BenchRow, median};

const TASKS_DEFAULT: u32 = 10_000;

/// At least as fast as `xargs`.
const RATIO_MIN: f64 = 1.0;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let tasks = place.tasks(TASKS_DEFAULT);
    let slots = place.options.slots;
    let nothing = &place.tools()?.nothing;
    // The number goes along as an argument, as `xargs` passes it.
    let work = |tasks| Work::range(place.image(), &[nothing, "{item}"], tasks);
    let xargs = |tasks: u32| format!("seq {tasks} | xargs -P{slots} -n1 {nothing}");

    let coordinator = place.coordinator("spawn").await?;
    place.agent(&coordinator).await?;
    work(slots).run(&coordinator.client, slots).await?;
    host::shell(&xargs(slots)).await?;

    let measured = work(tasks);
    let mut first = Vec::new();
    let (ours, theirs) = place
        .in_turn(
            "tasks/s",
            async |_| {
                let ran = measured.run(&coordinator.client, tasks).await?;
                first.push(ran.first.as_secs_f64() * 1e3);
                Ok(f64::from(tasks) / ran.last.as_secs_f64())
            },
            async |_| Ok(f64::from(tasks) / host::shell(&xargs(tasks)).await?.took.as_secs_f64()),
        )
        .await?;
    let what = format!("{tasks} × {nothing} {}", place.workers());
    Ok(vec![
        BenchRow::new("spawn", what, "tasks/s", ours)
            .against(format!("xargs -P{slots} -n1"), theirs)
            .at_least(RATIO_MIN)
            .note(format!("the first task had ended {:.0} ms after the submission began", median(&first))),
    ])
}
