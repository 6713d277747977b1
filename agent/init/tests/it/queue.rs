//! Runs that were sent ahead: their order, when they begin, and how they are taken back.

use crate::client::{Init, Link, command, shell, wait_until};
use piecework_init::frame::{BEGUN, Event, Exit, HeldState, Offsets, Outcome, Request, Run, Stream};
use std::{fs, io::Write, time::Duration};

/// The next ending, with the output before it; output is acknowledged, endings are not released.
fn next_ending(link: &mut Link) -> (u64, Exit, String) {
    let mut output = String::new();
    let mut current = None;
    loop {
        let run = match link.event().expect("init closed the connection") {
            Event::Started { run } => run,
            Event::Output { run, stream, offset, bytes } => {
                output.push_str(&String::from_utf8_lossy(&bytes));
                link.send(&Request::Ack { run, stream, offset: offset + bytes.len() as u64 });
                run
            }
            Event::Exited { run, exit } => {
                assert!(current.is_none_or(|current| current == run), "{current:?} {run}");
                return (run, exit, output);
            }
            other => panic!("{other:?}"),
        };
        assert!(*current.get_or_insert(run) == run, "events of two runs are mixed");
    }
}

fn begun(init: &Init) -> u64 {
    let bytes = fs::read(init.dir().join(BEGUN)).unwrap();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[test]
fn runs_go_one_after_another_in_order() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    assert_eq!(begun(&init), 0);
    // Many in one write, some of which can't start; numbers may leave gaps.
    let mut bytes = Vec::new();
    for number in (2..=60).step_by(2) {
        let run = if number % 6 == 0 { command(&["no-such-tool"]) } else { shell(&format!("echo {number}")) };
        piecework_init::frame::Frame::encode(&Request::Run(Run { number, ..run }), &mut bytes).unwrap();
    }
    link.stream.write_all(&bytes).unwrap();
    for number in (2..=60).step_by(2) {
        let (run, exit, output) = next_ending(&mut link);
        assert_eq!(run, number);
        if number % 6 == 0 {
            assert!(matches!(exit.outcome, Outcome::CouldNotStart(_)), "{exit:?}");
        } else {
            assert_eq!((exit.outcome, output), (Outcome::Exited(0), format!("{number}\n")));
        }
    }
    assert_eq!(begun(&init), 60);
    let mut link = init.connect();
    assert_eq!(link.hello().len(), 30, "nothing was released");
    link.send(&Request::Release { through: 59 });
    assert_eq!(init.connect().hello().iter().map(|held| held.run).collect::<Vec<_>>(), [60]);
}

#[test]
fn what_was_recalled_never_begins() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("echo here; exec sleep 600"));
    link.read_until("here");
    for number in 2..=9 {
        link.send(&Request::Run(Run { number, ..command(&["true"]) }));
    }
    let recall = |link: &mut Link, from| {
        link.send(&Request::Recall { from });
        assert!(matches!(link.event(), Some(Event::Recalled { from: answer }) if answer == from));
    };
    recall(&mut link, 7);
    recall(&mut link, 4);
    recall(&mut link, 100);
    link.send(&Request::Recall { from: 1 });
    assert_eq!(link.event(), Some(Event::Recalled { from: 2 }), "the first had begun");
    link.send(&Request::Run(Run { number: 10, ..command(&["true"]) }));
    link.kill(Duration::ZERO);
    assert_eq!(next_ending(&mut link).1.outcome, Outcome::Cancelled);
    let (run, exit, _) = next_ending(&mut link);
    assert_eq!((run, exit.outcome, begun(&init)), (10, Outcome::Exited(0), 10));
}

#[test]
fn a_queued_run_that_is_killed_ends_in_its_turn_without_starting() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("echo here; exec sleep 600"));
    link.read_until("here");
    let marker = init.dir().join("marker");
    link.send(&Request::Run(Run { number: 2, ..command(&["touch", marker.to_str().unwrap()]) }));
    link.send(&Request::Run(Run { number: 3, ..command(&["true"]) }));
    link.send(&Request::Kill { run: 2, grace: Duration::from_secs(600) });
    link.kill(Duration::ZERO);
    assert_eq!(next_ending(&mut link).0, 1);
    let event = link.event().unwrap();
    assert!(
        matches!(&event, Event::Exited { run: 2, exit } if exit.outcome == Outcome::Cancelled),
        "{event:?}"
    );
    assert_eq!(next_ending(&mut link).1.outcome, Outcome::Exited(0));
    assert!(!marker.exists());
}

#[test]
fn nothing_begins_until_an_agent_is_there_and_has_resumed() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    let gate = init.dir().join("gate");
    link.run(shell(&format!("echo here; while [ ! -e {} ]; do sleep 0.01; done", gate.display())));
    link.read_until("here");
    for number in 2..=4 {
        link.send(&Request::Run(Run { number, ..shell("echo more") }));
    }
    link.send(&Request::Recall { from: 4 });
    assert_eq!(link.event(), Some(Event::Recalled { from: 4 }));
    drop(link);
    fs::write(gate, "").unwrap();
    let mut link = loop {
        let mut link = init.connect();
        let held = link.hello();
        assert_eq!(held.iter().map(|held| held.run).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((held[1].state, held[2].state), (HeldState::Queued, HeldState::Queued));
        if held[0].state == HeldState::Ended {
            break link;
        }
    };
    assert_eq!(begun(&init), 1);
    link.send(&Request::Recall { from: 3 });
    assert_eq!(link.event(), Some(Event::Recalled { from: 3 }), "told before all else");
    link.send(&Request::Resume(vec![Offsets { run: 1, stdout: 5, stderr: 0 }]));
    assert_eq!(next_ending(&mut link).0, 1);
    assert_eq!(link.event(), Some(Event::Started { run: 2 }));
    assert_eq!(next_ending(&mut link).2, "more\n");
    assert_eq!(begun(&init), 2);
    link.send(&Request::Release { through: 2 });
    init.idle();
}

#[test]
fn endings_with_much_output_hold_the_queue_until_they_are_acknowledged() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    for number in 1..=6 {
        link.send(&Request::Run(Run { number, ..command(&["head", "-c", "400000", "/dev/zero"]) }));
    }
    // Nothing is acknowledged.
    let (mut ended, mut received) = (0, 0);
    while ended < 3 {
        match link.event().unwrap() {
            Event::Output { bytes, .. } => received += bytes.len(),
            Event::Exited { .. } => ended += 1,
            Event::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((received, begun(&init)), (1_200_000, 3));
    // A round trip later it is still so; then one is acknowledged, and the next begins.
    link.send(&Request::Recall { from: 6 });
    assert_eq!(link.event(), Some(Event::Recalled { from: 6 }));
    assert_eq!(begun(&init), 3);
    link.send(&Request::Ack { run: 1, stream: Stream::Stdout, offset: 400_000 });
    wait_until("the fourth run", || begun(&init) == 4);
    assert_eq!(link.event(), Some(Event::Started { run: 4 }));
    link.send(&Request::Release { through: 3 });
    assert_eq!(next_ending(&mut link).0, 4);
    assert_eq!(next_ending(&mut link).0, 5);
}
