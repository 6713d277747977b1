//! What the coordinator says in one session.

use super::{
    WireError, attempt_from_proto,
    image::{digest_from_proto, image_from_proto},
    task::{attempts_from_proto, phase_from_proto},
};
use crate::{
    domain::{Assignment, Isolation, Phase, RunSpec, StdinFrom},
    supervisor::FromCoordinator,
};
use piecework_proto::v1;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The most run specs that are kept in one session, in run specs. At the bound the session ends, and a new one starts
/// with none.
const RUN_SPECS_MAX: usize = 100_000;

/// The limit on output where the coordinator names none, in bytes.
const OUTPUT_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;

/// Parses the messages of one session, and remembers the run specs that came in it.
#[derive(Debug, Default)]
pub struct Incoming {
    run_specs: BTreeMap<(u64, Phase), Arc<RunSpec>>,
}

impl Incoming {
    /// Reads one message, and its number.
    ///
    /// # Errors
    /// If anything in it is missing or unknown that is needed.
    pub fn message(&mut self, message: v1::CoordinatorMessage) -> Result<(u64, FromCoordinator), WireError> {
        use v1::coordinator_message::Message;
        let parsed = match message.message {
            Some(Message::Welcome(welcome)) => FromCoordinator::Welcome {
                coordinator_epoch: welcome.coordinator_epoch,
                session_epoch: welcome.session_epoch,
                heartbeat: heartbeat(welcome.heartbeat_millis)?,
                discard: attempts_from_proto(welcome.discard)?,
            },
            Some(Message::Assign(assign)) => FromCoordinator::Assign(self.assign(assign)?),
            Some(Message::Settled(settled)) => {
                FromCoordinator::Settled(attempts_from_proto(settled.attempts)?)
            }
            Some(Message::Cancel(cancel)) => FromCoordinator::Cancel(attempts_from_proto(cancel.attempts)?),
            Some(Message::Recall(recall)) => FromCoordinator::Recall(attempts_from_proto(recall.attempts)?),
            Some(Message::Heartbeat(v1::Heartbeat {})) => FromCoordinator::Heartbeat,
            // A newer coordinator says something that this version does not know. Its number counts all the same.
            None => FromCoordinator::Settled(Vec::new()),
        };
        Ok((message.seq, parsed))
    }

    fn assign(&mut self, assign: v1::Assign) -> Result<Vec<Assignment>, WireError> {
        for spec in assign.run_specs {
            let key = (spec.project_id, phase_from_proto(spec.phase)?);
            if self.run_specs.len() >= RUN_SPECS_MAX && !self.run_specs.contains_key(&key) {
                return Err(WireError::TooManyRunSpecs(RUN_SPECS_MAX));
            }
            self.run_specs.insert(key, Arc::new(run_spec(spec)?));
        }
        assign.assignments.into_iter().map(|assignment| self.assignment(assignment)).collect()
    }

    fn assignment(&self, assignment: v1::Assignment) -> Result<Assignment, WireError> {
        let attempt = attempt_from_proto(assignment.attempt)?;
        if assignment.command.is_empty() {
            return Err(WireError::Missing("assignment.command"));
        }
        let spec = self
            .run_specs
            .get(&(attempt.project, attempt.phase))
            .ok_or(WireError::NoRunSpec { project: attempt.project })?;
        Ok(Assignment { attempt, command: assignment.command, stdin: assignment.stdin, spec: spec.clone() })
    }
}

fn heartbeat(millis: u32) -> Result<Duration, WireError> {
    if millis == 0 {
        return Err(WireError::Missing("welcome.heartbeat_millis"));
    }
    Ok(Duration::from_millis(millis.into()))
}

fn run_spec(spec: v1::RunSpec) -> Result<RunSpec, WireError> {
    let task = spec.task.ok_or(WireError::Missing("run_spec.task"))?;
    let resources = task.resources.unwrap_or_default();
    let network = match v1::Network::try_from(task.network) {
        Ok(v1::Network::Unspecified | v1::Network::None) => false,
        Ok(v1::Network::Bridge) => true,
        Err(_) => return Err(WireError::UnknownValue { field: "network", value: task.network }),
    };
    let stdin = match task.stdin.map(|stdin| stdin.source.ok_or(WireError::Missing("stdin.source"))) {
        None if spec.has_input => StdinFrom::Coordinator,
        None => StdinFrom::Nothing,
        Some(source) => match source? {
            v1::stdin::Source::Template(_) => StdinFrom::Assignment,
            v1::stdin::Source::File(file) => {
                StdinFrom::File(digest_from_proto("stdin.file.sha256", &file.sha256)?)
            }
        },
    };
    let isolation = match v1::Isolation::try_from(task.isolation) {
        Ok(v1::Isolation::Unspecified | v1::Isolation::Sealed) => Isolation::Sealed,
        Ok(v1::Isolation::Fresh) => Isolation::Fresh,
        Err(_) => return Err(WireError::UnknownValue { field: "isolation", value: task.isolation }),
    };
    Ok(RunSpec {
        project_name: spec.project_name,
        image: image_from_proto(spec.image)?,
        env: task.env.into_iter().collect(),
        workdir: Some(task.workdir).filter(|dir| !dir.is_empty()).map(Into::into),
        timeout: (task.timeout_millis > 0).then(|| Duration::from_millis(task.timeout_millis)),
        cpus_milli: (resources.cpus_milli > 0).then_some(resources.cpus_milli),
        memory_bytes: (resources.memory_bytes > 0).then_some(resources.memory_bytes),
        pids_max: (resources.pids_max > 0).then_some(resources.pids_max),
        network,
        output_bytes_max: if task.output_bytes_max > 0 {
            task.output_bytes_max
        } else {
            OUTPUT_BYTES_MAX_DEFAULT
        },
        stdin,
        isolation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{AttemptKey, ImageSpec},
        wire::attempt_to_proto,
    };
    use v1::coordinator_message::Message;

    fn message(message: Message) -> v1::CoordinatorMessage {
        v1::CoordinatorMessage { seq: 5, message: Some(message) }
    }

    fn key(index: u32) -> AttemptKey {
        AttemptKey { project: 7, phase: Phase::Task, index, attempt: 1 }
    }

    fn spec() -> v1::RunSpec {
        v1::RunSpec {
            project_id: 7,
            phase: v1::Phase::Task.into(),
            project_name: "test".into(),
            image: Some(v1::ImageSpec {
                image: Some(v1::image_spec::Image::Reference("busybox:local".into())),
            }),
            task: Some(v1::TaskSpec {
                timeout_millis: 1500,
                env: [("A".to_owned(), "1".to_owned())].into(),
                network: v1::Network::Bridge.into(),
                isolation: v1::Isolation::Fresh.into(),
                ..v1::TaskSpec::default()
            }),
            has_input: true,
        }
    }

    fn assign(run_specs: Vec<v1::RunSpec>, index: u32) -> v1::CoordinatorMessage {
        let assignment = v1::Assignment {
            attempt: Some(attempt_to_proto(key(index))),
            command: vec!["true".into()],
            stdin: "in".into(),
        };
        message(Message::Assign(v1::Assign { run_specs, assignments: vec![assignment] }))
    }

    fn assigned(incoming: &mut Incoming, message: v1::CoordinatorMessage) -> Assignment {
        match incoming.message(message) {
            Ok((5, FromCoordinator::Assign(mut assignments))) => assignments.pop().expect("one"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_spec_serves_all_later_assignments_of_the_session() {
        let mut incoming = Incoming::default();
        let first = assigned(&mut incoming, assign(vec![spec()], 1));
        let second = assigned(&mut incoming, assign(vec![], 2));
        assert_eq!((first.attempt, second.attempt), (key(1), key(2)));
        assert_eq!(&second.stdin[..], b"in");
        assert!(Arc::ptr_eq(&first.spec, &second.spec));
        let expected = RunSpec {
            project_name: "test".into(),
            image: ImageSpec::Reference("busybox:local".into()),
            env: [("A".to_owned(), "1".to_owned())].into(),
            workdir: None,
            timeout: Some(Duration::from_millis(1500)),
            cpus_milli: None,
            memory_bytes: None,
            pids_max: None,
            network: true,
            output_bytes_max: OUTPUT_BYTES_MAX_DEFAULT,
            stdin: StdinFrom::Coordinator,
            isolation: Isolation::Fresh,
        };
        assert_eq!(*first.spec, expected);
        let error = Incoming::default().message(assign(vec![], 1)).expect_err("a new session knows none");
        assert_eq!(error, WireError::NoRunSpec { project: 7 });
    }

    #[test]
    fn stdin_is_empty_or_comes_from_one_place() {
        use v1::stdin::Source;
        let from = |has_input, stdin| {
            let task = v1::TaskSpec { stdin, ..v1::TaskSpec::default() };
            run_spec(v1::RunSpec { has_input, task: Some(task), ..spec() }).map(|spec| spec.stdin)
        };
        let source = |source| Some(v1::Stdin { source: Some(source) });
        let file = |sha256| source(Source::File(v1::StdinFile { sha256, length: 3 }));
        assert_eq!(from(false, None), Ok(StdinFrom::Nothing));
        assert_eq!(from(true, None), Ok(StdinFrom::Coordinator));
        assert_eq!(from(false, source(Source::Template("{item}".into()))), Ok(StdinFrom::Assignment));
        assert_eq!(from(false, file(vec![7; 32])), Ok(StdinFrom::File([7; 32])));
        assert!(from(false, file(vec![7; 31])).is_err());
        let nowhere = from(false, Some(v1::Stdin { source: None }));
        assert_eq!(nowhere, Err(WireError::Missing("stdin.source")));
    }

    #[test]
    fn what_is_unknown_or_missing_is_named() {
        let task = v1::TaskSpec { network: 9, ..v1::TaskSpec::default() };
        let isolated = v1::TaskSpec { isolation: 9, ..v1::TaskSpec::default() };
        let welcome = v1::Welcome { coordinator_epoch: 1, session_epoch: 1, ..v1::Welcome::default() };
        for (bad, error) in [
            (assign(vec![v1::RunSpec { task: None, ..spec() }], 1), WireError::Missing("run_spec.task")),
            (
                assign(vec![v1::RunSpec { task: Some(task), ..spec() }], 1),
                WireError::UnknownValue { field: "network", value: 9 },
            ),
            (
                assign(vec![v1::RunSpec { task: Some(isolated), ..spec() }], 1),
                WireError::UnknownValue { field: "isolation", value: 9 },
            ),
            (message(Message::Welcome(welcome)), WireError::Missing("welcome.heartbeat_millis")),
        ] {
            assert_eq!(Incoming::default().message(bad).expect_err("refused"), error);
        }
    }

    #[test]
    fn an_unknown_message_of_a_newer_coordinator_counts_and_does_nothing() {
        let unknown = v1::CoordinatorMessage { seq: 3, message: None };
        match Incoming::default().message(unknown) {
            Ok((3, FromCoordinator::Settled(none))) if none.is_empty() => {}
            other => panic!("{other:?}"),
        }
    }
}
