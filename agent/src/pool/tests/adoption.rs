//! A pool takes over the workers of an earlier one.

use super::*;

#[tokio::test(start_paused = true)]
async fn another_pool_adopts_what_was_begun_and_takes_back_the_rest() {
    let mut first = Bench::warm(1).await;
    let tasks = [&["print=one"][..], &["sleep=1ms", "print=two", "sleep=50ms", "exit=2"], &["print=never"]];
    first.pool.start(tasks.into_iter().zip(1..).map(|(steps, index)| task(1, index, steps)).collect());
    assert_eq!(first.ended().await.attempt, key(1, 1), "and is not released");
    first.until("the second runs", |runtime, _| runtime.runs_held() == 3).await;
    let Bench { runtime, pool, .. } = first;
    drop(pool);

    let adopted = adopt(&runtime, &BTreeSet::new()).await.expect("adopts");
    let [Adopted { attempts, .. }] = adopted.as_slice() else { panic!("{} workers", adopted.len()) };
    assert_eq!(attempts.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [key(1, 1), key(1, 2)]);
    assert_eq!(runtime.runs_held(), 2, "the third was taken back");
    let mut second = Bench::over(runtime, PoolConfig { slots: 1, makes_ahead: false });
    for adopted in adopted {
        second.pool.adopt(adopted);
    }
    second.pool.start(vec![task(1, 3, &["exit=3"])]);
    for (index, outcome) in [(1, 0), (2, 2), (3, 3)] {
        second.ends(1, index, &Outcome::Exited(outcome)).await;
    }
    second.until("its worker is not used again", |_, workers| workers == 1).await;
}

#[tokio::test(start_paused = true)]
async fn workers_that_hang_keep_no_agent_from_its_coordinator() {
    const WORKERS: u32 = 40;
    let first = Bench::new(WORKERS as usize);
    first.pool.start((0..WORKERS).map(|index| task(1, index, &["sleep=20s", "exit=0"])).collect());
    first.until("all run", |runtime, _| runtime.runs_held() == WORKERS as usize).await;
    let Bench { runtime, pool, .. } = first;
    drop(pool);

    runtime.set_mute(true);
    let since = Instant::now();
    let adopted = adopt(&runtime, &BTreeSet::new()).await.expect("adopts");
    assert!(since.elapsed() <= Duration::from_secs(2), "{:?}", since.elapsed());
    let mut second = Bench::over(runtime, PoolConfig { slots: WORKERS as usize, makes_ahead: false });
    for adopted in adopted {
        second.pool.adopt(adopted);
    }
    sleep(Duration::from_secs(5)).await;
    second.runtime.set_mute(false);
    let mut ended = BTreeSet::new();
    for _ in 0..WORKERS {
        let report = second.ended().await;
        assert_eq!(report.outcome, Outcome::Exited(0));
        ended.insert(report.attempt);
    }
    assert_eq!(ended.len(), WORKERS as usize, "none ran twice");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_holds_only_what_the_outbox_has_is_not_adopted() {
    let mut bench = Bench::warm(1).await;
    bench.pool.start(vec![task(1, 1, &["exit=0"])]);
    bench.ended().await;
    let Bench { runtime, pool, .. } = bench;
    drop(pool);
    assert!(adopt(&runtime, &BTreeSet::from([key(1, 1)])).await.expect("adopts").is_empty());
}
