//! How fast one task can print, against `docker run | cat`; and what memory coordinator and agent need meanwhile.

use super::{
    error::BenchError,
    host,
    memory::{megabytes, peak_bytes},
    place::Place,
    project::{Expected, Work, result},
};
use crate::output::bench::BenchRow;
use std::{fs, io::Write};

/// The first number that `seq` prints. All that follow have as many digits, so that each line is as long.
const FIRST: u64 = 1_000_000_000;
const LINE_BYTES: u64 = 11;

/// How many lines are compared at a time.
const BLOCK_LINES: u64 = 4096;

const RATIO_MIN: f64 = 1.0;
const MEGABYTES_MAX: f64 = 150.0;

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let lines = (u64::from(place.options.output_mib) << 20) / LINE_BYTES;
    let bytes = lines * LINE_BYTES;
    let last = FIRST + lines - 1;
    let (first, to) = (FIRST.to_string(), last.to_string());
    let command = [place.tools()?.seq.as_str(), &first, &to];
    let work = Work::range(place.image(), &command, 1).output_max(bytes);
    let (prefix, theirs_is) = match place.docker_if_used() {
        Some(docker) => (docker.run() + " ", "docker run | cat"),
        None => (String::new(), "the same | cat"),
    };
    let theirs_line = format!("{prefix}{}", command.join(" "));

    let (mut server, mut agent) = (Vec::new(), Vec::new());
    let rate = |secs: f64| (bytes >> 10) as f64 / 1024.0 / secs;
    let (ours, theirs) = place
        .in_turn(
            "MiB/s",
            async |round| {
                // New ones each time, so that no round keeps what an earlier one has printed.
                let name = format!("output-{round}");
                let coordinator = place.coordinator(&name).await?;
                let agent_pid = place.agent(&coordinator).await?;
                let ran = work.run(&coordinator.client, 1).await?;
                let mut expected = Expected::new(blocks(lines));
                result(&coordinator.client, ran.project, |bytes| expected.take(bytes)).await?;
                expected.end()?;
                server.push(megabytes(peak_bytes(coordinator.pid)?));
                agent.push(megabytes(peak_bytes(agent_pid)?));
                place.parts.stop().await;
                let data = place.path(&name);
                fs::remove_dir_all(&data).map_err(BenchError::file(data))?;
                Ok(rate(ran.last.as_secs_f64()))
            },
            async |_| Ok(rate(host::into_cat(&theirs_line).await?.took.as_secs_f64())),
        )
        .await?;
    let memory = |of: &str, figures| {
        let what = format!("peak memory of the {of} then, and while the result is read");
        BenchRow::new("output", what, "MB", figures).at_most(MEGABYTES_MAX)
    };
    let what = format!("one task that prints {} MiB, {}", place.options.output_mib, place.workers());
    Ok(vec![
        BenchRow::new("output", what, "MiB/s", ours).against(theirs_is, theirs).at_least(RATIO_MIN),
        memory("coordinator", server),
        memory("agent", agent),
    ])
}

/// What `seq` prints, block by block.
fn blocks(lines: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..lines).step_by(BLOCK_LINES as usize).map(move |start| {
        let mut block = Vec::new();
        for line in start..lines.min(start + BLOCK_LINES) {
            // A vector takes everything.
            let _ = writeln!(block, "{}", FIRST + line);
        }
        block
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_what_seq_prints() {
        let lines = 2 * BLOCK_LINES + 3;
        let all: Vec<u8> = blocks(lines).flatten().collect();
        assert_eq!(all.len() as u64, lines * LINE_BYTES);
        let text = String::from_utf8(all).unwrap();
        assert!(text.lines().map(|line| line.parse::<u64>().unwrap()).eq(FIRST..FIRST + lines));
    }
}
