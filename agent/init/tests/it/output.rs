//! Output and stdin: back-pressure, order, and going on after a lost connection.

use crate::client::{Init, check_outcome, run, shell, wait_until};
use piecework_init::frame::{
    CHUNK_BYTES_MAX, Event, Held, HeldState, Outcome, Request, Run, STDIN_BYTES_MAX, Stream,
    UNACKED_BYTES_MAX,
};
use std::{fs, time::Duration};

/// What `seq 1 N` prints.
fn sequence(last: u32) -> Vec<u8> {
    (1..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn ten_megabytes_come_through_whole() {
    let (exit, link) = check_outcome(shell("seq 1 1500000; echo end >&2"), &Outcome::Exited(0));
    assert!(exit.stdout_length > 10_000_000);
    assert!(link.output[0] == sequence(1_500_000));
    assert_eq!(link.stderr(), "end\n");
}

#[test]
fn without_acknowledgement_the_task_is_held_and_nothing_is_lost() {
    let init = Init::start(&[]);
    let (count, _) = (init.dir().join("count"), ());
    let mut link = init.idle();
    let script =
        format!("for i in $(seq 1 100); do head -c 100000 /dev/zero; echo $i > {}; done", count.display());
    link.run(shell(&script));
    let (mut received, mut events) = (0, Vec::new());
    while received < UNACKED_BYTES_MAX {
        let event = link.event().unwrap();
        if let Event::Output { bytes, .. } = &event {
            received += bytes.len();
        }
        events.push(event);
    }
    assert_eq!(received, UNACKED_BYTES_MAX, "not a byte more is sent than may be unacknowledged");
    // The pipe holds some more, and then the task is stuck.
    let progress = || fs::read_to_string(&count).unwrap_or_default().trim().parse::<u64>().unwrap_or(0);
    let mut last = 0;
    wait_until("the task to be held", || {
        std::thread::sleep(Duration::from_millis(50));
        last == std::mem::replace(&mut last, progress())
    });
    assert!((8..15).contains(&progress()), "{}", progress());
    // Another stream, and the agent's requests, are served meanwhile.
    link.send(&Request::Ack { run: 1, stream: Stream::Stdout, offset: UNACKED_BYTES_MAX as u64 });
    link.output[0] = vec![0; UNACKED_BYTES_MAX];
    let exit = link.finish();
    assert_eq!((exit.outcome, exit.stdout_length), (Outcome::Exited(0), 10_000_000));
}

#[test]
fn one_stream_s_back_pressure_does_not_hold_the_other() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("head -c 3000000 /dev/zero & echo here >&2; wait"));
    let mut stderr = Vec::new();
    while stderr != b"here\n" {
        if let Event::Output { stream: Stream::Stderr, bytes, .. } = link.event().unwrap() {
            stderr.extend(bytes);
        }
    }
    link.kill(Duration::ZERO);
}

#[test]
fn a_new_connection_goes_on_where_the_last_one_stopped() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("seq 1 1000000"));
    let mut all = Vec::new();
    let mut connections = 0;
    // Every connection is dropped with frames in flight; only what was acknowledged is gone.
    let exit = 'all: loop {
        connections += 1;
        let mut taken = 0;
        while taken < 40 * CHUNK_BYTES_MAX {
            match link.event().unwrap() {
                Event::Output { stream: Stream::Stdout, offset, bytes, .. } => {
                    assert_eq!(offset, all.len() as u64);
                    taken += bytes.len();
                    all.extend(bytes);
                    // Acknowledged late: init keeps some that the agent has.
                    let offset = all.len().saturating_sub(100_000) as u64;
                    link.send(&Request::Ack { run: 1, stream: Stream::Stdout, offset });
                }
                Event::Exited { exit, .. } => break 'all exit,
                Event::Started { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        link = init.connect();
        assert_eq!(link.hello().len(), 1);
        link.resume(all.len() as u64);
    };
    assert!(connections >= 3, "{connections}");
    assert!(all == sequence(1_000_000));
    assert_eq!((exit.outcome, exit.stdout_length), (Outcome::Exited(0), all.len() as u64));
}

#[test]
fn an_exit_is_kept_until_it_is_released() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("echo kept; echo too >&2; exit 7"));
    drop(link);
    for _ in 0..3 {
        let mut link = init.ended();
        link.resume(2);
        let events: Vec<_> = (0..3).map(|_| link.event().unwrap()).collect();
        let output =
            |stream, offset, bytes: &[u8]| Event::Output { run: 1, stream, offset, bytes: bytes.to_vec() };
        assert_eq!(events[..2], [output(Stream::Stdout, 2, b"pt\n"), output(Stream::Stderr, 0, b"too\n")]);
        assert!(
            matches!(&events[2], Event::Exited { run: 1, exit } if exit.outcome == Outcome::Exited(7)),
            "{events:?}"
        );
    }
    let mut link = init.connect();
    link.hello();
    link.send(&Request::Release { through: 1 });
    init.idle();
}

#[test]
fn a_newer_connection_replaces_the_older() {
    let init = Init::start(&[]);
    let mut first = init.idle();
    first.run(shell("echo one; exec sleep 600"));
    first.read_until("one");
    let mut second = init.connect();
    assert!(matches!(second.hello()[..], [Held { state: HeldState::Running { .. }, .. }]));
    assert_eq!(first.event(), None);
    second.output[0] = b"one\n".to_vec();
    second.resume(4);
    second.kill(Duration::from_secs(5));
    assert_eq!(second.finish().outcome, Outcome::Cancelled);
}

#[test]
fn stdin_reaches_the_task_and_is_credited() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(Run { has_stdin: true, ..shell("cat") });
    let mut sent = 0_u64;
    let total = 5_000_000;
    let mut exit = None;
    while exit.is_none() {
        while sent < total && sent - link.credit + CHUNK_BYTES_MAX as u64 <= STDIN_BYTES_MAX as u64 {
            let count = (total - sent).min(CHUNK_BYTES_MAX as u64);
            let bytes = (sent..sent + count).map(|at| (at % 251) as u8).collect();
            link.stdin(bytes);
            sent += count;
            if sent == total {
                link.send(&Request::CloseStdin { run: 1 });
            }
        }
        exit = link.step();
    }
    assert_eq!(link.credit, total);
    assert_eq!(link.output[0].len() as u64, total);
    assert!(link.output[0].iter().zip(0_u64..).all(|(byte, at)| *byte == (at % 251) as u8));
}

#[test]
fn stdin_goes_on_after_a_lost_connection() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(Run { has_stdin: true, ..shell("read first; echo $first; cat > /dev/null; echo done") });
    link.stdin(b"line\n".to_vec());
    link.stdin(vec![b'x'; 60_000]);
    link.read_until("line");
    let mut link = init.connect();
    let HeldState::Running { stdin_bytes, stdin_waiting_bytes } = link.hello()[0].state else { panic!() };
    assert_eq!(stdin_bytes, 60_005);
    assert!(stdin_waiting_bytes <= 60_000);
    link.output[0] = b"line\n".to_vec();
    link.resume(5);
    link.send(&Request::CloseStdin { run: 1 });
    assert_eq!(link.finish().outcome, Outcome::Exited(0));
    assert_eq!((link.stdout().as_str(), link.credit), ("line\ndone\n", stdin_waiting_bytes));
}

#[test]
fn a_task_without_stdin_reads_an_empty_one() {
    let (_, link) = check_outcome(shell("wc -c"), &Outcome::Exited(0));
    assert_eq!(link.stdout().trim(), "0");
}

#[test]
fn a_task_that_does_not_read_its_stdin_ends_all_the_same() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(Run { has_stdin: true, ..shell("exec <&-; echo closed; exec sleep 600") });
    for _ in 0..8 {
        link.stdin(vec![0; CHUNK_BYTES_MAX]);
    }
    while link.credit < 8 * CHUNK_BYTES_MAX as u64 {
        assert_eq!(link.step(), None);
    }
    link.kill(Duration::ZERO);
    assert_eq!(link.finish().outcome, Outcome::Cancelled);
}

#[test]
fn binary_output_without_a_newline() {
    let (exit, link) = run(shell(r"printf '\000\377\001'"));
    assert_eq!((exit.stdout_length, link.output[0].as_slice()), (3, [0, 255, 1].as_slice()));
}
