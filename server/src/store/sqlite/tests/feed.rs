//! DONE's cursor: every result and every end comes once, in order, whatever the size of the batches.

use super::*;
use crate::store::{FeedCursor, RESULTS_INLINE_BYTES, Recorded};

impl Bench {
    /// Everything behind a cursor in batches of so many: `3` is a result, `end` an end.
    fn told(&self, mut cursor: FeedCursor, batch: u32) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let (recorded, to) = self.writer.reads().recorded(cursor, batch).unwrap();
            if recorded.is_empty() {
                return told;
            }
            assert_ne!(cursor, to);
            cursor = to;
            told.extend(recorded.iter().map(|recorded| match recorded {
                Recorded::Result(result) => result.attempt.key.task.index.to_string(),
                Recorded::End { project, .. } => format!("end of {}", project.id),
            }));
        }
    }

    fn run(&mut self, index: u32) {
        let attempt = self.attempt(index, 1);
        self.made([claim(attempt), record(attempt, EXITED, b"done")]);
    }
}

#[test]
fn results_and_ends_come_in_order_in_batches_of_any_size() {
    let mut bench = Bench::new();
    let (first, second) = (bench.project, begin(&mut bench.writer, ""));
    bench.made([create(second, concat(), 0)]);
    for index in [4, 1, 2] {
        bench.run(index);
    }
    bench.made([move_to(second, ProjectState::Succeeded, 0)]);
    let again = bench.attempt(3, 1);
    bench.made([claim(again), requeue(again, Outcome::Exited(1), 1, 0)]);
    let last = bench.attempt(3, 2);
    bench.made([claim(last), record(last, EXITED, b""), move_to(first, ProjectState::Failed, 10)]);
    let third = begin(&mut bench.writer, "");
    let empty = Write::CreateProject {
        project: third,
        spec: Arc::new(concat()),
        state: ProjectState::Succeeded,
        tasks: 0,
    };
    bench.made([empty]);

    let expected = ["4", "1", "2", "end of 2", "3", "end of 1", "end of 3"];
    for batch in 1..9 {
        assert_eq!(bench.told(FeedCursor::default(), batch), expected, "batches of {batch}");
    }
}

#[test]
fn what_was_recorded_before_the_feed_was_opened_is_not_told_and_its_place_is_kept() {
    let mut bench = Bench::new();
    bench.run(0);
    let epoch = bench.epoch;
    let cursor = bench.writer.open_feed(epoch).unwrap();
    assert_eq!(bench.told(cursor, 10), [""; 0]);
    bench.run(1);
    bench.run(2);
    // Not moved: told again after a crash.
    let cursor = bench.writer.open_feed(epoch).unwrap();
    assert_eq!(bench.told(cursor, 1), ["1", "2"]);
    let (_, to) = bench.writer.reads().recorded(cursor, 1).unwrap();
    bench.writer.move_feed(epoch, to).unwrap();
    let cursor = bench.writer.open_feed(epoch).unwrap();
    assert_eq!(bench.told(cursor, 1), ["2"]);

    bench.writer.open_epoch().unwrap();
    let fenced = bench.writer.move_feed(epoch, FeedCursor::default());
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
}

#[test]
fn much_output_ends_a_batch_early() {
    let mut bench = Bench::new();
    let long = vec![b'x'; RESULTS_INLINE_BYTES];
    for index in 0..3 {
        let attempt = bench.attempt(index, 1);
        bench.made([claim(attempt), record(attempt, EXITED, &long)]);
    }
    bench.made([move_to(bench.project, ProjectState::Succeeded, 10)]);
    let (recorded, _) = bench.writer.reads().recorded(FeedCursor::default(), 100).unwrap();
    assert_eq!(recorded.len(), 1);
    assert_eq!(bench.told(FeedCursor::default(), 100), ["0", "1", "2", "end of 1"]);
}
