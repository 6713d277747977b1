//! Output that is too long for a report: uploaded, resumed, read back, followed.

use crate::{
    agent::{Agent, hello, report},
    bench::{Bench, check_bad_field, check_refused, sha256, spec, within},
};
use piecework_proto::v1::{self as pb, OutputStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

const CHUNK: usize = 256 * 1024;

struct Upload {
    chunks: mpsc::Sender<pb::OutputChunk>,
    acks: Streaming<pb::OutputAck>,
}

impl Upload {
    async fn open(bench: &Bench, attempt: pb::AttemptKey, stream: OutputStream) -> Result<Self, Status> {
        let (chunks, receiver) = mpsc::channel(4);
        let first = pb::OutputChunk { attempt: Some(attempt), stream: stream.into(), ..Default::default() };
        chunks.send(first).await.unwrap();
        let acks = within(bench.sessions().upload_output(ReceiverStream::new(receiver))).await?.into_inner();
        Ok(Self { chunks, acks })
    }

    async fn ack(&mut self) -> Result<pb::OutputAck, Status> {
        Ok(within(self.acks.message()).await?.expect("another acknowledgement"))
    }

    async fn send(&self, offset: usize, data: &[u8], end: bool) {
        let data = data.to_vec().into();
        within(self.chunks.send(pb::OutputChunk { offset: offset as u64, data, end, ..Default::default() }))
            .await
            .unwrap();
    }

    /// Sends all from the acknowledged offset on; returns that offset.
    async fn send_all(mut self, bytes: &[u8]) -> u64 {
        let ack = self.ack().await.unwrap();
        assert!(!ack.unwanted && !ack.complete);
        let mut offset = usize::try_from(ack.durable_offset).unwrap();
        while offset < bytes.len() {
            let end = bytes.len().min(offset + CHUNK);
            self.send(offset, &bytes[offset..end], end == bytes.len()).await;
            offset = end;
        }
        let mut last = ack;
        while !last.complete {
            last = self.ack().await.unwrap();
        }
        assert_eq!(last.durable_offset, bytes.len() as u64);
        ack.durable_offset
    }
}

/// Bytes that repeat nowhere near.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn stored(bytes: &[u8]) -> Option<pb::Output> {
    Some(pb::Output { length: bytes.len() as u64, inline: bytes::Bytes::new(), sha256: sha256(bytes) })
}

async fn running(bench: &Bench, tasks: i64) -> (u64, Agent, pb::AttemptKey) {
    let project = bench.submit_good(spec(tasks)).await;
    let mut agent = Agent::connect(bench, hello("host"), 1).await;
    let attempt = agent.assigned(1).await.remove(0).attempt.unwrap();
    (project, agent, attempt)
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_it_was() {
    let bench = Bench::start().await;
    let (project, mut agent, attempt) = running(&bench, 1).await;
    let output = noise(9_000_000);

    let mut upload = Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap();
    assert_eq!(upload.ack().await.unwrap().durable_offset, 0);
    let mut offset = 0;
    for chunk in output[..5_000_000].chunks(CHUNK) {
        upload.send(offset, chunk, false).await;
        offset += chunk.len();
    }
    let durable = upload.ack().await.unwrap();
    assert!(durable.durable_offset > 0 && !durable.complete);
    drop(upload);

    let upload = Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap();
    assert!(upload.send_all(&output).await >= durable.durable_offset);
    // A repeated upload of what is complete is told so at once.
    let mut again = Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap();
    let ack = again.ack().await.unwrap();
    assert_eq!((ack.complete, ack.durable_offset), (true, 9_000_000));

    agent.report(pb::Report { stdout: stored(&output), ..report(attempt, 0, b"") }).await;
    agent.settled(1).await;
    let (bytes, end) = crate::running::results(&bench, project, "").await;
    assert_eq!(sha256(&bytes), sha256(&output));
    assert_eq!(end.state(), pb::ProjectState::Succeeded);
    let logs =
        crate::logs::logs(&bench, pb::LogsRequest { project: project.to_string(), ..Default::default() })
            .await;
    let (stdout, stderr) = logs.unwrap();
    assert_eq!(sha256(&stdout), sha256(&output));
    assert_eq!(stderr, b"a complaint\n");
}

#[tokio::test]
async fn output_of_another_digest_does_not_count() {
    let bench = Bench::start().await;
    let (_, mut agent, attempt) = running(&bench, 1).await;
    let output = noise(40_000);
    Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap().send_all(&output).await;
    let wrong = Some(pb::Output { sha256: vec![7; 32], ..stored(&output).unwrap() });
    agent.report(pb::Report { stdout: wrong, ..report(attempt, 0, b"") }).await;
    assert_eq!(agent.assigned(1).await[0].attempt.unwrap().attempt, 2);
}

#[tokio::test]
async fn output_that_nobody_wants_is_refused() {
    let bench = Bench::start().await;
    let (_, mut agent, attempt) = running(&bench, 1).await;
    agent.report(report(attempt, 0, b"done\n")).await;
    agent.settled(1).await;
    let ack = Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap().ack().await.unwrap();
    assert!(ack.unwanted);
    let unknown =
        pb::AttemptKey { task: Some(pb::TaskKey { project_id: 77, phase: 2, index: 0 }), attempt: 1 };
    assert!(Upload::open(&bench, unknown, OutputStream::Stdout).await.unwrap().ack().await.unwrap().unwanted);
}

#[tokio::test]
async fn broken_uploads_are_refused() {
    let bench = Bench::start().await;
    let (_, _agent, attempt) = running(&bench, 1).await;
    let ack = Upload::open(&bench, attempt, OutputStream::Unspecified).await.unwrap().ack().await;
    check_bad_field(ack, "stream", "0 is no value of OutputStream");
    let ack =
        Upload::open(&bench, pb::AttemptKey::default(), OutputStream::Stdout).await.unwrap().ack().await;
    check_bad_field(ack, "attempt.task", "missing");
    let mut upload = Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap();
    upload.ack().await.unwrap();
    upload.send(5, b"gap", false).await;
    check_refused(upload.ack().await, Code::OutOfRange, "output chunk at offset 5, expected 0");
}

#[tokio::test]
async fn a_running_task_can_be_followed() {
    let bench = Bench::start().await;
    let (project, mut agent, attempt) = running(&bench, 1).await;
    let output = noise(5_000_000);
    let request = pb::LogsRequest { project: project.to_string(), follow: true, ..Default::default() };
    let not_yet = crate::logs::logs(&bench, pb::LogsRequest { follow: false, ..request.clone() }).await;
    check_refused(
        not_yet,
        Code::FailedPrecondition,
        "attempt 1 of task 0 of project 1 has not ended yet: follow it",
    );
    let mut follower = within(bench.projects().logs(request)).await.unwrap().into_inner();

    let mut upload = Upload::open(&bench, attempt, OutputStream::Stdout).await.unwrap();
    upload.ack().await.unwrap();
    let mut offset = 0;
    for chunk in output[..4_500_000].chunks(CHUNK) {
        upload.send(offset, chunk, false).await;
        offset += chunk.len();
    }
    // It comes before the attempt has ended.
    let mut stdout = Vec::new();
    while stdout.is_empty() {
        stdout.extend_from_slice(&within(follower.message()).await.unwrap().unwrap().data);
    }
    for chunk in output[4_500_000..].chunks(CHUNK) {
        upload.send(offset, chunk, offset + chunk.len() == output.len()).await;
        offset += chunk.len();
    }
    while !upload.ack().await.unwrap().complete {}
    agent.report(pb::Report { stdout: stored(&output), ..report(attempt, 0, b"") }).await;
    let mut stderr = Vec::new();
    while let Some(chunk) = within(follower.message()).await.unwrap() {
        match chunk.stream() {
            OutputStream::Stdout => stdout.extend_from_slice(&chunk.data),
            _ => stderr.extend_from_slice(&chunk.data),
        }
    }
    assert_eq!(sha256(&stdout), sha256(&output));
    assert_eq!(stderr, b"a complaint\n");
}
