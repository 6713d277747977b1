//! How long one task takes from submission to result when everything is warm, against `docker exec` of the same program in a
//! container that runs. Each submission is a project, and workers never serve two: warm means that one is waiting, so the
//! submissions are a moment apart. How long they take one right after the other is measured too.

use super::{
    docker::Docker,
    error::BenchError,
    host,
    parts::Coordinator,
    place::{Place, SPARES_PAUSE},
    project::Work,
};
use crate::output::bench::{BenchRow, median};
use std::time::Instant;
use tokio::time::sleep;

const REPEATS_DEFAULT: u32 = 50;

/// Not measured: what is first, and cold.
const WARM_UPS: u32 = 3;

/// How long the container lives at the most.
const CONTAINER_SECS: &str = "3600";

const RATIO_MAX: f64 = 0.1;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let repeats = place.tasks(REPEATS_DEFAULT);
    let tools = place.tools()?;
    let docker = place.docker()?;
    let coordinator = place.coordinator("latency").await?;
    place.agent(&coordinator).await?;
    let container = docker.start(&[&tools.sleep, CONTAINER_SECS]).await?;
    let work = Work::range(docker.image.as_str(), &[&tools.nothing], 1);
    let exec = ["docker", "exec", &container, &tools.nothing];

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for repeat in 0..WARM_UPS + repeats {
        sleep(SPARES_PAUSE).await;
        let took = one(&coordinator, &work).await?;
        let other = host::run(&exec).await?.took.as_secs_f64() * 1e3;
        if repeat >= WARM_UPS {
            ours.push(took);
            theirs.push(other);
        }
    }
    Docker::remove(&container).await?;
    let mut in_a_row = Vec::new();
    for _ in 0..repeats {
        in_a_row.push(one(&coordinator, &work).await?);
    }
    place.say(&format!("  {:.1} ms against {:.1} ms", median(&ours), median(&theirs)));
    let what = format!("one {} from submission to result, {repeats} times", tools.nothing);
    let row = |what, figures| BenchRow::new("latency", what, "ms", figures);
    Ok(vec![
        row(format!("{what}, with pauses"), ours).against("docker exec", theirs).at_most(RATIO_MAX),
        row(format!("{what}, without"), in_a_row),
    ])
}

/// From before the submission to the end of the result, in milliseconds.
async fn one(coordinator: &Coordinator, work: &Work) -> Result<f64, BenchError> {
    let submission = work.submission();
    let start = Instant::now();
    let project = coordinator.client.submit(&submission).await?;
    let mut chunks = coordinator.client.results(project.id, false);
    let mut end = None;
    while let Some(chunk) = chunks.next().await? {
        end = chunk.end.or(end);
    }
    let took = start.elapsed().as_secs_f64() * 1e3;
    match end {
        Some(end) if end.succeeded == 1 => Ok(took),
        Some(end) => Err(BenchError::Wrong(format!("the task did not succeed: {}", end.message))),
        None => Err(BenchError::Wrong("the result has no end".into())),
    }
}
