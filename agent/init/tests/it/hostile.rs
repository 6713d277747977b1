//! Peers that break the protocol lose their connection, and nothing else happens.

use crate::client::{Init, Link, shell};
use piecework_init::frame::{
    Event, Frame, HeldState, Offsets, Outcome, Request, Run, STDIN_BYTES_MAX, Stream,
};
use std::{io::Write, time::Duration};

/// What init says in its Hello.
const RUNS_MAX: u16 = 128;

/// Sends bytes; init answers by closing, after saying why.
fn check_closed(init: &Init, send: impl FnOnce(&mut Link), why: &str) {
    let mut link = init.connect();
    link.hello();
    send(&mut link);
    let mut last = None;
    while let Some(event) = link.event() {
        last = Some(event);
    }
    assert!(matches!(&last, Some(Event::Refused(text)) if text.contains(why)), "{last:?}, not {why}");
}

fn request(request: Request) -> impl FnOnce(&mut Link) {
    move |link| link.send(&request)
}

#[test]
fn bad_frames_close_the_connection() {
    let init = Init::start(&[]);
    let raw = |bytes: &'static [u8]| move |link: &mut Link| link.stream.write_all(bytes).unwrap();
    check_closed(&init, raw(&[255; 64]), "unknown tag 255");
    check_closed(&init, raw(&[255, 255, 255, 255, 1]), "are allowed");
    check_closed(&init, raw(&[0; 64]), "empty frame");
    check_closed(&init, raw(&[2, 0, 0, 0, 7, 7]), "don't fit");
    let mut cut = Vec::new();
    Request::Run(shell("true")).encode(&mut cut).unwrap();
    cut.truncate(cut.len() - 1);
    let length = u32::try_from(cut.len() - 4).unwrap();
    cut[..4].copy_from_slice(&length.to_le_bytes());
    check_closed(&init, move |link| link.stream.write_all(&cut).unwrap(), "don't fit");
    // An unfinished frame holds nobody up.
    let mut half = init.idle();
    half.stream.write_all(&[100, 0, 0]).unwrap();
    init.idle();
}

#[test]
fn requests_out_of_place_close_the_connection() {
    let init = Init::start(&[]);
    let ack = |run, offset| request(Request::Ack { run, stream: Stream::Stdout, offset });
    let resume = |run, stdout| request(Request::Resume(vec![Offsets { run, stdout, stderr: 0 }]));
    let run = |number| request(Request::Run(Run { number, ..shell("true") }));
    let stdin = |run| request(Request::Stdin { run, bytes: vec![1] });
    check_closed(&init, resume(1, 0), "of nothing");
    check_closed(&init, ack(1, 0), "run 1 has not begun");
    check_closed(&init, stdin(1), "run 1 has not begun");
    check_closed(&init, request(Request::CloseStdin { run: 1 }), "run 1 has not begun");
    check_closed(&init, request(Request::Kill { run: 1, grace: Duration::ZERO }), "there is no run 1");
    let name = Run { number: 1, attempt: "x".repeat(1000), ..shell("true") };
    check_closed(&init, request(Request::Run(name)), "name is longer");
    check_closed(&init, run(0), "came after");

    let mut link = init.idle();
    link.run(shell("echo 12345; exec sleep 600"));
    link.read_until("12345");
    check_closed(&init, run(1), "run 1 came after run 1");
    check_closed(&init, ack(1, 7), "never sent");
    check_closed(&init, ack(2, 0), "has not begun");
    check_closed(&init, resume(1, 0), "not kept");
    check_closed(&init, resume(1, 7), "not kept");
    check_closed(&init, resume(2, 0), "not held");
    check_closed(&init, stdin(1), "has none");
    let past_the_end = |link: &mut Link| {
        link.resume(6);
        link.send(&Request::Ack { run: 1, stream: Stream::Stdout, offset: 7 });
    };
    check_closed(&init, past_the_end, "never sent");
    let twice = |link: &mut Link| (0..2).for_each(|_| link.resume(6));
    check_closed(&init, twice, "second");
    let too_many = |link: &mut Link| {
        for number in 10..=10 + u64::from(RUNS_MAX) {
            // init may have closed it already.
            let mut bytes = Vec::new();
            Request::Run(Run { number, ..shell("true") }).encode(&mut bytes).unwrap();
            let _ = link.stream.write_all(&bytes);
        }
    };
    check_closed(&init, too_many, "is one more than 128");

    // The attempt went on through all that, and so did the queue.
    let mut link = init.connect();
    let held = link.hello();
    assert!(matches!(held[0].state, HeldState::Running { .. }), "{held:?}");
    assert_eq!(held.len(), usize::from(RUNS_MAX));
    link.number = 1;
    link.send(&Request::Recall { from: 2 });
    assert_eq!(link.event(), Some(Event::Recalled { from: 2 }));
    link.output[0] = b"12345\n".to_vec();
    link.resume(6);
    link.kill(Duration::ZERO);
    assert_eq!(link.finish().outcome, Outcome::Cancelled);
    init.idle();
}

#[test]
fn stdin_beyond_its_credit_closes_the_connection() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(Run { has_stdin: true, ..shell("exec sleep 600") });
    drop(link);
    let flood = |link: &mut Link| {
        let mut bytes = Vec::new();
        Request::Stdin { run: 1, bytes: vec![0; 64 << 10] }.encode(&mut bytes).unwrap();
        for _ in 0..STDIN_BYTES_MAX / (64 << 10) + 2 {
            // init may have closed it already.
            let _ = link.stream.write_all(&bytes);
        }
    };
    check_closed(&init, flood, "more stdin than was credited");
}
