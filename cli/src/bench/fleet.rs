//! What very many agents cost one coordinator: while they have nothing to do, with work for all of them against the same work
//! for one, and in memory. They join over TCP with TLS, and live in one process of their own.

use super::{
    RUN_SECS_MAX, control, cpu,
    error::BenchError,
    memory::resident_bytes,
    parts::{Coordinator, Fleet},
    place::{PREFIX, Place},
    project::Work,
};
use crate::output::bench::BenchRow;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const TASKS_DEFAULT: u32 = 100_000;

/// Of each agent.
const SLOTS: u32 = 16;

/// Where the agents' data are if it is there: in memory, as a thousand hosts don't share one disk. The coordinator's are on
/// the disk as ever.
const MEMORY_DIR: &str = "/dev/shm";

/// After the last agent has come, its coordinator is left alone for this long before it is looked at.
const SETTLE: Duration = Duration::from_secs(5);

/// How often it is looked whether all tasks are claimed.
const POLL: Duration = Duration::from_millis(200);

/// Of one processor.
const IDLE_PERCENT_MAX: f64 = 5.0;

/// As fast with many agents as with one, or nearly.
const RATIO_MIN: f64 = 0.8;

/// That, as the coordinator's own time.
const COST_MAX: f64 = 1.25;

/// A coordinator, and the agents that it may have.
struct Side {
    coordinator: Coordinator,
    fleet: Fleet,
}

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let (tasks, agents, idle_secs) =
        (place.tasks(TASKS_DEFAULT), place.options.agents, place.options.idle_secs);
    let dir = memory_dir(place)?;
    let many = Side::new(place, "fleet", dir.path(), agents).await?;
    let one = Side::new(place, "fleet-one", dir.path(), 1).await?;

    let alone = many.resident()?;
    let waiting = many.queue(tasks).await?;
    let without = many.resident()?;
    let start = Instant::now();
    place.parts.fleet(&many.coordinator, &many.fleet).await?;
    let joined = start.elapsed().as_secs_f64();
    place.say(&format!("  {agents} agents have joined in {joined:.1} s"));
    sleep(SETTLE).await;
    let idle = many.idle_percent(Duration::from_secs(idle_secs.into())).await?;
    let connected = many.resident()? - without;
    place.say(&format!("  {idle:.2} % of a processor while they have nothing to do"));
    let running = many.claim().await?;
    place.parts.stop_newest().await;

    let (mut costs, mut costs_of_one) = (Vec::new(), Vec::new());
    let (ours, theirs) = place
        .in_turn(
            "tasks/s",
            async |_| many.round(place, tasks, &mut costs).await,
            async |_| one.round(place, tasks, &mut costs_of_one).await,
        )
        .await?;

    let row = |what: String, unit, figures| BenchRow::new("fleet", what, unit, figures);
    let with_one = format!("one agent with {SLOTS} slots");
    let slots = many.slots();
    let (each_agent, each_waiting, each_running) =
        (connected / f64::from(agents), waiting / f64::from(tasks), running / f64::from(slots));
    Ok(vec![
        row(
            format!("the coordinator while {agents} agents have nothing to do"),
            "% of a processor",
            vec![idle],
        )
        .at_most(IDLE_PERCENT_MAX)
        .note(format!("over {idle_secs} s; the agents had joined in {joined:.1} s")),
        row(
            format!("{tasks} tasks that end at once, {agents} agents with {SLOTS} slots each"),
            "tasks/s",
            ours,
        )
        .against(&with_one, theirs)
        .at_least(RATIO_MIN)
        .note("agents and coordinator share the processors: see the coordinator's own time"),
        row("the coordinator's time for 1,000 of them".into(), "ms", costs)
            .against(with_one, costs_of_one)
            .at_most(COST_MAX),
        row("its memory for each agent".into(), "kB", vec![each_agent / 1e3])
            .note(format!("it had {:.1} MB without agents and tasks", alone / 1e6)),
        row(format!("its memory for each of {tasks} tasks that wait"), "bytes", vec![each_waiting]),
        row(format!("its memory for each of {slots} tasks that run"), "bytes", vec![each_running]),
    ])
}

impl Side {
    async fn new(place: &Place<'_>, name: &str, dir: &Path, agents: u32) -> Result<Self, BenchError> {
        let coordinator = place.coordinator_on_tcp(name).await?;
        Ok(Self { coordinator, fleet: Fleet { data: dir.join(name), agents, slots: SLOTS } })
    }

    const fn slots(&self) -> u32 {
        self.fleet.agents * self.fleet.slots
    }

    /// The coordinator's memory now, in bytes.
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    fn resident(&self) -> Result<f64, BenchError> {
        Ok(resident_bytes(self.coordinator.pid)? as f64)
    }

    /// By how many bytes the coordinator grows with so many tasks that nobody runs.
    async fn queue(&self, tasks: u32) -> Result<f64, BenchError> {
        let items = Arc::new((0..tasks).map(|index| format!("item {index:07}")).collect());
        let work = Work::list("none", &["scripted", "print={item}"], items);
        let before = self.resident()?;
        let project = self.coordinator.client.submit(&work.submission()).await?.id;
        let grown = self.resident()? - before;
        self.coordinator.client.cancel(&project.to_string()).await?;
        Ok(grown)
    }

    /// What the coordinator does while its agents do nothing but say that they are there.
    async fn idle_percent(&self, time: Duration) -> Result<f64, BenchError> {
        let (start, before) = (Instant::now(), cpu::used(self.coordinator.pid)?);
        sleep(time).await;
        let used = cpu::used(self.coordinator.pid)?.saturating_sub(before);
        Ok(100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64())
    }

    /// By how many bytes the coordinator grows when each slot has a task that goes on.
    async fn claim(&self) -> Result<f64, BenchError> {
        let slots = self.slots();
        let client = &self.coordinator.client;
        let before = self.resident()?;
        let work = Work::range("none", &["scripted", "hang"], slots);
        let project = client.submit(&work.submission()).await?.id.to_string();
        let deadline = Instant::now() + Duration::from_secs(RUN_SECS_MAX);
        while client.project(&project).await?.running < slots {
            if Instant::now() >= deadline {
                return Err(BenchError::TooLong { what: format!("project {project}"), secs: RUN_SECS_MAX });
            }
            sleep(POLL).await;
        }
        let grown = self.resident()? - before;
        client.cancel(&project).await?;
        Ok(grown)
    }

    /// Runs so many tasks on its agents, which are there only meanwhile; how many there were each second. Adds the coordinator's
    /// time for a thousand of them, in milliseconds.
    async fn round(&self, place: &Place<'_>, tasks: u32, costs: &mut Vec<f64>) -> Result<f64, BenchError> {
        place.parts.fleet(&self.coordinator, &self.fleet).await?;
        let client = &self.coordinator.client;
        control::rate(client, self.slots()).await?;
        let before = cpu::used(self.coordinator.pid)?;
        let ran = control::work(tasks).run(client, tasks).await?;
        let used = cpu::used(self.coordinator.pid)?.saturating_sub(before);
        control::compare(client, ran.project, tasks).await?;
        costs.push(used.as_secs_f64() * 1e6 / f64::from(tasks));
        place.parts.stop_newest().await;
        Ok(f64::from(tasks) / ran.last.as_secs_f64())
    }
}

/// Where the agents have their data. Gone when it is dropped.
fn memory_dir(place: &Place<'_>) -> Result<TempDir, BenchError> {
    let memory = PathBuf::from(MEMORY_DIR);
    let parent = if memory.is_dir() { memory } else { place.path("") };
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent).map_err(BenchError::file(parent))
}
