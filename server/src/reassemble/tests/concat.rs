//! Results that are the tasks' outputs, in order.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The heart of it: whatever the tasks print, in whatever order they end, a reader who waits from the start, one who
    /// comes late and one who reconnects at every part all get what a sequential run prints.
    #[test]
    fn the_result_is_the_sequential_concatenation(
        tasks in prop::collection::vec((ending(), any::<u32>()), 0..12),
    ) {
        runtime().block_on(async {
            let bench = Bench::built_in(BuiltIn::Concat, tasks.len() as u32).await;
            let expected: Vec<u8> =
                tasks.iter().filter(|((good, _), _)| *good).flat_map(|((_, stdout), _)| stdout.clone()).collect();
            let waiting = tokio::spawn(read(bench.results(Cursor::START, true), Cursor::START));
            let mut order: Vec<_> = (0_u32..).zip(&tasks).collect();
            order.sort_by_key(|(_, (_, place))| place);
            let mut seen = (Vec::new(), Cursor::START);
            for (index, ((good, stdout), _)) in order {
                bench.end_task(index, if *good { GOOD } else { BAD }, stdout).await;
                let (more, now) = bench.all(seen.1, false).await;
                seen.0.extend_from_slice(&more);
                seen.1 = now;
            }
            prop_assert_eq!(&bench.ordered(0).await.unwrap(), &expected);
            bench.end_project(ProjectState::Failed).await;
            prop_assert_eq!(&waiting.await.unwrap().unwrap().0, &expected, "waiting from the start");
            prop_assert_eq!(&seen.0, &expected, "after each ending");

            // Reconnecting after each part, through the cursor's text form.
            let (mut at, mut pieces) = (Cursor::START, Vec::new());
            while let Some(part) = bench.results(at, true).next().await.unwrap() {
                pieces.extend_from_slice(&part.bytes);
                at = part.cursor.to_string().parse().unwrap();
            }
            prop_assert_eq!(&pieces, &expected, "part by part");
            Ok(())
        })?;
    }

    /// A cursor may point at any byte.
    #[test]
    fn a_cursor_at_any_byte_resumes_there(
        tasks in prop::collection::vec(ending(), 1..6),
        place: prop::sample::Index,
        part: prop::sample::Index,
    ) {
        runtime().block_on(async {
            let bench = Bench::built_in(BuiltIn::Concat, tasks.len() as u32).await;
            for (index, (good, stdout)) in (0..).zip(&tasks) {
                bench.end_task(index, if *good { GOOD } else { BAD }, stdout).await;
            }
            bench.end_project(ProjectState::Succeeded).await;
            let bytes = |(good, stdout): &Ending| if *good { stdout.clone() } else { Vec::new() };
            let index = place.index(tasks.len());
            let first = bytes(&tasks[index]);
            let offset = part.index(first.len() + 1);
            let rest: Vec<u8> =
                first[offset..].iter().copied().chain(tasks[index + 1..].iter().flat_map(bytes)).collect();
            prop_assert_eq!(bench.all(cursor(index as u32, offset as u64), true).await.0, rest.clone());
            let before: usize = tasks[..index].iter().map(|task| bytes(task).len()).sum();
            prop_assert_eq!(bench.ordered((before + offset) as u64).await.unwrap(), rest);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn results_appear_while_later_tasks_still_run() {
    let bench = Bench::built_in(BuiltIn::Concat, 4).await;
    let mut results = bench.results(Cursor::START, true);
    bench.end_task(1, GOOD, b"one").await;
    bench.end_task(0, GOOD, b"zero").await;
    let parts = [results.next().await.unwrap().unwrap(), results.next().await.unwrap().unwrap()];
    let expected = [(cursor(0, 4), "zero"), (cursor(1, 3), "one")];
    assert_eq!(parts, expected.map(|(cursor, bytes)| ResultsPart { cursor, bytes: bytes.into() }));
    bench.end_task(3, GOOD, b"three").await;
    bench.end_task(2, BAD, b"two").await;
    assert_eq!(
        results.next().await.unwrap().unwrap().cursor,
        cursor(3, 5),
        "a failed one contributes nothing"
    );
    bench.end_project(ProjectState::Failed).await;
    assert_eq!(results.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_cancelled_project_ends_at_the_first_task_without_a_result() {
    let bench = Bench::built_in(BuiltIn::Concat, 3).await;
    bench.end_task(0, GOOD, b"zero").await;
    bench.end_task(2, GOOD, b"two").await;
    bench.end_project(ProjectState::Cancelled).await;
    assert_eq!(bench.all(Cursor::START, true).await, (b"zero".to_vec(), cursor(0, 4)));
    let error = bench.ordered(0).await.unwrap_err();
    assert!(matches!(error, ReassembleError::Unfinished { index: 1 }), "{error:?}");
}

#[tokio::test]
async fn a_reader_who_waits_is_told_when_the_coordinator_stops() {
    let bench = Bench::built_in(BuiltIn::Concat, 2).await;
    bench.end_task(0, GOOD, b"zero").await;
    let mut results = bench.results(Cursor::START, true);
    results.next().await.unwrap().unwrap();
    let Bench { _dir, store, epoch, project, changes, .. } = bench;
    let mut other = Reassembler::new(store.clone(), Outputs::open(_dir.path()).unwrap()).results(
        project,
        cursor(1, 0),
        changes.subscribe(),
        true,
    );
    drop(changes);
    assert!(matches!(results.next().await, Err(ReassembleError::Stopping)));
    // Unless the project has ended.
    store.commit(epoch, vec![move_to(project, ProjectState::Cancelled, 2)]).await.unwrap();
    assert_eq!(other.next().await.unwrap(), None);
}

#[tokio::test]
async fn wrong_cursors_are_refused() {
    let bench = Bench::built_in(BuiltIn::Concat, 2).await;
    bench.end_task(0, GOOD, b"zero").await;
    bench.end_task(1, BAD, b"one").await;
    for place in [cursor(0, 5), cursor(1, 1)] {
        let error = read(bench.results(place, false), place).await.unwrap_err();
        assert!(matches!(error, ReassembleError::BehindEnd), "{error:?}");
    }
    let other = Cursor { generation: Generation(2), ..cursor(0, 0) };
    let error = read(bench.results(other, true), other).await.unwrap_err();
    assert!(matches!(error, ReassembleError::Generation { current: Generation(1), got: Generation(2) }));
    assert!(matches!(bench.ordered(5).await, Err(ReassembleError::BehindEnd)));
    let nobody = bench.reassembler.results(ProjectId(99), Cursor::START, bench.changes.subscribe(), true);
    assert!(matches!(read(nobody, Cursor::START).await, Err(ReassembleError::NoProject(ProjectId(99)))));
}

#[tokio::test]
async fn a_hundred_megabytes_over_several_outputs() {
    let bench = Bench::built_in(BuiltIn::Concat, 6).await;
    let length = |index: u32| [30_000_000, 0, 1, 4 * 1024 * 1024, 45_000_000, 25_000_000][index as usize];
    let noise: Vec<u8> =
        (0..65_521_u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let stdout = |index: u32| {
        let mut bytes = noise.repeat(length(index) / noise.len() + 1);
        bytes.rotate_left(index as usize);
        bytes.truncate(length(index));
        bytes
    };
    for index in [4, 0, 5, 2, 1, 3] {
        bench.end_task(index, GOOD, &stdout(index)).await;
    }
    bench.end_project(ProjectState::Succeeded).await;
    let (expected, mut total) = ((0..6).map(stdout).collect::<Vec<_>>().concat(), 0);
    let mut results = bench.results(Cursor::START, true);
    while let Some(part) = results.next().await.unwrap() {
        assert!(part.bytes == expected[total..total + part.bytes.len()], "after byte {total}");
        total += part.bytes.len();
    }
    assert!(total == expected.len() && total > 100_000_000, "{total}");
}
