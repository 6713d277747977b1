//! What the agent says.

use super::{attempt_to_proto, report_to_proto};
use crate::{
    domain::{AttemptKey, OutputStream},
    supervisor::ToCoordinator,
};
use piecework_proto::{PROTOCOL_VERSION, v1};
use std::collections::BTreeMap;

/// What Hello says beside the core's part: it never changes while the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloFacts {
    /// The agent's name.
    pub name: String,
    /// Made once for the agent's data directory.
    pub identity: String,
    /// Made anew each time that the process starts.
    pub instance: String,
    /// How many attempts it runs at a time.
    pub slots: u32,
    /// Its runtime.
    pub runtime: &'static str,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The processors of its host, in thousandths.
    pub cpus_milli: u32,
    /// The memory of its host.
    pub memory_bytes: u64,
}

/// Writes a message.
#[must_use]
pub fn outgoing(facts: &HelloFacts, seq: u64, message: &ToCoordinator) -> v1::AgentMessage {
    use v1::agent_message::Message;
    let message = match message {
        ToCoordinator::Hello { live, unrecorded, coordinator_epoch_seen } => Message::Hello(v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            name: facts.name.clone(),
            identity: facts.identity.clone(),
            instance: facts.instance.clone(),
            slots: facts.slots,
            runtime: facts.runtime.into(),
            labels: facts.labels.clone().into_iter().collect(),
            live: attempts_to_proto(live),
            unrecorded: attempts_to_proto(unrecorded),
            coordinator_epoch_seen: *coordinator_epoch_seen,
            cpus_milli: facts.cpus_milli,
            memory_bytes: facts.memory_bytes,
        }),
        ToCoordinator::Heartbeat => Message::Heartbeat(v1::Heartbeat {}),
        ToCoordinator::Credits { attempts_max, not_ready } => {
            Message::Credits(v1::Credits { attempts_max: *attempts_max, not_ready: not_ready.clone() })
        }
        ToCoordinator::Reports(reports) => {
            Message::Reports(v1::Reports { reports: reports.iter().map(report_to_proto).collect() })
        }
        ToCoordinator::Returned(attempts) => {
            Message::Returned(v1::Returned { attempts: attempts_to_proto(attempts) })
        }
    };
    v1::AgentMessage { seq, message: Some(message) }
}

fn attempts_to_proto(attempts: &[AttemptKey]) -> Vec<v1::AttemptKey> {
    attempts.iter().copied().map(attempt_to_proto).collect()
}

/// Writes the name of an output stream.
#[must_use]
pub const fn stream_to_proto(stream: OutputStream) -> v1::OutputStream {
    match stream {
        OutputStream::Stdout => v1::OutputStream::Stdout,
        OutputStream::Stderr => v1::OutputStream::Stderr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phase;

    #[test]
    fn hello_carries_the_facts_and_the_cores_part() {
        let facts = HelloFacts {
            name: "host".into(),
            identity: "d1".into(),
            instance: "i1".into(),
            slots: 3,
            runtime: "docker",
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            cpus_milli: 2000,
            memory_bytes: 1 << 30,
        };
        let key = |index| AttemptKey { project: 7, phase: Phase::Task, index, attempt: 1 };
        let hello = ToCoordinator::Hello {
            live: vec![key(1)],
            unrecorded: vec![key(2), key(3)],
            coordinator_epoch_seen: 9,
        };
        let message = outgoing(&facts, 1, &hello);
        assert_eq!(message.seq, 1);
        let Some(v1::agent_message::Message::Hello(hello)) = message.message else { panic!("{message:?}") };
        assert_eq!(hello.protocol_version, PROTOCOL_VERSION);
        assert_eq!((hello.name.as_str(), hello.slots, hello.runtime.as_str()), ("host", 3, "docker"));
        assert_eq!(hello.live, [attempt_to_proto(key(1))]);
        assert_eq!(hello.unrecorded, [attempt_to_proto(key(2)), attempt_to_proto(key(3))]);
        assert_eq!(hello.coordinator_epoch_seen, 9);
        assert_eq!(hello.labels.get("disk").map(String::as_str), Some("ssd"));
    }
}
