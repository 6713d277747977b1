//! A coordinator on a Unix socket. A test holds each session in its hand; uploads, stdin and files are served by
//! themselves, and can be made to break.

use bytes::Bytes;
use piecework_agent::{
    domain::{AttemptKey, Phase, Report},
    wire::{attempt_from_proto, attempt_to_proto, report_from_proto},
};
use piecework_proto::v1::{
    self, InputChunk, OutputAck, OutputChunk,
    agent_message::Message as FromAgent,
    agent_session_server::{AgentSession, AgentSessionServer},
    coordinator_message::Message as ToAgent,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// How long a test waits for what must come.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// How many slots the agents have.
pub(crate) const SLOTS: u32 = 4;

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An attempt and 1 for stdout, 2 for stderr.
pub(crate) type OutputName = (AttemptKey, i32);

/// What is behind the bulk calls.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    pub(crate) outputs: BTreeMap<OutputName, Vec<u8>>,
    pub(crate) complete: Vec<OutputName>,
    /// How many calls each output has had: only the last may go on.
    takers: BTreeMap<OutputName, u32>,
    pub(crate) unwanted: Vec<AttemptKey>,
    /// Their uploads are refused for good.
    pub(crate) refused: Vec<AttemptKey>,
    pub(crate) stdin: BTreeMap<AttemptKey, Vec<u8>>,
    /// No stdin is to be had for now.
    pub(crate) stdin_stalls: bool,
    pub(crate) blobs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The next calls break after so many more bytes.
    pub(crate) breaks: Vec<usize>,
    /// How often each call was made.
    pub(crate) calls: BTreeMap<&'static str, usize>,
}

#[derive(Clone)]
struct Service {
    sessions: mpsc::Sender<Session>,
    bulk: Arc<Mutex<Bulk>>,
}

/// The coordinator.
pub(crate) struct Coordinator {
    pub(crate) socket: PathBuf,
    pub(crate) bulk: Arc<Mutex<Bulk>>,
    sessions: mpsc::Receiver<Session>,
    service: Service,
    server: JoinHandle<()>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Coordinator {
    pub(crate) fn start(dir: &Path) -> Self {
        let (sender, sessions) = mpsc::channel(16);
        let bulk = Arc::new(Mutex::new(Bulk::default()));
        let service = Service { sessions: sender, bulk: bulk.clone() };
        let socket = dir.join("server.sock");
        let server = serve(&socket, service.clone());
        Self { socket, bulk, sessions, service, server }
    }

    /// It dies.
    pub(crate) async fn stop(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
        std::fs::remove_file(&self.socket).expect("removes the socket");
    }

    /// It is back.
    pub(crate) fn restart(&mut self) {
        self.server = serve(&self.socket, self.service.clone());
    }

    /// The next session, in which the agent has said Hello.
    pub(crate) async fn session(&mut self) -> Session {
        timeout(WAIT, self.sessions.recv()).await.expect("a session in time").expect("the server runs")
    }

    /// The next session, welcomed and after its first credits.
    pub(crate) async fn welcomed(&mut self, epoch: u64) -> Session {
        let mut session = self.session().await;
        session.welcome(epoch, &[]).await;
        assert!(session.credits().await.0 > 0);
        session
    }

    pub(crate) fn bulk(&self) -> std::sync::MutexGuard<'_, Bulk> {
        self.bulk.lock().expect("not poisoned")
    }
}

fn serve(socket: &Path, service: Service) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("binds");
    let server = Server::builder().add_service(AgentSessionServer::new(service));
    tokio::spawn(async move {
        server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serves");
    })
}

/// One session. Dropped, it is cut.
pub(crate) struct Session {
    pub(crate) hello: v1::Hello,
    incoming: Streaming<v1::AgentMessage>,
    outgoing: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
    sent: u64,
    heard: u64,
}

impl Session {
    pub(crate) fn live(&self) -> Vec<AttemptKey> {
        keys(&self.hello.live)
    }

    pub(crate) fn unrecorded(&self) -> Vec<AttemptKey> {
        keys(&self.hello.unrecorded)
    }

    async fn send(&mut self, message: ToAgent) {
        self.sent += 1;
        let message = v1::CoordinatorMessage { seq: self.sent, message: Some(message) };
        self.outgoing.send(Ok(message)).await.expect("the agent listens");
    }

    /// Heartbeats are seldom, so that they don't get in the way.
    pub(crate) async fn welcome(&mut self, session_epoch: u64, discard: &[AttemptKey]) {
        let discard = discard.iter().copied().map(attempt_to_proto).collect();
        self.send_welcome(session_epoch, 600_000, discard).await;
    }

    pub(crate) async fn welcome_with_heartbeats(&mut self, session_epoch: u64, heartbeat_millis: u32) {
        self.send_welcome(session_epoch, heartbeat_millis, vec![]).await;
    }

    async fn send_welcome(
        &mut self,
        session_epoch: u64,
        heartbeat_millis: u32,
        discard: Vec<v1::AttemptKey>,
    ) {
        self.send(ToAgent::Welcome(v1::Welcome {
            coordinator_epoch: 1,
            session_epoch,
            heartbeat_millis,
            lease_millis: 1_800_000,
            discard,
        }))
        .await;
    }

    pub(crate) async fn assign(&mut self, specs: Vec<v1::RunSpec>, attempts: &[(AttemptKey, &[&str])]) {
        let assignments = attempts
            .iter()
            .map(|(attempt, command)| v1::Assignment {
                attempt: Some(attempt_to_proto(*attempt)),
                command: command.iter().map(ToString::to_string).collect(),
                ..v1::Assignment::default()
            })
            .collect();
        self.send(ToAgent::Assign(v1::Assign { run_specs: specs, assignments })).await;
    }

    pub(crate) async fn settle(&mut self, attempts: &[AttemptKey]) {
        let attempts = attempts.iter().copied().map(attempt_to_proto).collect();
        self.send(ToAgent::Settled(v1::Settled { attempts })).await;
    }

    pub(crate) async fn cancel(&mut self, attempt: AttemptKey) {
        let attempts = vec![attempt_to_proto(attempt)];
        self.send(ToAgent::Cancel(v1::CancelAttempts { attempts })).await;
    }

    /// The next message, but for credits beyond the slots, which come and go with how fast attempts end.
    pub(crate) async fn next(&mut self) -> FromAgent {
        loop {
            match self.next_of_all().await {
                FromAgent::Credits(credits) if credits.attempts_max > SLOTS => {}
                message => return message,
            }
        }
    }

    async fn next_of_all(&mut self) -> FromAgent {
        let message = timeout(WAIT, self.incoming.message()).await.expect("a message in time");
        let message = message.expect("no error").expect("the stream goes on");
        self.heard += 1;
        assert_eq!(message.seq, self.heard);
        message.message.expect("it says something")
    }

    /// Those for the slots.
    pub(crate) async fn credits(&mut self) -> (u32, String) {
        match self.next_of_all().await {
            FromAgent::Credits(credits) => (credits.attempts_max.min(SLOTS), credits.not_ready),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn reports(&mut self) -> Vec<Report> {
        match self.next().await {
            FromAgent::Reports(reports) => {
                reports.reports.into_iter().map(|report| report_from_proto(report).expect("right")).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next message is one report.
    pub(crate) async fn report(&mut self) -> Report {
        let mut reports = self.reports().await;
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports.remove(0)
    }

    pub(crate) async fn returned(&mut self) -> Vec<AttemptKey> {
        match self.next().await {
            FromAgent::Returned(returned) => keys(&returned.attempts),
            other => panic!("{other:?}"),
        }
    }

    /// The agent ends the stream.
    pub(crate) async fn ended(&mut self) {
        let end = timeout(WAIT, self.incoming.message()).await.expect("an end in time");
        assert!(matches!(end, Ok(None)), "{end:?}");
    }
}

fn keys(keys: &[v1::AttemptKey]) -> Vec<AttemptKey> {
    keys.iter().map(|key| attempt_from_proto(Some(*key)).expect("a key")).collect()
}

#[tonic::async_trait]
impl AgentSession for Service {
    type SessionStream = Answer<v1::CoordinatorMessage>;
    type UploadOutputStream = Answer<OutputAck>;
    type ReadInputStream = Answer<InputChunk>;
    type ReadBlobStream = Answer<InputChunk>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.ok_or_else(|| Status::aborted("no Hello"))?;
        let Some(FromAgent::Hello(hello)) = first.message else {
            return Err(Status::failed_precondition("the first message is not Hello"));
        };
        assert_eq!(first.seq, 1);
        let (outgoing, receiver) = mpsc::channel(64);
        let session = Session { hello, incoming, outgoing, sent: 0, heard: 1 };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn upload_output(
        &self,
        request: Request<Streaming<OutputChunk>>,
    ) -> Result<Response<Self::UploadOutputStream>, Status> {
        let (acks, receiver) = mpsc::channel(64);
        let bulk = self.bulk.clone();
        tokio::spawn(async move {
            if let Err(status) = take_output(&bulk, request.into_inner(), &acks).await {
                let _ = acks.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn read_input(
        &self,
        request: Request<v1::ReadInputRequest>,
    ) -> Result<Response<Self::ReadInputStream>, Status> {
        let request = request.into_inner();
        let attempt = attempt_from_proto(request.attempt)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut bulk = self.bulk.lock().expect("not poisoned");
        if bulk.stdin_stalls {
            return Err(Status::unavailable("the test says so"));
        }
        let broken = bulk.begin("ReadInput");
        let stdin = match bulk.stdin.get(&attempt) {
            Some(stdin) => &stdin[..],
            None if attempt.phase == Phase::Task => &[],
            None => return Err(Status::not_found("no such stdin")),
        };
        let offset = usize::try_from(request.offset).expect("fits");
        Ok(Response::new(chunks(&stdin[offset..], broken)))
    }

    async fn read_blob(
        &self,
        request: Request<v1::ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        let mut bulk = self.bulk.lock().expect("not poisoned");
        let broken = bulk.begin("ReadBlob");
        let sha256 = request.into_inner().sha256;
        let blob = bulk.blobs.get(&sha256).ok_or_else(|| Status::not_found("no such file"))?;
        Ok(Response::new(chunks(blob, broken)))
    }

    async fn enrol(&self, _: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        Err(Status::unimplemented("nobody joins over a socket"))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        Err(Status::unimplemented("nobody joins over a socket"))
    }
}

impl Bulk {
    fn begin(&mut self, call: &'static str) -> Option<usize> {
        *self.calls.entry(call).or_default() += 1;
        if self.breaks.is_empty() { None } else { Some(self.breaks.remove(0)) }
    }
}

/// The bytes in chunks, which break off after so many.
fn chunks(bytes: &[u8], broken: Option<usize>) -> Answer<InputChunk> {
    let end = broken.unwrap_or(bytes.len()).min(bytes.len());
    let mut chunks: Vec<_> = bytes[..end]
        .chunks(100_000)
        .map(|chunk| Ok(InputChunk { data: Bytes::copy_from_slice(chunk) }))
        .collect();
    if broken.is_some() {
        chunks.push(Err(Status::unavailable("the test says so")));
    }
    Box::pin(tokio_stream::iter(chunks))
}

async fn take_output(
    bulk: &Mutex<Bulk>,
    mut chunks: Streaming<OutputChunk>,
    acks: &mpsc::Sender<Result<OutputAck, Status>>,
) -> Result<(), Status> {
    let first = chunks.message().await?.ok_or_else(|| Status::aborted("no first message"))?;
    assert!(first.data.is_empty() && !first.end, "the first message carries nothing");
    let attempt = attempt_from_proto(first.attempt).expect("a key");
    let name = (attempt, first.stream);
    let (ack, taker, mut broken) = {
        let mut bulk = bulk.lock().expect("not poisoned");
        let broken = bulk.begin("UploadOutput");
        if bulk.refused.contains(&attempt) {
            return Err(Status::invalid_argument("the test refuses it"));
        }
        let taker = bulk.takers.entry(name).or_default();
        *taker += 1;
        let taker = *taker;
        let ack = OutputAck {
            durable_offset: bulk.outputs.entry(name).or_default().len() as u64,
            complete: bulk.complete.contains(&name),
            unwanted: bulk.unwanted.contains(&attempt),
        };
        (ack, taker, broken)
    };
    let _ = acks.send(Ok(ack)).await;
    while let Some(chunk) = chunks.next().await.transpose()? {
        if let Some(left) = broken.as_mut() {
            if *left < chunk.data.len() {
                return Err(Status::unavailable("the test says so"));
            }
            *left -= chunk.data.len();
        }
        let durable_offset = {
            let mut bulk = bulk.lock().expect("not poisoned");
            if bulk.takers[&name] != taker {
                return Err(Status::aborted("a newer call has taken over"));
            }
            let output = bulk.outputs.entry(name).or_default();
            assert_eq!(chunk.offset, output.len() as u64, "no gap");
            output.extend_from_slice(&chunk.data);
            let length = output.len() as u64;
            if chunk.end {
                bulk.complete.push(name);
            }
            length
        };
        let ack = OutputAck { durable_offset, complete: chunk.end, unwanted: false };
        let _ = acks.send(Ok(ack)).await;
    }
    Ok(())
}
