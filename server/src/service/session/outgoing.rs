//! From the driver to an agent: numbered messages, none longer than the protocol allows.

use super::super::{Context, limits};
use crate::{
    domain::{Phase, ProjectId},
    driver::{Assigned, Outgoing as Message, SessionReceiver},
    plan::CommandTemplate,
    wire,
};
use futures_util::{Stream, stream};
use pb::coordinator_message::Message as Wire;
use piecework_proto::{OUTPUT_BYTES_DEFAULT, v1 as pb};
use prost::Message as _;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// The coordinator's side of a session.
pub(super) struct Outgoing {
    receiver: SessionReceiver,
    /// What is wrong with the agent's side, if anything is.
    failed: oneshot::Receiver<Status>,
    assigner: Assigner,
    /// Made from one message of the driver, not sent yet.
    waiting: VecDeque<Wire>,
    /// The number of the last message.
    seq: u64,
    heartbeat: Duration,
    lease: Duration,
    closed: CancellationToken,
    _close: DropGuard,
}

impl Outgoing {
    pub(super) fn new(
        context: &Context,
        receiver: SessionReceiver,
        failed: oneshot::Receiver<Status>,
    ) -> Self {
        let closed = CancellationToken::new();
        Self {
            receiver,
            failed,
            assigner: Assigner::default(),
            waiting: VecDeque::new(),
            seq: 0,
            heartbeat: context.heartbeat(),
            lease: context.lease,
            _close: closed.clone().drop_guard(),
            closed,
        }
    }

    /// Cancelled once this side has ended.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// The messages; the last item may be the reason for closing.
    pub(super) fn messages(
        self,
    ) -> impl Stream<Item = Result<pb::CoordinatorMessage, Status>> + Send + 'static {
        stream::unfold(Some(self), |outgoing| async move {
            let mut outgoing = outgoing?;
            match outgoing.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(outgoing))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<pb::CoordinatorMessage>, Status> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                self.seq += 1;
                return Ok(Some(pb::CoordinatorMessage { seq: self.seq, message: Some(message) }));
            }
            let message = tokio::select! {
                biased;
                Ok(status) = &mut self.failed => return Err(status),
                message = self.receiver.messages.recv() => message,
            };
            match message {
                None => return Ok(None),
                Some(Message::Close(why)) => return Err(Status::aborted(why)),
                Some(Message::Assign(attempts)) => self.waiting = self.assigner.assign(attempts),
                Some(Message::Message(message)) => {
                    self.waiting.extend(wire::to_agent(message, self.heartbeat, self.lease));
                }
            }
        }
    }
}

/// Makes assignments complete: commands, stdin, and each phase's common part before its first attempt.
#[derive(Default)]
struct Assigner {
    /// Whose common part was sent. Small: one entry a phase of a project that this agent had a share in.
    sent: HashSet<(ProjectId, Phase)>,
    templates: HashMap<(ProjectId, Phase), CommandTemplate>,
}

impl Assigner {
    fn assign(&mut self, attempts: Vec<Assigned>) -> VecDeque<Wire> {
        let mut messages = VecDeque::new();
        let mut message = pb::Assign::default();
        let mut bytes = 0;
        for Assigned { attempt, spec, item } in attempts {
            let (project, phase) = (attempt.task.project, attempt.task.phase);
            let run_spec = if self.sent.insert((project, phase)) {
                wire::run_spec_to_proto(project, phase, &spec, OUTPUT_BYTES_DEFAULT)
            } else {
                None
            };
            if self.templates.len() >= limits::TEMPLATES_MAX
                && !self.templates.contains_key(&(project, phase))
            {
                self.templates.clear();
            }
            let template =
                self.templates.entry((project, phase)).or_insert_with(|| CommandTemplate::new(&spec, phase));
            let assignment = pb::Assignment {
                attempt: Some(wire::attempt_key_to_proto(attempt)),
                command: template.expand(&spec, phase, attempt.task.index, item.as_ref()),
                stdin: template
                    .stdin(&spec, phase, attempt.task.index, item.as_ref())
                    .unwrap_or_default()
                    .into(),
            };
            let more = assignment.encoded_len() + run_spec.as_ref().map_or(0, pb::RunSpec::encoded_len);
            if bytes > 0 && bytes + more > limits::MESSAGE_BYTES_GOAL {
                messages.push_back(Wire::Assign(std::mem::take(&mut message)));
                bytes = 0;
            }
            bytes += more;
            message.run_specs.extend(run_spec);
            message.assignments.push(assignment);
        }
        if !message.assignments.is_empty() {
            messages.push_back(Wire::Assign(message));
        }
        messages
    }
}
