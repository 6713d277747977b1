//! How fast coordinator and agent are when tasks cost nothing: the scripted runtime ends them at once.

use super::{
    error::BenchError,
    place::Place,
    project::{Expected, Work, result},
};
use crate::{client::Client, output::bench::BenchRow};

const TASKS_DEFAULT: u32 = 100_000;

/// What each task prints.
const OUTPUT_BYTES: usize = 64;

const TASKS_PER_SEC_MIN: f64 = 20_000.0;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let tasks = place.tasks(TASKS_DEFAULT);
    let coordinator = place.coordinator("control").await?;
    place.scripted_agent(&coordinator).await?;
    let client = &coordinator.client;
    work(place.options.slots).run(client, place.options.slots).await?;

    let mut figures = Vec::new();
    for _ in 0..place.options.rounds {
        let figure = rate(client, tasks).await?;
        place.say(&format!("  {figure:.0} tasks/s"));
        figures.push(figure);
    }
    let what = format!("{tasks} tasks that end at once, {OUTPUT_BYTES} bytes of output each");
    Ok(vec![BenchRow::new("control", what, "tasks/s", figures).at_least(TASKS_PER_SEC_MIN)])
}

/// Tasks that end at once, on the scripted runtime.
pub(super) fn work(tasks: u32) -> Work {
    Work::range("none", &["scripted", &format!("bytes={OUTPUT_BYTES}")], tasks)
}

/// Runs so many of them, and returns how many there were each second.
pub(super) async fn rate(client: &Client, tasks: u32) -> Result<f64, BenchError> {
    let ran = work(tasks).run(client, tasks).await?;
    compare(client, ran.project, tasks).await?;
    Ok(f64::from(tasks) / ran.last.as_secs_f64())
}

/// Compares the result of so many of them with what it must be.
pub(super) async fn compare(client: &Client, project: u64, tasks: u32) -> Result<(), BenchError> {
    let output: Vec<u8> = (b'a'..=b'z').cycle().take(OUTPUT_BYTES).collect();
    let mut expected = Expected::new(std::iter::repeat_n(output, tasks as usize));
    result(client, project, |bytes| expected.take(bytes)).await?;
    expected.end()
}
