//! Tests of the frames: what is written is read again, and nothing that comes in makes the decoder panic.

use super::*;
use proptest::{collection::vec, option, prelude::*};
use std::{path::PathBuf, time::Duration};

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn run() -> impl Strategy<Value = Run> {
    (
        any::<u64>(),
        ".{0,20}",
        vec(".{0,20}", 0..5),
        vec((".{0,8}", ".{0,20}"), 0..5),
        option::of(".{0,20}"),
        option::of(any::<u64>()),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(number, attempt, command, env, workdir, timeout, output_bytes_max, has_stdin)| Run {
            number,
            attempt,
            command,
            env,
            workdir: workdir.map(PathBuf::from),
            timeout: timeout.map(Duration::from_micros),
            output_bytes_max,
            has_stdin,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        run().prop_map(Request::Run),
        vec(any::<(u64, u64, u64)>(), 0..5).prop_map(|runs| {
            let offsets = |(run, stdout, stderr)| Offsets { run, stdout, stderr };
            Request::Resume(runs.into_iter().map(offsets).collect())
        }),
        (any::<u64>(), stream(), any::<u64>()).prop_map(|(run, stream, offset)| Request::Ack {
            run,
            stream,
            offset
        }),
        (any::<u64>(), vec(any::<u8>(), 0..300)).prop_map(|(run, bytes)| Request::Stdin { run, bytes }),
        any::<u64>().prop_map(|run| Request::CloseStdin { run }),
        any::<(u64, u64)>()
            .prop_map(|(run, micros)| Request::Kill { run, grace: Duration::from_micros(micros) }),
        any::<u64>().prop_map(|from| Request::Recall { from }),
        any::<u64>().prop_map(|through| Request::Release { through }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<i32>().prop_map(Outcome::Exited),
        any::<i32>().prop_map(Outcome::Signaled),
        Just(Outcome::TimedOut),
        Just(Outcome::OutOfMemory),
        ".{0,40}".prop_map(Outcome::CouldNotStart),
        Just(Outcome::OutputLimit),
        Just(Outcome::Cancelled),
        Just(Outcome::PidsLimit),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        Just(HeldState::Queued),
        any::<(u64, u64)>().prop_map(|(stdin_bytes, stdin_waiting_bytes)| HeldState::Running {
            stdin_bytes,
            stdin_waiting_bytes
        }),
        Just(HeldState::Ended),
    ];
    let held =
        (any::<u64>(), ".{0,20}", state).prop_map(|(run, attempt, state)| Held { run, attempt, state });
    prop_oneof![
        (any::<u16>(), any::<u16>(), vec(held, 0..5), option::of(".{0,20}"))
            .prop_map(|(version, runs_max, held, spent)| Event::Hello { version, runs_max, held, spent }),
        any::<u64>().prop_map(|run| Event::Started { run }),
        (any::<u64>(), stream(), any::<u64>(), vec(any::<u8>(), 0..300))
            .prop_map(|(run, stream, offset, bytes)| Event::Output { run, stream, offset, bytes }),
        any::<(u64, u64)>().prop_map(|(run, bytes)| Event::StdinWritten { run, bytes }),
        (outcome(), any::<[u64; 7]>(), any::<[u32; 2]>()).prop_map(|(outcome, numbers, counts)| {
            let usage = Usage {
                wall_micros: numbers[0],
                user_micros: numbers[1],
                system_micros: numbers[2],
                peak_memory_bytes: numbers[3],
                oom_kills: counts[0],
                pids_refused: counts[1],
            };
            let exit = Exit { outcome, usage, stdout_length: numbers[4], stderr_length: numbers[5] };
            Event::Exited { run: numbers[6], exit }
        }),
        any::<u64>().prop_map(|from| Event::Recalled { from }),
        ".{0,40}".prop_map(Event::Spent),
        ".{0,40}".prop_map(Event::Refused),
    ]
}

/// Frames come out as they went in, however the bytes are cut on the way.
fn check_round_trip<F: Frame + Clone + PartialEq + std::fmt::Debug>(frames: &[F], cuts: &[usize]) {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    let mut cuts = cuts.iter().cycle();
    let (mut decoder, mut decoded, mut rest) = (Decoder::default(), Vec::new(), bytes.as_slice());
    while !rest.is_empty() {
        let cut = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
        decoder.push(&rest[..cut]);
        rest = &rest[cut..];
        while let Some(frame) = decoder.take::<F>().unwrap() {
            decoded.push(frame);
        }
    }
    assert_eq!(decoded, frames);
}

proptest! {
    #[test]
    fn requests_round_trip(frames in vec(request(), 1..6), cuts in vec(1_usize..80, 1..5)) {
        check_round_trip(&frames, &cuts);
    }

    #[test]
    fn events_round_trip(frames in vec(event(), 1..6), cuts in vec(1_usize..80, 1..5)) {
        check_round_trip(&frames, &cuts);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.take::<Request>() {}
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.take::<Event>() {}
    }

    /// Frames that are right but for some bytes: they are understood as something else, or refused, and never panic.
    #[test]
    fn damaged_frames_never_panic(frame in request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.take::<Request>() {}
    }
}

#[track_caller]
fn check_refused(bytes: &[u8], error: FrameError) {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    assert_eq!(decoder.take::<Request>(), Err(error));
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_is_there() {
    check_refused(
        &[255, 255, 255, 255, 4],
        FrameError::TooLong { tag: 4, length: u32::MAX as usize, max: FRAME_BYTES_MAX },
    );
    check_refused(&[255, 255, 255, 255, 99], FrameError::UnknownTag(99));
    check_refused(&[0, 0, 0, 0], FrameError::Empty);
}

#[test]
fn fields_must_fit_the_length_exactly() {
    check_refused(&[2, 0, 0, 0, 7, 0], FrameError::Length);
    check_refused(&[3, 0, 0, 0, 6, 0, 0], FrameError::Length);
    let ack_of_a_third_stream = [18, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    check_refused(&ack_of_a_third_stream, FrameError::Value("stream"));
    // A list that claims four billion words.
    check_refused(
        &[17, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255],
        FrameError::Length,
    );
}

#[test]
fn a_frame_that_would_be_too_long_is_not_made() {
    let mut out = vec![1, 2, 3];
    let error = Request::Stdin { run: 1, bytes: vec![0; FRAME_BYTES_MAX] }.encode(&mut out).unwrap_err();
    assert!(matches!(error, FrameError::TooLong { tag: 4, max: FRAME_BYTES_MAX, .. }), "{error}");
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn messages_are_cut_at_a_character() {
    let cut = cut_message("ü".repeat(MESSAGE_BYTES_MAX));
    assert!(cut.len() <= MESSAGE_BYTES_MAX && cut.ends_with("ü…"));
}
