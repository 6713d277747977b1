//! What goes over the wire and back is the same; what is wrong is refused with its path.

use super::*;
use crate::{
    coordinator::FromAgent,
    domain::{
        AttemptKey, BuiltIn, FailurePolicy, ImageFile, ImageSpec, Isolation, ItemSource, LeaseLossPolicy,
        MatrixAxis, Network, Outcome, Output, OutputBody, Phase, Placement, ProjectId, ProjectSpec,
        Reassemble, Report, Resources, RetryOn, Stdin, TaskKey, TaskSpec, Usage,
    },
};
use bytes::Bytes;
use piecework_proto::v1 as pb;
use proptest::{collection::vec, option, prelude::*, sample::subsequence};

fn phases() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Split), Just(Phase::Task), Just(Phase::Reassemble)]
}

fn keys() -> impl Strategy<Value = AttemptKey> {
    (1_u64.., phases(), any::<u32>(), 1_u32..).prop_map(|(project, phase, index, attempt)| {
        TaskKey { project: ProjectId(project), phase, index }.attempt(attempt)
    })
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<i32>().prop_map(Outcome::Exited),
        any::<i32>().prop_map(Outcome::Signaled),
        ".{0,9}".prop_map(Outcome::CouldNotStart),
        ".{0,9}".prop_map(Outcome::ImageUnavailable),
        ".{0,9}".prop_map(Outcome::WorkerLost),
        ".{0,9}".prop_map(Outcome::EngineLost),
        Just(Outcome::TimedOut),
        Just(Outcome::OutOfMemory),
        Just(Outcome::PidsLimit),
        Just(Outcome::OutputLimit),
        Just(Outcome::LeaseLost),
        Just(Outcome::Cancelled),
    ]
}

fn tasks() -> impl Strategy<Value = TaskSpec> {
    let resources = (option::of(1_u32..), option::of(1_u64..), option::of(1_u32..))
        .prop_map(|(cpus_milli, memory_bytes, pids_max)| Resources { cpus_milli, memory_bytes, pids_max });
    (
        vec(".{0,9}", 0..4),
        proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..3),
        option::of(".{1,9}"),
        option::of(1_u64..),
        any::<u32>(),
        subsequence(RetryOn::ALL.to_vec(), 1..=4),
        resources,
        prop_oneof![Just(Network::None), Just(Network::Bridge)],
        option::of(1_u64..),
        prop_oneof![Just(Isolation::Sealed), Just(Isolation::Fresh)],
        (
            option::of(prop_oneof![
                ".{0,9}".prop_map(Stdin::Template),
                any::<([u8; 32], u64)>().prop_map(|(sha256, length)| Stdin::File { sha256, length }),
            ]),
            proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..3),
        ),
    )
        .prop_map(
            |(
                command,
                env,
                workdir,
                timeout_millis,
                retries,
                retry_on,
                resources,
                network,
                output_bytes_max,
                isolation,
                (stdin, requires),
            )| {
                TaskSpec {
                    command,
                    env,
                    workdir,
                    timeout_millis,
                    retries,
                    retry_on,
                    resources,
                    network,
                    output_bytes_max,
                    isolation,
                    stdin,
                    requires,
                }
            },
        )
}

fn specs() -> impl Strategy<Value = ProjectSpec> {
    let axis = (".{0,5}", vec(".{0,5}", 0..3)).prop_map(|(name, values)| MatrixAxis { name, values });
    let items = prop_oneof![
        any::<u32>().prop_map(ItemSource::List),
        any::<(i64, i64, i64)>().prop_map(|(first, last, step)| ItemSource::Range { first, last, step }),
        vec(axis, 0..3).prop_map(ItemSource::Matrix),
        tasks().prop_map(ItemSource::Split),
        option::of(1..u64::MAX).prop_map(|idle_millis| ItemSource::Open { idle_millis }),
    ];
    let file = (".{0,9}", any::<[u8; 32]>(), any::<u32>(), any::<u64>())
        .prop_map(|(path, sha256, mode, length)| ImageFile { path, sha256, mode, length });
    let image =
        prop_oneof![
            ".{0,9}".prop_map(ImageSpec::Reference),
            (".{0,9}", vec(file, 0..3), vec(".{0,9}", 0..3))
                .prop_map(|(from, files, run)| ImageSpec::Build { from, files, run }),
        ];
    let reassemble = prop_oneof![
        tasks().prop_map(Reassemble::Command),
        prop_oneof![Just(BuiltIn::Concat), Just(BuiltIn::Sum), Just(BuiltIn::Json), Just(BuiltIn::None)]
            .prop_map(Reassemble::BuiltIn),
    ];
    let on_failure =
        prop_oneof![Just(FailurePolicy::Continue), Just(FailurePolicy::Stop), Just(FailurePolicy::Ignore)];
    let placing = (
        option::of(1_u32..),
        prop_oneof![Just(Placement::Spread), Just(Placement::Pack)],
        prop_oneof![Just(LeaseLossPolicy::Rerun), Just(LeaseLossPolicy::Stop)],
    );
    (".{0,9}", image, items, tasks(), reassemble, on_failure, any::<u32>(), placing).prop_map(
        |(
            name,
            image,
            items,
            task,
            reassemble,
            on_failure,
            weight,
            (max_parallel, placement, on_lease_loss),
        )| ProjectSpec {
            name,
            image,
            items,
            task,
            reassemble,
            on_failure,
            weight,
            max_parallel,
            placement,
            on_lease_loss,
        },
    )
}

proptest! {
    #[test]
    fn specifications_come_back(domain in specs()) {
        prop_assert_eq!(spec(spec_to_proto(&domain)), Ok(domain));
    }

    #[test]
    fn keys_come_back(domain in keys()) {
        prop_assert_eq!(attempt_key(Some(attempt_key_to_proto(domain))), Ok(domain));
    }

    #[test]
    fn outcomes_come_back(domain in outcomes()) {
        prop_assert_eq!(outcome(outcome_to_proto(&domain)), Ok(domain));
    }

    #[test]
    fn reports_are_read(
        attempt in keys(),
        ended in outcomes(),
        usage in any::<(u64, u64, u64, u64, u32, u32)>(),
        stdout in vec(any::<u8>(), 0..100),
        stored in any::<(u64, [u8; 32])>(),
    ) {
        let usage = Usage {
            wall_micros: usage.0,
            user_micros: usage.1,
            system_micros: usage.2,
            peak_memory_bytes: usage.3,
            oom_kills: usage.4,
            pids_refused: usage.5,
        };
        let message = pb::Report {
            attempt: Some(attempt_key_to_proto(attempt)),
            outcome: Some(outcome_to_proto(&ended)),
            usage: Some(outcome::usage_to_proto(usage)),
            stdout: Some(pb::Output { length: stdout.len() as u64, inline: stdout.clone().into(), sha256: Vec::new() }),
            stderr: Some(pb::Output { length: stored.0, inline: Bytes::new(), sha256: stored.1.to_vec() }),
        };
        let stderr = Output { length: stored.0, body: OutputBody::Stored(stored.1) };
        let expected = Report { attempt, outcome: ended, usage, stdout: Output::inline(stdout.into()), stderr };
        prop_assert_eq!(report(message), Ok(expected));
    }
}

#[test]
fn a_hello_says_what_is_offered_and_its_labels_are_checked() {
    let good = || pb::Hello {
        name: "a".to_owned(),
        identity: "i".to_owned(),
        instance: "1".to_owned(),
        slots: 4,
        labels: [("example.org/gpu".to_owned(), "true".to_owned())].into(),
        memory_bytes: 1 << 30,
        ..pb::Hello::default()
    };
    let domain = hello(good()).unwrap();
    assert_eq!((domain.cpus_milli, domain.memory_bytes), (None, Some(1 << 30)));
    let labels = [("no gpu".to_owned(), "true".to_owned())].into();
    let refused = hello(pb::Hello { labels, ..good() }).unwrap_err().to_string();
    assert_eq!(refused, "labels: the name of a label is 1 to 63 letters, digits, `.`, `_`, `-` and `/`");
}

fn good_report() -> pb::Report {
    let output = pb::Output { length: 2, inline: "hi".into(), sha256: Vec::new() };
    pb::Report {
        attempt: Some(pb::AttemptKey {
            task: Some(pb::TaskKey { project_id: 7, phase: pb::Phase::Task.into(), index: 3 }),
            attempt: 1,
        }),
        outcome: Some(pb::Outcome { kind: pb::OutcomeKind::Exited.into(), ..Default::default() }),
        usage: None,
        stdout: Some(output.clone()),
        stderr: Some(output),
    }
}

/// Breaks a good report, and compares what is said of it.
#[track_caller]
fn check_report(change: impl FnOnce(&mut pb::Report), expected: &str) {
    let mut message = good_report();
    change(&mut message);
    assert_eq!(report(message).unwrap_err().to_string(), expected);
}

#[test]
fn broken_reports_are_refused_with_the_path() {
    assert!(report(good_report()).is_ok());
    check_report(|report| report.attempt = None, "attempt: missing");
    check_report(|report| report.attempt.as_mut().unwrap().task = None, "attempt.task: missing");
    check_report(
        |report| report.attempt.as_mut().unwrap().attempt = 0,
        "attempt.attempt: counts from 1, and is 0",
    );
    check_report(
        |report| report.attempt.as_mut().unwrap().task.as_mut().unwrap().phase = 99,
        "attempt.task.phase: 99 is no value of Phase",
    );
    check_report(|report| report.outcome = None, "outcome: missing");
    check_report(
        |report| report.outcome.as_mut().unwrap().kind = 99,
        "outcome.kind: 99 is no value of OutcomeKind",
    );
    check_report(
        |report| report.outcome.as_mut().unwrap().kind = 0,
        "outcome.kind: 0 is no value of OutcomeKind",
    );
    check_report(|report| report.stdout = None, "stdout: missing");
    check_report(
        |report| report.stdout.as_mut().unwrap().length = 3,
        "stdout.inline: 3 bytes expected, not 2",
    );
    check_report(
        |report| report.stdout.as_mut().unwrap().sha256 = vec![0; 32],
        "stdout.inline: can't be set together with `sha256`",
    );
    check_report(
        |report| report.stderr = Some(pb::Output { length: 1, inline: Bytes::new(), sha256: vec![0; 31] }),
        "stderr.sha256: 32 bytes expected, not 31",
    );
    check_report(
        |report| {
            report.stderr =
                Some(pb::Output { length: 32769, inline: vec![0; 32769].into(), sha256: Vec::new() })
        },
        "stderr.inline: at most 32768 bytes, not 32769",
    );
}

#[test]
fn an_unintelligible_report_is_a_lost_worker() {
    let mut message = good_report();
    message.outcome.as_mut().unwrap().kind = 99;
    let expected = "the agent's report can't be understood: outcome.kind: 99 is no value of OutcomeKind";
    assert_eq!(report_or_lost(message).unwrap().outcome, Outcome::WorkerLost(expected.to_owned()));
    let message = pb::Report { attempt: None, ..good_report() };
    assert_eq!(report_or_lost(message).unwrap_err().to_string(), "attempt: missing");
}

/// Breaks a good specification, and compares what is said of it.
#[track_caller]
fn check_spec(change: impl FnOnce(&mut pb::ProjectSpec), expected: &str) {
    let mut message = pb::ProjectSpec {
        image: Some(pb::ImageSpec { image: Some(pb::image_spec::Image::Reference("debian".to_owned())) }),
        items: Some(pb::ItemSource {
            source: Some(pb::item_source::Source::List(pb::ItemList { count: 1 })),
        }),
        task: Some(pb::TaskSpec::default()),
        ..Default::default()
    };
    assert!(spec(message.clone()).is_ok());
    change(&mut message);
    assert_eq!(spec(message).unwrap_err().to_string(), expected);
}

#[test]
fn broken_specifications_are_refused_with_the_path() {
    use pb::{image_spec::Image, item_source::Source, reassemble_spec::How};
    let task = |retry_on: Vec<i32>| pb::TaskSpec { retry_on, ..Default::default() };
    check_spec(|spec| spec.image = None, "image: missing");
    check_spec(|spec| spec.image = Some(pb::ImageSpec { image: None }), "image.image: missing");
    check_spec(|spec| spec.items = None, "items: missing");
    check_spec(|spec| spec.items = Some(pb::ItemSource { source: None }), "items.source: missing");
    check_spec(|spec| spec.task = None, "task: missing");
    check_spec(|spec| spec.task = Some(task(vec![1, 0])), "task.retry_on[1]: 0 is no value of RetryOn");
    check_spec(
        |spec| spec.task.as_mut().unwrap().stdin = Some(pb::Stdin { source: None }),
        "task.stdin.source: missing",
    );
    check_spec(
        |spec| spec.task.as_mut().unwrap().isolation = 9,
        "task.isolation: 9 is no value of Isolation",
    );
    check_spec(|spec| spec.task.as_mut().unwrap().network = -1, "task.network: -1 is no value of Network");
    check_spec(|spec| spec.on_failure = 9, "on_failure: 9 is no value of FailurePolicy");
    check_spec(
        |spec| spec.items = Some(pb::ItemSource { source: Some(Source::Split(task(vec![9]))) }),
        "items.split.retry_on[0]: 9 is no value of RetryOn",
    );
    check_spec(
        |spec| spec.reassemble = Some(pb::ReassembleSpec { how: Some(How::BuiltIn(9)) }),
        "reassemble.built_in: 9 is no value of BuiltInReassemble",
    );
    check_spec(
        |spec| {
            let files = vec![pb::ImageFile { sha256: vec![1], ..Default::default() }];
            spec.image = Some(pb::ImageSpec {
                image: Some(Image::Build(pb::ImageBuild { files, ..Default::default() })),
            });
        },
        "image.build.files[0].sha256: 32 bytes expected, not 1",
    );
}

fn good_hello() -> pb::Hello {
    pb::Hello {
        name: "host".to_owned(),
        identity: "a".to_owned(),
        instance: "1".to_owned(),
        slots: 2,
        ..Default::default()
    }
}

#[test]
fn broken_hellos_are_refused_with_the_path() {
    assert_eq!(hello(good_hello()).map(|hello| hello.name), Ok("host".to_owned()));
    let refused = |message: pb::Hello| hello(message).unwrap_err().to_string();
    assert_eq!(refused(pb::Hello { name: String::new(), ..good_hello() }), "name: missing");
    assert_eq!(
        refused(pb::Hello { name: "a\nb".to_owned(), ..good_hello() }),
        "name: must be a text without control characters"
    );
    assert_eq!(
        refused(pb::Hello { name: "x".repeat(256), ..good_hello() }),
        "name: at most 255 bytes, not 256"
    );
    assert_eq!(refused(pb::Hello { slots: 5000, ..good_hello() }), "slots: at most 4096, not 5000");
    assert_eq!(
        refused(pb::Hello { live: vec![pb::AttemptKey::default()], ..good_hello() }),
        "live[0].task: missing"
    );
}

#[test]
fn messages_in_a_session_are_read() {
    use pb::agent_message::Message;
    let read = |message| from_agent(pb::AgentMessage { seq: 2, message });
    assert!(matches!(read(None), Ok(FromAgent::Heartbeat)));
    assert_eq!(
        read(Some(Message::Hello(good_hello()))).unwrap_err().to_string(),
        "hello: may be sent only once, as the first message"
    );
    assert!(matches!(read(Some(Message::Heartbeat(pb::Heartbeat {}))), Ok(FromAgent::Heartbeat)));
    let reports = pb::Reports { reports: vec![good_report(), pb::Report::default()] };
    assert_eq!(
        read(Some(Message::Reports(reports))).unwrap_err().to_string(),
        "reports.reports[1].attempt: missing"
    );
    let returned = pb::Returned { attempts: vec![pb::AttemptKey::default()] };
    assert_eq!(
        read(Some(Message::Returned(returned))).unwrap_err().to_string(),
        "returned.attempts[0].task: missing"
    );
}
