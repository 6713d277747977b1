//! Random requests, right and wrong: init answers in order or closes the connection, never dies, and never gets stuck.

use crate::client::{Init, Link, command, shell};
use piecework_init::frame::{
    Event, Frame, HeldState, Offsets, Outcome, Request, Run, STDIN_BYTES_MAX, Stream,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{io::Write, time::Duration};

/// One move of an agent that knows the rules, and keeps to them more or less.
#[derive(Clone, Debug)]
enum Move {
    Run(Index),
    Kill(u64, u64),
    Recall(u64),
    Release(u64),
    Ack(u64, bool, u64),
    Stdin(u64, usize),
    CloseStdin(u64),
    Resume(Vec<(u64, u64)>),
    Reconnect,
    Garbage(Vec<u8>),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0_u64..12, 1 => any::<u64>()]
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        30 => any::<Index>().prop_map(Move::Run),
        4 => (number(), prop_oneof![Just(0), Just(5_000_u64), any::<u64>()])
            .prop_map(|(run, micros)| Move::Kill(run, micros)),
        3 => number().prop_map(Move::Recall),
        4 => number().prop_map(Move::Release),
        4 => (number(), any::<bool>(), 0_u64..4).prop_map(|(run, err, offset)| Move::Ack(run, err, offset)),
        4 => (number(), 0_usize..70_000).prop_map(|(run, length)| Move::Stdin(run, length)),
        2 => number().prop_map(Move::CloseStdin),
        2 => vec((number(), 0_u64..4), 0..4).prop_map(Move::Resume),
        2 => Just(Move::Reconnect),
        1 => vec(any::<u8>(), 1..60).prop_map(Move::Garbage),
    ]
}

/// What is run: most of it ends at once, none of it runs for long.
fn task(index: &Index) -> Run {
    let tasks = [
        command(&["true"]),
        command(&["false"]),
        command(&["no-such-tool"]),
        command(&[]),
        shell("echo out; echo err >&2"),
        shell("kill -9 $$"),
        shell("sleep 0.02"),
        shell("(setsid sleep 600 &) ; exit 3"),
        Run { has_stdin: true, ..command(&["cat"]) },
        Run { output_bytes_max: 2, ..command(&["echo", "much"]) },
        Run { timeout: Some(Duration::ZERO), ..command(&["sleep", "600"]) },
    ];
    index.get(&tasks).clone()
}

/// Plays the moves, and then brings everything to an end as an agent would that knows nothing but what init tells it.
fn play(moves: &[Move]) {
    let mut init = Init::start(&[]);
    let mut link = init.connect();
    let mut number = 0;
    for one in moves {
        let request = match one {
            Move::Run(index) => {
                number += 1;
                Request::Run(Run { number, ..task(index) })
            }
            Move::Kill(run, micros) => Request::Kill { run: *run, grace: Duration::from_micros(*micros) },
            Move::Recall(from) => Request::Recall { from: *from },
            Move::Release(through) => Request::Release { through: *through },
            Move::Ack(run, err, offset) => {
                let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                Request::Ack { run: *run, stream, offset: *offset }
            }
            Move::Stdin(run, length) => {
                Request::Stdin { run: *run, bytes: vec![7; *length.min(&(STDIN_BYTES_MAX / 16))] }
            }
            Move::CloseStdin(run) => Request::CloseStdin { run: *run },
            Move::Resume(runs) => Request::Resume(
                runs.iter().map(|(run, offset)| Offsets { run: *run, stdout: *offset, stderr: 0 }).collect(),
            ),
            Move::Reconnect => {
                link = init.connect();
                continue;
            }
            Move::Garbage(bytes) => {
                let _ = link.stream.write_all(bytes);
                link = init.connect();
                continue;
            }
        };
        // init may have closed the connection for what came before.
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        if link.stream.write_all(&bytes).is_err() {
            link = init.connect();
        }
    }
    let mut link = init.connect();
    bring_to_an_end(&mut link);
    assert_eq!(init.child.try_wait().unwrap(), None, "init lives");
    init.idle();
}

fn bring_to_an_end(link: &mut Link) {
    let held = link.hello();
    let numbers: Vec<u64> = held.iter().map(|held| held.run).collect();
    assert!(numbers.is_sorted(), "{held:?}");
    let places = |state: &HeldState| match state {
        HeldState::Ended => 0,
        HeldState::Running { .. } => 1,
        HeldState::Queued => 2,
    };
    assert!(held.iter().map(|held| places(&held.state)).is_sorted(), "{held:?}");
    if held.is_empty() {
        return;
    }
    // Not listed: all that is kept is sent.
    link.send(&Request::Resume(Vec::new()));
    for run in &numbers {
        link.send(&Request::Kill { run: *run, grace: Duration::ZERO });
    }
    for (run, held) in numbers.iter().zip(&held) {
        let mut started = 0;
        loop {
            match link.event().expect("init closed the connection") {
                Event::Started { run: told } => {
                    assert_eq!(told, *run);
                    started += 1;
                }
                Event::Output { run: told, stream, offset, bytes } => {
                    assert_eq!(told, *run);
                    link.send(&Request::Ack { run: told, stream, offset: offset + bytes.len() as u64 });
                }
                Event::StdinWritten { run: told, .. } => assert_eq!(told, *run),
                Event::Exited { run: told, exit } => {
                    assert_eq!(told, *run);
                    let is_queued = held.state == HeldState::Queued;
                    assert!(started <= i32::from(is_queued), "{held:?} was started again");
                    assert!(!is_queued || started == 1 || !matches!(exit.outcome, Outcome::Exited(_)));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let last = numbers.last().copied().unwrap_or(0);
    link.send(&Request::Release { through: last });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_requests_is_survived(moves in vec(moves(), 1..40)) {
        play(&moves);
    }
}
