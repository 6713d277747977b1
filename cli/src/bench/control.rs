//! How fast coordinator and agent are when tasks cost nothing: the scripted runtime ends them at once.

use super::{
    error::BenchError,
    place::Place,
    project::{Expected, Work, result},
};
use crate::output::bench::BenchRow;

const TASKS_DEFAULT: u32 = 100_000;

/// What each task prints.
const OUTPUT_BYTES: usize = 64;

const TASKS_PER_SEC_MIN: f64 = 20_000.0;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let tasks = place.tasks(TASKS_DEFAULT);
    let print = format!("bytes={OUTPUT_BYTES}");
    let work = |tasks| Work::range("none", &["scripted", &print], tasks);
    let coordinator = place.coordinator("control").await?;
    place.scripted_agent(&coordinator).await?;
    let client = &coordinator.client;
    work(place.options.slots).run(client, place.options.slots).await?;

    let measured = work(tasks);
    let mut figures = Vec::new();
    for _ in 0..place.options.rounds {
        let ran = measured.run(client, tasks).await?;
        let output: Vec<u8> = (b'a'..=b'z').cycle().take(OUTPUT_BYTES).collect();
        let mut expected = Expected::new(std::iter::repeat_n(output, tasks as usize));
        result(client, ran.project, |bytes| expected.take(bytes)).await?;
        expected.end()?;
        let figure = f64::from(tasks) / ran.last.as_secs_f64();
        place.say(&format!("  {figure:.0} tasks/s"));
        figures.push(figure);
    }
    let what = format!("{tasks} tasks that end at once, {OUTPUT_BYTES} bytes of output each");
    Ok(vec![BenchRow::new("control", what, "tasks/s", figures).at_least(TASKS_PER_SEC_MIN)])
}
