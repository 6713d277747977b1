//! Results that are made, and items that are made from an output.

use super::*;
use crate::reassemble::JobError;

#[tokio::test]
async fn a_commands_stdout_is_the_result() {
    for (outcome, expected) in [(GOOD, "sorted"), (BAD, "")] {
        let bench = Bench::new(spec(Reassemble::Command(task_spec())), 1).await;
        bench.end_task(0, GOOD, b"unsorted").await;
        assert_eq!(bench.all(Cursor::START, false).await.0, b"");
        let mut waiting = bench.results(Cursor::START, true);
        let task = TaskKey { project: bench.project, phase: Phase::Reassemble, index: 0 };
        bench.end(task, outcome, b"sorted").await;
        bench.end_project(ProjectState::Succeeded).await;
        let all = async |cursor| bench.all(cursor, true).await;
        assert_eq!(all(Cursor::START).await.0, expected.as_bytes());
        if !expected.is_empty() {
            assert_eq!(waiting.next().await.unwrap().unwrap().cursor, cursor(0, 6));
            assert_eq!(all(cursor(0, 2)).await, (b"rted".to_vec(), cursor(0, 6)));
            assert_eq!(all(cursor(0, 6)).await.0, b"");
            let wrong = read(bench.results(cursor(1, 0), true), cursor(1, 0)).await;
            assert!(matches!(wrong, Err(ReassembleError::BehindEnd)));
        }
        assert_eq!(waiting.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_built_in_result_is_sent_once_the_project_has_succeeded() {
    let bench = Bench::built_in(BuiltIn::Sum, 1).await;
    bench.end_task(0, GOOD, b"1 2").await;
    bench.reassembler.run_builtin(bench.project).await.unwrap();
    assert_eq!(bench.all(Cursor::START, false).await.0, b"");
    let mut waiting = bench.results(Cursor::START, true);
    bench.end_project(ProjectState::Succeeded).await;
    let part = waiting.next().await.unwrap().unwrap();
    assert_eq!((part.cursor, &part.bytes[..]), (cursor(0, 2), &b"3\n"[..]));
    assert_eq!(waiting.next().await.unwrap(), None);
    assert_eq!(bench.all(cursor(0, 1), true).await.0, b"\n");

    let none = Bench::built_in(BuiltIn::None, 1).await;
    none.end_task(0, GOOD, b"unheard").await;
    none.reassembler.run_builtin(none.project).await.unwrap();
    none.end_project(ProjectState::Succeeded).await;
    assert_eq!(none.all(Cursor::START, true).await.0, b"");
}

#[tokio::test]
async fn what_cannot_be_added_up_is_named() {
    let bench = Bench::built_in(BuiltIn::Sum, 3).await;
    bench.end_task(0, GOOD, b"1").await;
    let early = bench.reassembler.run_builtin(bench.project).await.unwrap_err();
    assert_eq!(early.to_string(), "task 1 has no result yet");
    bench.end_task(1, BAD, b"not counted").await;
    bench.end_task(2, GOOD, b"2\nerror: no\n").await;
    let error = bench.reassembler.run_builtin(bench.project).await.unwrap_err();
    assert!(matches!(error, JobError::Wrong(_)), "{error:?}");
    assert_eq!(error.to_string(), "can't add up the output of task 2: \"error:\" is no integer");
}

#[tokio::test]
async fn json_is_one_array_short_or_long() {
    for length in [10, INLINE_BYTES_MAX * 20] {
        let bench = Bench::built_in(BuiltIn::Json, 5).await;
        let long = "\u{e9}\n".repeat(length / 3);
        bench.end_task(0, GOOD, b" {\"a\": 1.0}\n").await;
        bench.end_task(1, GOOD, long.as_bytes()).await;
        bench.end_task(2, BAD, b"2").await;
        bench.end_task(3, GOOD, b"").await;
        bench.end_task(4, GOOD, b"a\xff\"b").await;
        // Twice: an interrupted run is run again.
        for _ in 0..2 {
            bench.reassembler.run_builtin(bench.project).await.unwrap();
        }
        assert_eq!(matches!(bench.kept().await.body, OutputBody::Stored(_)), length > 10);
        bench.end_project(ProjectState::Succeeded).await;
        let (result, end) = bench.all(Cursor::START, true).await;
        assert_eq!(end, cursor(0, result.len() as u64));
        let parsed: serde_json::Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(parsed, serde_json::json!([{"a": 1.0}, long, "", "a\u{fffd}\"b"]));
        let (rest, _) = bench.all(cursor(0, 5), true).await;
        assert!(rest == result[5..]);
    }
    let empty = Bench::built_in(BuiltIn::Json, 0).await;
    empty.reassembler.run_builtin(empty.project).await.unwrap();
    assert_eq!(empty.kept().await, Output::inline("[]\n".into()));
}

#[tokio::test]
async fn the_split_tasks_lines_become_items() {
    let split = || ProjectSpec {
        items: ItemSource::Split(task_spec()),
        ..spec(Reassemble::BuiltIn(BuiltIn::Concat))
    };
    let cases = [
        (GOOD, "a b\r\n\nc".to_owned(), Ok(3)),
        (GOOD, (0..25_000).map(|line| format!("line {line}\n")).collect(), Ok(25_000)),
        (GOOD, String::new(), Err("the split task printed no lines")),
        (BAD, "a\n".to_owned(), Err("the split task has no successful result")),
    ];
    for (outcome, stdout, expected) in cases {
        let bench = Bench::new(split(), 0).await;
        let task_of = |index| task(bench.project, index);
        let none = bench.reassembler.run_split(bench.project).await;
        assert_eq!(none.unwrap_err().to_string(), "the split task has no successful result");
        let split = TaskKey { project: bench.project, phase: Phase::Split, index: 0 };
        bench.end(split, outcome, stdout.as_bytes()).await;
        for _ in 0..2 {
            let done = bench.reassembler.run_split(bench.project).await;
            assert_eq!(done.map_err(|error| error.to_string()), expected.map_err(ToOwned::to_owned));
        }
        let Ok(count) = expected else { continue };
        let claims = (0..count).map(|index| Write::Claim {
            attempt: task_of(index).attempt(1),
            agent: AGENT,
            stored_item: true,
        });
        let items = bench.store.commit(bench.epoch, claims.collect()).await.unwrap().items;
        let texts: BTreeMap<_, _> =
            items.into_iter().map(|(key, item)| (key.task.index, item.text)).collect();
        assert!(texts.values().eq(stdout.lines()));
        let behind = Write::Claim { attempt: task_of(count).attempt(1), agent: AGENT, stored_item: true };
        assert!(bench.store.commit(bench.epoch, vec![behind]).await.is_err(), "there is no further item");
    }
}
proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_sum_is_the_sum(tasks in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<i64>(), 0..9)), 0..9)) {
        runtime().block_on(async {
            let bench = Bench::built_in(BuiltIn::Sum, tasks.len() as u32).await;
            let mut expected = 0;
            for (index, (good, numbers)) in (0..).zip(&tasks) {
                let words: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                bench.end_task(index, if *good { GOOD } else { BAD }, words.join("\n").as_bytes()).await;
                expected += numbers.iter().filter(|_| *good).map(|&number| i128::from(number)).sum::<i128>();
            }
            bench.reassembler.run_builtin(bench.project).await.unwrap();
            bench.end_project(ProjectState::Succeeded).await;
            prop_assert_eq!(bench.all(Cursor::START, true).await.0, format!("{expected}\n").into_bytes());
            Ok(())
        })?;
    }
}
