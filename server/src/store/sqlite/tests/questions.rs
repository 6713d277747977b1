//! Snapshots and what readers ask.

use super::*;
use crate::store::Noted;

#[test]
fn a_requeued_ending_is_known_after_a_restart() {
    let mut bench = Bench::new();
    let attempt = bench.attempt(0, 1);
    bench.made([claim(attempt), requeue(attempt, Outcome::Exited(1), 1, 0)]);
    let open = bench.writer.load().unwrap().projects[0].open[0].clone();
    assert_eq!((open.running, open.noted, open.failures), (false, Noted::Ending, 1));
    bench.made([claim(bench.attempt(0, 2))]);
    assert_ne!(bench.writer.load().unwrap().projects[0].open[0].noted, Noted::Ending);
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
        let open: Vec<_> = seen.open.iter().map(|open| (open.task.index, open.running, open.noted == Noted::Ending)).collect();
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
                    while store.current_owner(attempt).await.unwrap().is_none() {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for index in 0..10 {
        let attempt = task(project, index).attempt(1);
        store.commit(epoch, vec![claim(attempt)]).await.unwrap();
        assert_eq!(store.current_owner(attempt).await.unwrap(), Some(AGENT));
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
