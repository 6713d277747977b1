//! How fast tasks follow one another that each have a new container, against `docker run` of the same program.

use super::{error::BenchError, host, place::Place, project::Work};
use crate::output::bench::BenchRow;

const TASKS_DEFAULT: u32 = 40;

const RATIO_MIN: f64 = 1.3;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let tasks = place.tasks(TASKS_DEFAULT);
    let slots = place.options.slots;
    let nothing = &place.tools()?.nothing;
    let work = |tasks| Work::range(place.image(), &[nothing, "{item}"], tasks).fresh();
    let run = place.docker()?.run();
    let bare = |tasks: u32| format!("seq {tasks} | xargs -P{slots} -n1 {run} {nothing}");

    let coordinator = place.coordinator("fresh").await?;
    place.agent(&coordinator).await?;
    work(slots).run(&coordinator.client, slots).await?;
    host::shell(&bare(slots)).await?;

    let measured = work(tasks);
    let (ours, theirs) = place
        .in_turn(
            "tasks/s",
            async |_| {
                let ran = measured.run(&coordinator.client, tasks).await?;
                Ok(f64::from(tasks) / ran.last.as_secs_f64())
            },
            async |_| Ok(f64::from(tasks) / host::shell(&bare(tasks)).await?.took.as_secs_f64()),
        )
        .await?;
    let what = format!("{tasks} × {nothing}, each in a container of its own");
    Ok(vec![
        BenchRow::new("fresh", what, "tasks/s", ours)
            .against(format!("xargs -P{slots} -n1 docker run"), theirs)
            .at_least(RATIO_MIN),
    ])
}
