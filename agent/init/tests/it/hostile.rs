//! Peers that break the protocol lose their connection, and nothing else happens.

use crate::client::{Init, Link, shell};
use piecework_init::frame::{Event, Frame, Outcome, Request, Run, STDIN_BYTES_MAX, State, Stream};
use std::io::Write;

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
    let ack = |offset| request(Request::Ack { stream: Stream::Stdout, offset });
    let resume = |stdout_offset| request(Request::Resume { stdout_offset, stderr_offset: 0 });
    check_closed(&init, resume(0), "no attempt");
    check_closed(&init, ack(0), "no attempt");
    check_closed(&init, request(Request::Stdin(vec![1])), "no attempt");
    let name = request(Request::Run(Run { attempt: "x".repeat(1000), ..shell("true") }));
    check_closed(&init, name, "name is longer");

    let mut link = init.idle();
    link.run(shell("echo 12345; exec sleep 600"));
    link.read_until("12345");
    check_closed(&init, request(Request::Run(shell("true"))), "busy");
    check_closed(&init, ack(0), "never sent");
    check_closed(&init, resume(0), "not kept");
    check_closed(&init, resume(7), "not kept");
    check_closed(&init, request(Request::Stdin(vec![1])), "has none");
    check_closed(&init, request(Request::Release), "still running");
    let past_the_end = |link: &mut Link| {
        link.send(&Request::Resume { stdout_offset: 6, stderr_offset: 0 });
        link.send(&Request::Ack { stream: Stream::Stdout, offset: 7 });
    };
    check_closed(&init, past_the_end, "never sent");
    let twice = |link: &mut Link| {
        for _ in 0..2 {
            link.send(&Request::Resume { stdout_offset: 6, stderr_offset: 0 });
        }
    };
    check_closed(&init, twice, "second");

    // The attempt went on through all that.
    let mut link = init.connect();
    assert!(matches!(link.hello(), State::Running { .. }));
    link.output[0] = b"12345\n".to_vec();
    link.send(&Request::Resume { stdout_offset: 6, stderr_offset: 0 });
    link.send(&Request::Kill { grace: std::time::Duration::ZERO });
    assert_eq!(link.finish().outcome, Outcome::Cancelled);
}

#[test]
fn stdin_beyond_its_credit_closes_the_connection() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(Run { has_stdin: true, ..shell("exec sleep 600") });
    drop(link);
    let flood = |link: &mut Link| {
        let mut bytes = Vec::new();
        Request::Stdin(vec![0; 64 << 10]).encode(&mut bytes).unwrap();
        for _ in 0..STDIN_BYTES_MAX / (64 << 10) + 2 {
            // init may have closed it already.
            let _ = link.stream.write_all(&bytes);
        }
    };
    check_closed(&init, flood, "more stdin than was credited");
}
