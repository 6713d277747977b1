//! The writer and the readers over real databases.

use super::*;
use crate::{
    domain::{
        AgentId, AttemptNo, ItemSource, Outcome, OutputBody, ProjectSpec, ProjectState, Reassemble,
        SessionEpoch, TaskCounts,
    },
    store::{
        TaskRowState,
        fixture::{AGENT, claim, concat, create, move_to, record, report, session, spec, task, task_spec},
    },
};
use proptest::prelude::*;

const EXITED: Outcome = Outcome::Exited(0);

/// A writer in memory, its epoch, and a running project.
struct Bench {
    writer: Writer,
    epoch: CoordinatorEpoch,
    project: ProjectId,
}

impl Bench {
    fn new() -> Self {
        Self::on(Writer::in_memory().unwrap())
    }

    fn on(mut writer: Writer) -> Self {
        let epoch = writer.open_epoch().unwrap();
        let project = begin(&mut writer, "");
        let mut bench = Self { writer, epoch, project };
        bench.made([create(project, concat(), 10), session(AGENT, "alpha", 1)]);
        bench
    }

    fn commit(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<Committed, StoreError> {
        let writes: Vec<_> = writes.into_iter().collect();
        self.writer.commit(self.epoch, &writes)
    }

    fn made(&mut self, writes: impl IntoIterator<Item = Write>) {
        self.commit(writes).unwrap();
    }

    /// The write is a conflict, and whatever came with it is rolled back.
    fn refused(&mut self, write: Write) {
        let before = self.state();
        let witness = claim(task(self.project, 4_000_000).attempt(1));
        let done = self.commit([witness, write.clone()]);
        assert!(matches!(done, Err(StoreError::Conflict(_))), "{write:?}: {done:?}");
        assert_eq!(self.state(), before, "{write:?}");
    }

    /// All that readers can see of the project and the agents.
    fn state(&mut self) -> String {
        let (project, reads) = (self.project, self.writer.reads());
        let filter = TaskFilter { limit: 1000, ..TaskFilter::default() };
        let mut seen = format!("{:?}", reads.project(project).unwrap());
        seen += &format!("{:?}", reads.tasks(project, &filter).unwrap());
        seen += &format!("{:?}", reads.attempts_after(project, 0, 1000).unwrap());
        seen + &format!("{:?}", self.writer.load().unwrap())
    }

    fn attempt(&self, index: u32, attempt: AttemptNo) -> AttemptKey {
        task(self.project, index).attempt(attempt)
    }
}

fn begin(writer: &mut Writer, key: &str) -> ProjectId {
    match writer.begin_submission(key).unwrap() {
        Begun::New(project) => project,
        other => panic!("{other:?}"),
    }
}

fn requeue(attempt: AttemptKey, outcome: Outcome, failures: u32, crashes: u32) -> Write {
    Write::Requeue { agent: AGENT, report: report(attempt, outcome, b"partial"), failures, crashes }
}

#[test]
fn an_attempt_is_claimed_once_and_in_order() {
    let mut bench = Bench::new();
    let first = bench.attempt(0, 1);
    bench.refused(claim(bench.attempt(0, 2)));
    bench.refused(claim(bench.attempt(0, 0)));
    bench.made([claim(first)]);
    bench.refused(claim(first));
    bench.refused(claim(bench.attempt(0, 2)));
    bench.made([requeue(first, Outcome::Exited(1), 1, 0)]);
    bench.refused(claim(first));
    bench.refused(claim(bench.attempt(0, 3)));
    bench.made([claim(bench.attempt(0, 2))]);
    bench.made([record(bench.attempt(0, 2), EXITED, b"")]);
    bench.refused(claim(bench.attempt(0, 3)));
}

#[test]
fn a_result_is_recorded_once_by_its_agent_for_the_highest_attempt() {
    let mut bench = Bench::new();
    let (first, second) = (bench.attempt(3, 1), bench.attempt(3, 2));
    bench.refused(record(first, EXITED, b""));
    bench.made([claim(first), requeue(first, Outcome::LeaseLost, 0, 1), claim(second)]);
    bench.refused(record(first, EXITED, b""));
    bench.refused(Write::Record { agent: AgentId(2), report: report(second, EXITED, b"") });
    bench.refused(Write::Requeue {
        agent: AgentId(2),
        report: report(second, EXITED, b""),
        failures: 1,
        crashes: 1,
    });
    assert!(!bench.writer.reads().is_current(first).unwrap());
    assert!(bench.writer.reads().is_current(second).unwrap());
    bench.made([record(second, EXITED, b"hello\n")]);
    assert!(!bench.writer.reads().is_current(second).unwrap());
    for again in [
        record(second, Outcome::Exited(1), b""),
        requeue(second, Outcome::Exited(1), 1, 1),
        Write::Return { agent: AGENT, attempt: second },
        Write::Readopt { agent: AGENT, attempt: second },
    ] {
        bench.refused(again);
    }
    let (stdout, stderr) = bench.writer.reads().outputs(second).unwrap().unwrap();
    assert_eq!((stdout.body, stderr.length), (OutputBody::Inline("hello\n".into()), 7));
    assert!(bench.writer.reads().outputs(bench.attempt(3, 3)).unwrap().is_none());
}

#[test]
fn a_late_report_replaces_a_lost_lease_under_a_new_number() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    bench.made([claim(attempt), requeue(attempt, Outcome::LeaseLost, 0, 1)]);
    let lost = bench.writer.reads().attempts_after(bench.project, 0, 10).unwrap();
    assert_eq!((lost.len(), &lost[0].outcome, lost[0].recorded), (1, &Outcome::LeaseLost, false));
    assert!(!bench.writer.load().unwrap().projects[0].open[0].ended, "a late report still counts");
    bench.made([record(attempt, EXITED, b"late")]);
    let news = bench.writer.reads().attempts_after(bench.project, lost[0].seq, 10).unwrap();
    assert_eq!((news.len(), &news[0].outcome, news[0].recorded), (1, &EXITED, true));
    assert_eq!(bench.writer.reads().attempts(attempt.task).unwrap().len(), 1);
    bench.refused(claim(bench.attempt(0, 2)));
}

#[test]
fn a_lost_attempt_that_lives_runs_again() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    let readopt = |agent| Write::Readopt { agent, attempt };
    bench.made([claim(attempt)]);
    bench.refused(readopt(AGENT));
    bench.made([requeue(attempt, Outcome::LeaseLost, 2, 3)]);
    bench.refused(readopt(AgentId(2)));
    bench.made([readopt(AGENT)]);
    let open = bench.writer.load().unwrap().projects[0].open[0].clone();
    assert_eq!((open.running, open.attempt, open.failures, open.crashes, open.ended), (true, 1, 2, 3, false));
    assert!(bench.writer.reads().attempts(attempt.task).unwrap().is_empty(), "it has not ended after all");
    bench.made([record(attempt, EXITED, b"")]);
}

#[test]
fn a_returned_attempt_leaves_no_ending_and_its_number_is_not_reused() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    bench.made([claim(attempt)]);
    bench.refused(Write::Return { agent: AgentId(2), attempt });
    bench.made([Write::Return { agent: AGENT, attempt }]);
    assert!(bench.writer.reads().attempts(attempt.task).unwrap().is_empty());
    bench.refused(claim(attempt));
    bench.made([claim(bench.attempt(0, 2))]);
}

#[test]
fn a_requeued_ending_is_known_after_a_restart() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    bench.made([claim(attempt), requeue(attempt, Outcome::Exited(1), 1, 0)]);
    let open = bench.writer.load().unwrap().projects[0].open[0].clone();
    assert_eq!((open.running, open.ended, open.failures), (false, true, 1));
    bench.made([claim(bench.attempt(0, 2))]);
    assert!(!bench.writer.load().unwrap().projects[0].open[0].ended);
}

#[test]
fn ended_projects_stay_as_they_are() {
    for ended in [ProjectState::Succeeded, ProjectState::Failed, ProjectState::Cancelled] {
        let mut bench = Bench::new();
        let project = bench.project;
        assert_eq!(bench.writer.reads().projects(true, None, 9).unwrap().len(), 1);
        bench.made([move_to(project, ended, 10)]);
        for state in [ProjectState::Running, ProjectState::Succeeded, ProjectState::Cancelled] {
            bench.refused(move_to(project, state, 10));
        }
        let seen = bench.writer.reads().project(project).unwrap().unwrap();
        assert!(seen.ended_millis.is_some() && seen.ended_millis >= Some(seen.created_millis));
        assert!(bench.writer.reads().projects(true, None, 9).unwrap().is_empty());
        assert!(bench.writer.load().unwrap().projects.is_empty());
    }
}

#[test]
fn sessions_only_rise_and_names_are_unique() {
    let mut bench = Bench::new();
    bench.refused(session(AGENT, "alpha", 1));
    bench.refused(session(AgentId(2), "alpha", 9));
    bench.made([session(AGENT, "alpha", 3), session(AgentId(2), "beta", 1)]);
    bench.refused(session(AGENT, "alpha", 2));
    let agents = bench.writer.load().unwrap().agents;
    let agents: Vec<_> = agents.iter().map(|agent| (agent.id, agent.name.as_str(), agent.epoch)).collect();
    assert_eq!(agents, [(AGENT, "alpha", SessionEpoch(3)), (AgentId(2), "beta", SessionEpoch(1))]);
}

#[test]
fn a_coordinator_that_was_followed_by_another_writes_no_more() {
    let mut bench = Bench::new();
    let newer = bench.writer.open_epoch().unwrap();
    let done = bench.commit([claim(bench.attempt(0, 1))]);
    assert!(matches!(done, Err(StoreError::Fenced { found, ours }) if found == newer && ours == bench.epoch));
    bench.epoch = newer;
    bench.made([claim(bench.attempt(0, 1))]);
}

#[test]
fn a_submission_is_seen_by_nobody_until_it_is_a_project() {
    let mut writer = Writer::in_memory().unwrap();
    let epoch = writer.open_epoch().unwrap();
    let project = begin(&mut writer, "key");
    assert!(matches!(writer.begin_submission("key").unwrap(), Begun::UnderWay));
    writer.put_items(project, 0, &[Item { text: "a".into(), ..Item::default() }]).unwrap();
    assert!(writer.reads().project(project).unwrap().is_none());
    assert!(writer.reads().projects(false, None, 9).unwrap().is_empty());
    assert!(writer.load().unwrap().projects.is_empty());

    writer.commit(epoch, &[create(project, concat(), 1)]).unwrap();
    let again = writer.commit(epoch, &[create(project, concat(), 1)]);
    assert!(matches!(again, Err(StoreError::Conflict(_))));
    match writer.begin_submission("key").unwrap() {
        Begun::Existing(known) => assert_eq!((known.id, &*known.spec), (project, &concat())),
        other => panic!("{other:?}"),
    }
    // Complete: it takes no more items, and is not abandoned.
    assert!(matches!(writer.put_items(project, 1, &[Item::default()]), Err(StoreError::Conflict(_))));
    writer.abandon_submission(project).unwrap();
    assert!(writer.reads().project(project).unwrap().is_some());
    assert_eq!(writer.reads().project_named("greetings").unwrap().unwrap().id, project);

    // Empty keys are never known.
    let [one, two] = [begin(&mut writer, ""), begin(&mut writer, "")];
    assert_ne!(one, two);
}

#[test]
fn submissions_that_were_not_completed_are_forgotten_with_their_items() {
    let mut writer = Writer::in_memory().unwrap();
    let epoch = writer.open_epoch().unwrap();
    let items =
        |project| Write::Claim { attempt: task(project, 0).attempt(1), agent: AGENT, stored_item: true };
    let mut numbers = Vec::new();
    for abandon in [true, false] {
        let project = begin(&mut writer, "key");
        writer.put_items(project, 0, &[Item::default()]).unwrap();
        if abandon {
            writer.abandon_submission(project).unwrap()
        } else {
            _ = writer.open_epoch().unwrap()
        }
        assert!(matches!(writer.put_items(project, 0, &[]), Err(StoreError::Conflict(_))));
        assert!(writer.commit(CoordinatorEpoch(2), &[items(project)]).is_err());
        numbers.push(project);
    }
    assert_eq!(epoch, CoordinatorEpoch(1));
    numbers.push(begin(&mut writer, "key"));
    assert!(numbers.is_sorted_by(|a, b| a < b), "numbers are never reused: {numbers:?}");
}

#[test]
fn items_come_back_with_the_claims_that_ask_for_them() {
    let mut bench = Bench::new();
    let project = begin(&mut bench.writer, "");
    let item = |text: &str| Item {
        text: text.into(),
        args: vec!["-n".into(), "a b".into()],
        resource: Some("https://example.org/".into()),
    };
    bench.writer.put_items(project, 0, &[item("x"), Item::default()]).unwrap();
    bench.writer.put_items(project, 1, &[item("é\0"), Item::default()]).unwrap();
    let claim_of = |index, stored_item| {
        let attempt = task(project, index).attempt(1);
        Write::Claim { attempt, agent: AGENT, stored_item }
    };
    let done = bench
        .commit([create(project, concat(), 3), claim_of(2, true), claim_of(0, false), claim_of(1, true)])
        .unwrap();
    let expected =
        [(task(project, 2).attempt(1), Item::default()), (task(project, 1).attempt(1), item("é\0"))];
    assert_eq!(done.items, expected);
    assert!(matches!(bench.commit([claim_of(3, true)]), Err(StoreError::Damaged(_))));

    let rows =
        bench.writer.reads().tasks(project, &TaskFilter { limit: 9, ..TaskFilter::default() }).unwrap();
    let texts: Vec<_> = rows.into_iter().map(|row| row.item.unwrap().text).collect();
    assert_eq!(texts, ["x", "é\0", ""]);
}

#[test]
fn a_splitting_project_takes_items_until_it_runs() {
    let mut bench = Bench::new();
    let project = begin(&mut bench.writer, "");
    let split =
        ProjectSpec { items: ItemSource::Split(task_spec()), ..spec(Reassemble::Command(task_spec())) };
    bench.made([create(project, split, 0)]);
    for _ in 0..2 {
        bench.writer.put_items(project, 0, &[Item::default(), Item::default()]).unwrap();
    }
    bench.made([move_to(project, ProjectState::Running, 2)]);
    assert!(matches!(bench.writer.put_items(project, 0, &[Item::default()]), Err(StoreError::Conflict(_))));
}

#[test]
fn tasks_are_listed_by_state_and_page() {
    let mut bench = Bench::new();
    let (project, attempt) = (bench.project, |index| task(bench.project, index).attempt(1));
    let split = TaskKey { project, phase: Phase::Split, index: 0 };
    let writes: Vec<_> = (0..6).map(|index| claim(attempt(index))).collect();
    let endings = [
        record(attempt(1), EXITED, b""),
        record(attempt(2), Outcome::Exited(1), b""),
        requeue(attempt(4), Outcome::LeaseLost, 0, 1),
        claim(split.attempt(1)),
    ];
    bench.made(writes.into_iter().chain(endings));
    let reads = bench.writer.reads();
    let list = |states: &[TaskRowState], after, limit| -> Vec<_> {
        let filter = TaskFilter { states: states.to_vec(), after, limit };
        let rows = reads.tasks(project, &filter).unwrap();
        assert!(rows.iter().all(|row| row.agent == "alpha" && row.attempt == 1));
        rows.iter().map(|row| (row.key.phase, row.key.index)).collect()
    };
    let tasks = |indexes: &[u32]| indexes.iter().map(|&index| (Phase::Task, index)).collect::<Vec<_>>();
    use TaskRowState::{Failed, Running, Succeeded, Todo};
    assert_eq!(list(&[], None, 3), [(Phase::Split, 0), (Phase::Task, 0), (Phase::Task, 1)]);
    assert_eq!(list(&[], Some((Phase::Task, 1)), 9), tasks(&[2, 3, 4, 5]));
    assert_eq!(list(&[], Some((Phase::Reassemble, 0)), 9), []);
    assert_eq!(list(&[Succeeded, Failed], None, 9), tasks(&[1, 2]));
    assert_eq!(list(&[Todo], None, 9), tasks(&[4]));
    assert_eq!(list(&[Running, Todo], Some((Phase::Split, 0)), 3), tasks(&[0, 3, 4]));
    let counts = reads.project(project).unwrap().unwrap().counts;
    assert_eq!(
        counts,
        TaskCounts { total: 10, succeeded: 1, failed: 1, running: 3 },
        "of the task phase alone"
    );
}

#[test]
fn results_end_before_the_first_task_that_has_none() {
    let mut bench = Bench::new();
    let attempt = |index| task(bench.project, index).attempt(1);
    let half = vec![b'x'; 600 * 1024];
    let claims: Vec<_> = [0, 1, 2, 3, 5].map(|index| claim(attempt(index))).into();
    let endings = [
        record(attempt(0), EXITED, &half),
        record(attempt(1), Outcome::Exited(1), &half),
        record(attempt(2), EXITED, b"two"),
        record(attempt(5), EXITED, b"five"),
    ];
    bench.made(claims.into_iter().chain(endings));
    let reads = bench.writer.reads();
    let list = |first, limit| -> Vec<_> {
        let rows = reads.results(bench.project, Phase::Task, first, limit).unwrap();
        rows.iter().map(|row| (row.key.task.index, row.success)).collect()
    };
    assert_eq!(list(0, 9), [(0, true), (1, false)], "no more once 1 MiB is reached");
    assert_eq!(list(1, 9), [(1, false), (2, true)]);
    assert_eq!(list(0, 1), [(0, true)]);
    assert_eq!(list(3, 9), [], "it runs");
    assert_eq!(list(4, 9), [], "it was never claimed");
    assert_eq!(list(5, 9), [(5, true)]);
}

#[test]
fn a_project_has_one_result_a_generation() {
    let mut bench = Bench::new();
    let stored = Output { length: 1 << 40, body: OutputBody::Stored([7; 32]) };
    for result in [Output::inline("1".into()), Output::empty(), stored] {
        bench.writer.put_result(bench.project, Generation(1), &result).unwrap();
        assert_eq!(bench.writer.reads().result(bench.project, Generation(1)).unwrap(), Some(result));
    }
    assert_eq!(bench.writer.reads().result(bench.project, Generation(2)).unwrap(), None);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::on(Writer::open(&dir.path().join("store.db")).unwrap());
    bench.made([claim(bench.attempt(0, 1)), claim(bench.attempt(1, 1))]);
    bench.writer.limit_pages(80);
    let before = bench.state();
    let done = bench.commit([
        record(bench.attempt(0, 1), EXITED, b"small"),
        record(bench.attempt(1, 1), EXITED, &vec![b'x'; 1024 * 1024]),
    ]);
    assert!(matches!(done, Err(StoreError::Full)), "{done:?}");
    assert_eq!(bench.state(), before);
    bench.made([record(bench.attempt(0, 1), EXITED, b"small")]);
}

#[test]
fn a_damaged_row_is_an_error_and_no_panic() {
    let mut bench = Bench::new();
    bench.writer.raw("UPDATE projects SET state = 99");
    assert!(matches!(bench.writer.reads().project(bench.project), Err(StoreError::Damaged(_))));
    bench.writer.raw("UPDATE projects SET state = 2, spec = '{'");
    assert!(matches!(bench.writer.load(), Err(StoreError::Damaged(_))));
}

proptest! {
    /// Whatever was claimed and ended in whatever order, the snapshot's counts, frontier, gaps and open tasks account for
    /// every task once.
    #[test]
    fn a_snapshot_accounts_for_every_task(steps in prop::collection::vec((0..30_u32, 0..5_u8), 0..60)) {
        let mut bench = Bench::new();
        let mut ends = std::collections::BTreeMap::new();
        for (index, step) in steps {
            let attempt = bench.attempt(index, 1);
            if ends.contains_key(&index) {
                continue;
            }
            bench.made([claim(attempt)]);
            match step {
                0 => bench.made([record(attempt, EXITED, b"")]),
                1 => bench.made([record(attempt, Outcome::TimedOut, b"")]),
                2 => bench.made([requeue(attempt, Outcome::TimedOut, 1, 0)]),
                _ => {}
            }
            ends.insert(index, step);
        }
        let snapshot = bench.writer.load().unwrap();
        let seen = &snapshot.projects[0];
        let count = |wanted: u8| ends.values().filter(|&&step| step == wanted).count() as u32;
        prop_assert_eq!(seen.counts, TaskCounts { total: 10, succeeded: count(0), failed: count(1), running: 0 });
        let frontier = ends.keys().next_back().map_or(0, |index| index + 1);
        prop_assert_eq!(seen.frontier, frontier);
        let gaps: Vec<_> = (0..frontier).filter(|index| !ends.contains_key(index)).collect();
        prop_assert_eq!(&seen.gaps, &gaps);
        let open: Vec<_> = seen.open.iter().map(|open| (open.task.index, open.running, open.ended)).collect();
        let expected: Vec<_> =
            ends.iter().filter(|(_, step)| **step > 1).map(|(&index, &step)| (index, step > 2, step == 2)).collect();
        prop_assert_eq!(open, expected);
        let counts = bench.writer.reads().project(bench.project).unwrap().unwrap().counts;
        prop_assert_eq!(counts.running, count(3) + count(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_restart_and_readers_see_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let epoch = store.open_epoch().await.unwrap();
    let Begun::New(project) = store.begin_submission("key").await.unwrap() else { panic!() };
    store.commit(epoch, vec![create(project, concat(), 10), session(AGENT, "alpha", 1)]).await.unwrap();
    let reading: Vec<_> = (0..4 * READERS_MAX)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for index in 0..10 {
                    let attempt = task(project, index).attempt(1);
                    while !store.is_current(attempt).await.unwrap() {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for index in 0..10 {
        let attempt = task(project, index).attempt(1);
        store.commit(epoch, vec![claim(attempt)]).await.unwrap();
        assert!(store.is_current(attempt).await.unwrap());
    }
    for reader in reading {
        reader.await.unwrap();
    }
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    let newer = store.open_epoch().await.unwrap();
    assert_eq!(newer.0, epoch.0 + 1);
    let snapshot = store.load().await.unwrap();
    assert_eq!((snapshot.projects[0].frontier, snapshot.projects[0].open.len()), (10, 10));
    assert!(matches!(store.commit(epoch, vec![]).await, Err(StoreError::Fenced { .. })));
    assert!(matches!(store.begin_submission("key").await.unwrap(), Begun::Existing(_)));
}
