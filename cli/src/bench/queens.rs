//! How long tasks take that compute, against the bare solver on as many processors. A moment after an earlier project of its
//! kind, as for people who try and try again: workers are waiting.

use super::{
    error::BenchError,
    host,
    place::{Place, SPARES_PAUSE},
    project::{Work, result},
};
use crate::output::bench::{BenchRow, median};
use std::cell::Cell;
use tokio::time::sleep;

const RATIO_MAX: f64 = 1.03;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let queens = &place.tools()?.queens;
    let (slots, board) = (place.options.slots, place.options.board.to_string());
    let inside = place.inside(queens);
    let work = |board: &str| {
        Work::split(place.image(), &[&inside, "split", board], &[&inside, "solve", "{item}"]).summed()
    };
    // The same program over the same items.
    let quoted = shell_words::quote(queens);
    let bare = |board: &str| format!("{quoted} split {board} | xargs -P{slots} -n1 {quoted} solve");

    let coordinator = place.coordinator("queens").await?;
    place.agent(&coordinator).await?;
    let client = &coordinator.client;
    let warm_up = "4";
    work(warm_up).run_split(client).await?;
    host::shell(&bare(warm_up)).await?;

    let measured = work(&board);
    let mut first = Vec::new();
    let count = Cell::new(0);
    let (ours, theirs) = place
        .in_turn(
            "s",
            async |_| {
                sleep(SPARES_PAUSE).await;
                let ran = measured.run_split(client).await?;
                let mut printed = Vec::new();
                result(client, ran.project, |bytes| {
                    printed.extend_from_slice(bytes);
                    Ok(())
                })
                .await?;
                first.push(ran.first.as_secs_f64() * 1e3);
                count.set(sum(&printed)?);
                Ok(ran.over.as_secs_f64())
            },
            async |_| {
                // Nor does it meet the making of others.
                sleep(SPARES_PAUSE).await;
                let timed = host::shell(&bare(&board)).await?;
                let bare = sum(&timed.stdout)?;
                if count.get() != bare {
                    let why = format!("{} solutions, and {bare} of the bare solver", count.get());
                    return Err(BenchError::Wrong(why));
                }
                Ok(timed.took.as_secs_f64())
            },
        )
        .await?;
    let what = format!("queens {board} on {slots} slots {}, from submission to result", place.workers());
    Ok(vec![
        BenchRow::new("queens", what, "s", ours)
            .against(format!("xargs -P{slots} with the same solver"), theirs)
            .at_most(RATIO_MAX)
            .note(format!("the split had ended {:.0} ms after the submission began", median(&first))),
    ])
}

/// The sum of numbers, one a line.
fn sum(text: &[u8]) -> Result<u64, BenchError> {
    let text = String::from_utf8_lossy(text);
    let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    numbers
        .map(|numbers| numbers.iter().sum())
        .map_err(|error| BenchError::Wrong(format!("the solver printed no number: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_added() {
        assert_eq!(sum(b"1\n20\n").unwrap(), 21);
        assert!(sum(b"1\nx\n").is_err());
    }
}
