//! What TCP with TLS costs: coordinator, agent and client over it, against the same over the Unix socket.

use super::{control, error::BenchError, parts::Way, place::Place};
use crate::output::bench::BenchRow;

const TASKS_DEFAULT: u32 = 100_000;

/// TLS costs no more than a tenth.
const RATIO_MIN: f64 = 0.9;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let tasks = place.tasks(TASKS_DEFAULT);
    let slots = place.options.slots;
    let tcp = place.coordinator_on_tcp("tls").await?;
    place.scripted_agent_over(&tcp, Way::Tls).await?;
    let client = tcp.client_over_tls(place.context).await?;
    let socket = place.coordinator("tls-socket").await?;
    place.scripted_agent(&socket).await?;
    control::work(slots).run(&client, slots).await?;
    control::work(slots).run(&socket.client, slots).await?;

    let (ours, theirs) = place
        .in_turn(
            "tasks/s",
            async |_| control::rate(&client, tasks).await,
            async |_| control::rate(&socket.client, tasks).await,
        )
        .await?;
    let what = format!("{tasks} tasks that end at once, agent and client over TLS");
    Ok(vec![
        BenchRow::new("tls", what, "tasks/s", ours).against("the Unix socket", theirs).at_least(RATIO_MIN),
    ])
}
