//! How long the submission of very many items takes, against bare SQLite with the same rows; and what memory the coordinator
//! needs for it, and while such a project runs.

use super::{
    error::BenchError,
    memory::{megabytes, peak_bytes, reset_peak},
    parts::Coordinator,
    place::Place,
    project::{Expected, Witness, Work, follow, result},
};
use crate::{client::has_ended, output::bench::BenchRow};
use piecework_proto::v1::{self, watch_event::Event};
use rusqlite::Connection;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

const ITEMS_DEFAULT: u32 = 1_000_000;

/// How many rows the bare loop commits at a time.
const GROUP_ROWS: usize = 10_000;

/// How long the project runs at the most, in seconds: the peak of its memory does not need all its tasks.
const RUNNING_SECS_MAX: u64 = 60;

const RATIO_MAX: f64 = 6.0;
const MEGABYTES_MAX: f64 = 200.0;

/// The coordinator's table of items, on its own.
const TABLE: &str = "CREATE TABLE items (
    project  INTEGER NOT NULL,
    idx      INTEGER NOT NULL,
    text     TEXT NOT NULL,
    args     TEXT,
    resource TEXT,
    PRIMARY KEY (project, idx)
) STRICT, WITHOUT ROWID";

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let count = place.tasks(ITEMS_DEFAULT);
    let items: Arc<Vec<String>> = Arc::new((0..count).map(|index| format!("item {index:07}")).collect());
    let work = Work::list("none", &["scripted", "print={item}"], Arc::clone(&items));
    let coordinator = place.coordinator("submit").await?;
    let mut projects = Vec::new();
    let (ours, theirs) = place
        .in_turn(
            "s",
            async |_| {
                let submission = work.submission();
                let start = Instant::now();
                let project = coordinator.client.submit(&submission).await?;
                let took = start.elapsed().as_secs_f64();
                if project.tasks != count {
                    return Err(BenchError::Wrong(format!("{} of {count} items are there", project.tasks)));
                }
                projects.push(project.id);
                Ok(took)
            },
            async |round| bare(place.path(&format!("bare-{round}.db")), Arc::clone(&items)).await,
        )
        .await?;
    let submitting = peak_bytes(coordinator.pid)?;

    // One of them runs; the others would take its slots.
    let running = projects.pop().unwrap_or_default();
    for project in projects {
        coordinator.client.cancel(&project.to_string()).await?;
    }
    place.say("  now it runs");
    reset_peak(coordinator.pid)?;
    let ran = run(place, &coordinator, running, &items).await?;
    let running = peak_bytes(coordinator.pid)?;

    let what = |what: &str| format!("peak memory of the coordinator while {what}");
    Ok(vec![
        BenchRow::new("submit", format!("submit {count} items"), "s", ours)
            .against(format!("bare SQLite, {GROUP_ROWS} a commit"), theirs)
            .at_most(RATIO_MAX),
        BenchRow::new("submit", what("they are submitted"), "MB", vec![megabytes(submitting)])
            .at_most(MEGABYTES_MAX),
        BenchRow::new("submit", what("the project runs"), "MB", vec![megabytes(running)])
            .at_most(MEGABYTES_MAX)
            .note(format!("{ran} of {count} tasks were run for it, in at most {RUNNING_SECS_MAX} s")),
    ])
}

/// Inserts the same rows into a like table, durable, in groups.
async fn bare(path: PathBuf, items: Arc<Vec<String>>) -> Result<f64, BenchError> {
    let work = move || {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(TABLE)?;
        let start = Instant::now();
        for (group, texts) in items.chunks(GROUP_ROWS).enumerate() {
            let transaction = connection.transaction()?;
            {
                let sql =
                    "INSERT INTO items (project, idx, text, args, resource) VALUES (1, ?, ?, NULL, NULL)";
                let mut insert = transaction.prepare_cached(sql)?;
                for (index, text) in texts.iter().enumerate() {
                    insert.execute(((group * GROUP_ROWS + index) as i64, text))?;
                }
            }
            transaction.commit()?;
        }
        let took = start.elapsed().as_secs_f64();
        let rows: i64 = connection.query_row("SELECT count(*) FROM items", [], |row| row.get(0))?;
        if rows == items.len() as i64 {
            Ok(took)
        } else {
            Err(BenchError::Wrong(format!("the bare loop has {rows} of {} rows", items.len())))
        }
    };
    tokio::task::spawn_blocking(work).await?
}

/// Runs a submitted project for some time, and returns how many tasks ended.
async fn run(
    place: &Place<'_>,
    coordinator: &Coordinator,
    project: u64,
    items: &[String],
) -> Result<u32, BenchError> {
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let client = &coordinator.client;
    place.scripted_agent(coordinator).await?;
    let whole = follow(client, project, Witness::new(Some(count)), Instant::now());
    match tokio::time::timeout(Duration::from_secs(RUNNING_SECS_MAX), whole).await {
        Ok(ran) => {
            ran?;
            let mut expected = Expected::new(items.iter().map(|item| format!("{item}\n").into_bytes()));
            result(client, project, |bytes| expected.take(bytes)).await?;
            expected.end()?;
            Ok(count)
        }
        Err(_) => Ok(cancelled(coordinator, project).await?.succeeded),
    }
}

async fn cancelled(coordinator: &Coordinator, project: u64) -> Result<v1::Project, BenchError> {
    let client = &coordinator.client;
    let mut last = client.cancel(&project.to_string()).await?;
    let mut events = client.watch(project);
    while let Some(event) = events.next().await? {
        if let Some(Event::Project(project)) = event.event {
            last = project;
        }
    }
    if has_ended(&last) && last.failed == 0 {
        return Ok(last);
    }
    Err(BenchError::Wrong(format!("{} tasks failed before the project was cancelled", last.failed)))
}
