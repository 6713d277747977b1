//! An agent made of plain calls: it runs nothing, and reports what a test says.

use crate::bench::{Bench, within};
use piecework_proto::{
    PROTOCOL_VERSION,
    v1::{
        self as pb, agent_message::Message as Say, agent_session_client::AgentSessionClient,
        coordinator_message::Message as Hear,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// An open session.
pub(crate) struct Agent {
    sender: mpsc::Sender<pb::AgentMessage>,
    pub(crate) heard: Streaming<pb::CoordinatorMessage>,
    seq: u64,
    heard_seq: u64,
    pub(crate) welcome: pb::Welcome,
    /// The common parts that were heard, in order.
    pub(crate) run_specs: Vec<pb::RunSpec>,
}

pub(crate) fn hello(name: &str) -> pb::Hello {
    pb::Hello {
        protocol_version: PROTOCOL_VERSION,
        version: "0".to_owned(),
        name: name.to_owned(),
        identity: format!("identity of {name}"),
        instance: "1".to_owned(),
        slots: 4,
        runtime: "scripted".to_owned(),
        ..Default::default()
    }
}

/// Opens a stream with any first message.
pub(crate) async fn open(
    bench: &Bench,
    first: Say,
) -> Result<(mpsc::Sender<pb::AgentMessage>, Streaming<pb::CoordinatorMessage>), Status> {
    open_on(bench.sessions(), first).await
}

/// The same over any connection.
pub(crate) async fn open_on(
    mut client: AgentSessionClient<Channel>,
    first: Say,
) -> Result<(mpsc::Sender<pb::AgentMessage>, Streaming<pb::CoordinatorMessage>), Status> {
    let (sender, receiver) = mpsc::channel(16);
    sender.send(pb::AgentMessage { seq: 1, message: Some(first) }).await.unwrap();
    let answer = within(client.session(ReceiverStream::new(receiver))).await?;
    Ok((sender, answer.into_inner()))
}

impl Agent {
    /// Says Hello, hears Welcome, and asks for so many attempts.
    pub(crate) async fn connect(bench: &Bench, hello: pb::Hello, attempts_max: u32) -> Self {
        Self::connect_on(bench.sessions(), hello, attempts_max).await
    }

    /// The same over any connection.
    pub(crate) async fn connect_on(
        client: AgentSessionClient<Channel>,
        hello: pb::Hello,
        attempts_max: u32,
    ) -> Self {
        let (sender, heard) = open_on(client, Say::Hello(hello)).await.unwrap();
        let mut agent = Self {
            sender,
            heard,
            seq: 1,
            heard_seq: 0,
            welcome: pb::Welcome::default(),
            run_specs: Vec::new(),
        };
        agent.welcome = match agent.hear().await {
            Hear::Welcome(welcome) => welcome,
            other => panic!("{other:?} instead of Welcome"),
        };
        agent.say(Say::Credits(pb::Credits { attempts_max, not_ready: String::new() })).await;
        agent
    }

    pub(crate) async fn say(&mut self, message: Say) {
        self.seq += 1;
        self.sender.send(pb::AgentMessage { seq: self.seq, message: Some(message) }).await.unwrap();
    }

    /// A message of a kind that is not known here.
    pub(crate) async fn say_unknown(&mut self) {
        self.seq += 1;
        self.sender.send(pb::AgentMessage { seq: self.seq, message: None }).await.unwrap();
    }

    /// The next message, which has the next number.
    pub(crate) async fn hear(&mut self) -> Hear {
        let message = within(self.heard.message()).await.unwrap().expect("the session goes on");
        self.heard_seq += 1;
        assert_eq!(message.seq, self.heard_seq);
        message.message.unwrap()
    }

    /// So many assignments.
    pub(crate) async fn assigned(&mut self, count: usize) -> Vec<pb::Assignment> {
        let mut assignments = Vec::new();
        while assignments.len() < count {
            match self.hear().await {
                Hear::Assign(assign) => {
                    self.run_specs.extend(assign.run_specs);
                    assignments.extend(assign.assignments);
                }
                Hear::Settled(_) => {}
                other => panic!("{other:?} instead of Assign"),
            }
        }
        assignments
    }

    /// Waits until so many reports are settled.
    pub(crate) async fn settled(&mut self, count: usize) -> Vec<pb::AttemptKey> {
        let mut settled = Vec::new();
        while settled.len() < count {
            match self.hear().await {
                Hear::Settled(more) => settled.extend(more.attempts),
                other => panic!("{other:?} instead of Settled"),
            }
        }
        settled
    }

    pub(crate) async fn report(&mut self, report: pb::Report) {
        self.say(Say::Reports(pb::Reports { reports: vec![report] })).await;
    }

    /// Takes and reports so many attempts one after the other; each prints what the function makes of its command.
    pub(crate) async fn work(&mut self, count: usize, print: impl Fn(&[String]) -> Vec<u8>) {
        for _ in 0..count {
            let assignment = self.assigned(1).await.remove(0);
            let stdout = print(&assignment.command);
            self.report(report(assignment.attempt.unwrap(), 0, &stdout)).await;
            self.settled(1).await;
        }
    }
}

/// A report of an attempt that ended by itself with little output.
pub(crate) fn report(attempt: pb::AttemptKey, code: i32, stdout: &[u8]) -> pb::Report {
    pb::Report {
        attempt: Some(attempt),
        outcome: Some(pb::Outcome { kind: pb::OutcomeKind::Exited.into(), code, message: String::new() }),
        usage: Some(pb::Usage { wall_micros: 1000, ..Default::default() }),
        stdout: Some(inline(stdout)),
        stderr: Some(inline(b"a complaint\n")),
    }
}

pub(crate) fn inline(bytes: &[u8]) -> pb::Output {
    pb::Output { length: bytes.len() as u64, inline: bytes.to_vec().into(), sha256: Vec::new() }
}
