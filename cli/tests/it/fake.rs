//! A coordinator that does what a test tells it, behind a real socket: it keeps what is submitted, and breaks streams and
//! restarts where the test wants it.

use piecework_proto::v1::{
    self,
    agents_server::{Agents, AgentsServer},
    projects_server::{Projects, ProjectsServer},
    submit_request::Part,
};
use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};
use tokio::{net::UnixListener, runtime::Runtime, sync::watch};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

type Streamed<T> = Result<Response<Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>>, Status>;

/// What one submission carried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) key: String,
    pub(crate) spec: v1::ProjectSpec,
    pub(crate) items: Vec<v1::Item>,
    /// How many items each message had.
    pub(crate) chunks: Vec<usize>,
    pub(crate) files: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Received {
    /// Whether everything is there that the specification names.
    fn is_complete(&self) -> bool {
        use v1::{image_spec::Image, item_source::Source};
        let items = match self.spec.items.as_ref().and_then(|items| items.source.as_ref()) {
            Some(Source::List(list)) => list.count as usize,
            _ => 0,
        };
        let files = match self.spec.image.as_ref().and_then(|image| image.image.as_ref()) {
            Some(Image::Build(build)) => &build.files[..],
            _ => &[],
        };
        let is_there = |file: &v1::ImageFile| {
            self.files.get(&file.sha256).is_some_and(|bytes| bytes.len() as u64 == file.length)
        };
        // Without a header it names nothing, and nothing of it has come.
        let has_header = self.spec != v1::ProjectSpec::default();
        has_header && self.items.len() == items && files.iter().all(is_there)
    }
}

/// What the coordinator knows, and what it is told to do wrong.
#[derive(Debug)]
pub(crate) struct State {
    /// Every complete submission, also repeated ones.
    pub(crate) received: Vec<Received>,
    /// This many submissions are taken, and then answered with UNAVAILABLE.
    pub(crate) unanswered: usize,
    /// Submissions are taken, but not answered while this holds.
    pub(crate) holds_answers: bool,
    /// Refuses submissions with this.
    pub(crate) refuse: Option<Status>,
    /// What project 1 and later ones are.
    pub(crate) project: v1::Project,
    /// Whether the project ends only when it is cancelled.
    pub(crate) until_cancelled: bool,
    /// The result, in the chunks in which it is sent.
    pub(crate) result: Vec<Vec<u8>>,
    /// What is watched between the first and the last project.
    pub(crate) attempts: Vec<v1::AttemptEnded>,
    /// After how many messages each next stream breaks; a stream beyond these does not.
    pub(crate) breaks: VecDeque<usize>,
    /// The cursors that streams were opened with.
    pub(crate) cursors: Vec<String>,
    pub(crate) tasks: Vec<v1::Task>,
    pub(crate) logs: Vec<v1::LogsChunk>,
    pub(crate) agents: Vec<v1::Agent>,
    /// Tasks that were added, by key, with their item.
    pub(crate) added: Vec<(String, String)>,
}

/// A project that has ended well, with one task.
pub(crate) fn project(state: v1::ProjectState) -> v1::Project {
    v1::Project {
        id: 1,
        spec: Some(v1::ProjectSpec { name: "hello".to_owned(), weight: 1, ..v1::ProjectSpec::default() }),
        state: i32::from(state),
        tasks: 2,
        succeeded: 2,
        created_millis: 1_700_000_000_000,
        ended_millis: 1_700_000_002_500,
        generation: 1,
        ..v1::Project::default()
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            received: Vec::new(),
            unanswered: 0,
            holds_answers: false,
            refuse: None,
            project: project(v1::ProjectState::Succeeded),
            until_cancelled: false,
            result: vec![b"one\n".to_vec(), b"two\n".to_vec()],
            attempts: Vec::new(),
            breaks: VecDeque::new(),
            cursors: Vec::new(),
            tasks: Vec::new(),
            logs: Vec::new(),
            agents: Vec::new(),
            added: Vec::new(),
        }
    }
}

/// A running coordinator.
pub(crate) struct Fake {
    dir: tempfile::TempDir,
    service: Service,
    serving: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    cancelled: Arc<watch::Sender<bool>>,
}

impl Fake {
    pub(crate) fn start(state: State) -> Self {
        let service =
            Service { state: Arc::new(Mutex::new(state)), cancelled: Arc::new(watch::channel(false).0) };
        let mut fake = Self { dir: tempfile::tempdir().unwrap(), service, serving: None };
        fake.serve();
        fake
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("piecework.sock")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.service.state.lock().unwrap())
    }

    /// Waits until the state is as expected.
    pub(crate) async fn wait_for(&self, expected: impl Fn(&State) -> bool) {
        let seen = async {
            while !self.with(|state| expected(state)) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), seen).await.expect("the state never came");
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        *self.service.cancelled.borrow()
    }

    /// Goes away as if killed: connections break, and the socket is left over.
    pub(crate) fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown_background();
        }
    }

    /// Listens, with all that it knew. On a runtime of its own, so that all its connections can die at once.
    pub(crate) fn serve(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(self.socket()).unwrap()
        };
        let served = Server::builder()
            .add_service(ProjectsServer::new(self.service.clone()))
            .add_service(AgentsServer::new(self.service.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(served);
        self.serving = Some(runtime);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Service {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn find(&self, project: &str) -> Result<v1::Project, Status> {
        let found = self.state().project.clone();
        match (project, project.parse::<u64>()) {
            ("hello", _) => Ok(found),
            (_, Ok(id @ 1..=9)) => Ok(v1::Project { id, ..found }),
            (other, _) => Err(Status::not_found(format!("there is no project {other}"))),
        }
    }

    /// A stream of messages from a cursor on, cut where the test wants it. The last message is sent when the project ends.
    fn stream<T: Send + 'static>(&self, cursor: &str, messages: Vec<T>) -> Streamed<T> {
        let mut state = self.state();
        state.cursors.push(cursor.to_owned());
        let from: usize = cursor.parse().unwrap_or(0);
        let (until, breaks) = match state.breaks.pop_front() {
            Some(after) => (messages.len().min(from + after), true),
            None => (messages.len(), false),
        };
        let last = messages.len() - 1;
        let (until_cancelled, cancelled) = (state.until_cancelled, self.cancelled.subscribe());
        let waited = move |n: usize| until_cancelled && n == last;
        let messages: Vec<(usize, T)> = messages.into_iter().enumerate().take(until).skip(from).collect();
        let stream = async_stream(messages, breaks, move |n| {
            let mut cancelled = cancelled.clone();
            let waits = waited(n);
            async move {
                if waits {
                    let _ = cancelled.wait_for(|cancelled| *cancelled).await;
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// The messages one after the other, each after what it waits for, and a broken end if it is to break.
fn async_stream<T: Send + 'static, F: Future<Output = ()> + Send + 'static>(
    messages: Vec<(usize, T)>,
    breaks: bool,
    before: impl Fn(usize) -> F + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for (n, message) in messages {
            before(n).await;
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if breaks {
            let _ = sender.send(Err(Status::unavailable("the coordinator is stopping"))).await;
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

#[tonic::async_trait]
impl Projects for Service {
    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        if let Some(status) = self.state().refuse.clone() {
            return Err(status);
        }
        let mut stream = request.into_inner();
        let mut received = Received::default();
        while let Some(message) = stream.message().await? {
            match message.part {
                Some(Part::Header(header)) => {
                    received.key = header.idempotency_key;
                    received.spec = header.spec.unwrap_or_default();
                }
                Some(Part::Items(chunk)) => {
                    received.chunks.push(chunk.items.len());
                    received.items.extend(chunk.items);
                }
                Some(Part::Blob(blob)) => received.files.entry(blob.sha256).or_default().extend(blob.data),
                None => return Err(Status::invalid_argument("empty message")),
            }
        }
        if !received.is_complete() {
            // A call that the client gives up looks just like one that has ended.
            return Err(Status::invalid_argument("the submission is not complete"));
        }
        let known = self.state().received.iter().any(|earlier| earlier.key == received.key);
        self.state().received.push(received);
        while self.state().holds_answers {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let mut state = self.state();
        if state.unanswered > 0 {
            state.unanswered -= 1;
            return Err(Status::unavailable("the coordinator is stopping"));
        }
        let keys: std::collections::BTreeSet<&str> =
            state.received.iter().map(|received| received.key.as_str()).collect();
        let id = keys.len() as u64;
        Ok(Response::new(v1::SubmitResponse {
            project: Some(v1::Project { id, ..state.project.clone() }),
            existed: known,
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let project = self.find("1")?;
        let ended = project.ended_millis > 0;
        let projects = if request.into_inner().active_only && ended { Vec::new() } else { vec![project] };
        Ok(Response::new(v1::ListProjectsResponse { projects, more: false }))
    }

    async fn get(&self, request: Request<v1::GetProjectRequest>) -> Result<Response<v1::Project>, Status> {
        let mut project = self.find(&request.into_inner().project)?;
        if self.state().until_cancelled && !*self.cancelled.borrow() {
            project.state = i32::from(v1::ProjectState::Running);
        }
        Ok(Response::new(project))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        /// Fewer than anybody asks for, which a coordinator may answer at any time.
        const PAGE: usize = 2;
        let after = request.into_inner().after;
        let later = |task: &&v1::Task| after.is_none_or(|after| task.key.unwrap().index > after.index);
        let mut tasks: Vec<v1::Task> = self.state().tasks.iter().filter(later).cloned().collect();
        let more = tasks.len() > PAGE;
        tasks.truncate(PAGE);
        Ok(Response::new(v1::ListTasksResponse { tasks, more }))
    }

    async fn add_tasks(
        &self,
        request: Request<v1::AddTasksRequest>,
    ) -> Result<Response<v1::AddTasksResponse>, Status> {
        let request = request.into_inner();
        let project = self.find(&request.project)?;
        let mut state = self.state();
        if let Some(status) = state.refuse.clone() {
            return Err(status);
        }
        let mut tasks = Vec::new();
        for task in request.tasks {
            let known = state.added.iter().position(|(key, _)| *key == task.key);
            tasks.push(v1::AddedTask {
                index: known.unwrap_or(state.added.len()) as u32,
                existed: known.is_some(),
            });
            if known.is_none() {
                state.added.push((task.key, task.item.unwrap_or_default().text));
            }
        }
        if state.unanswered > 0 {
            state.unanswered -= 1;
            return Err(Status::unavailable("the coordinator is stopping"));
        }
        state.project.open &= !request.end;
        let project = v1::Project { open: state.project.open, ..project };
        Ok(Response::new(v1::AddTasksResponse { tasks, project: Some(project) }))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let project = self.find(&request.into_inner().project)?;
        self.cancelled.send_replace(true);
        Ok(Response::new(project))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Streamed<v1::WatchEvent> {
        use v1::watch_event::Event;
        let request = request.into_inner();
        let last = self.find(&request.project)?;
        let running = v1::Project {
            state: i32::from(v1::ProjectState::Running),
            succeeded: 0,
            failed: 0,
            ended_millis: 0,
            message: String::new(),
            ..last.clone()
        };
        let attempts = self.state().attempts.clone();
        let events = std::iter::once(Event::Project(running))
            .chain(
                attempts
                    .into_iter()
                    .map(|attempt| Event::AttemptsEnded(v1::AttemptsEnded { attempts: vec![attempt] })),
            )
            .chain([Event::Project(last)]);
        let numbered = events
            .enumerate()
            .map(|(n, event)| v1::WatchEvent { cursor: (n + 1).to_string(), event: Some(event) })
            .collect();
        self.stream(&request.cursor, numbered)
    }

    type ResultsStream = Pin<Box<dyn Stream<Item = Result<v1::ResultsChunk, Status>> + Send>>;

    async fn results(&self, request: Request<v1::ResultsRequest>) -> Streamed<v1::ResultsChunk> {
        let request = request.into_inner();
        let project = self.find(&request.project)?;
        let mut chunks: Vec<v1::ResultsChunk> = self
            .state()
            .result
            .iter()
            .enumerate()
            .map(|(n, data)| v1::ResultsChunk {
                cursor: (n + 1).to_string(),
                data: data.clone().into(),
                end: None,
            })
            .collect();
        chunks.push(v1::ResultsChunk { end: Some(project), ..v1::ResultsChunk::default() });
        self.stream(&request.cursor, chunks)
    }

    type LogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogsChunk, Status>> + Send>>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Streamed<v1::LogsChunk> {
        let request = request.into_inner();
        self.find(&request.project)?;
        let wanted =
            |chunk: &v1::LogsChunk| request.streams.is_empty() || request.streams.contains(&chunk.stream);
        let logs: Vec<_> = self.state().logs.iter().filter(|chunk| wanted(chunk)).cloned().map(Ok).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(logs))))
    }
}

#[tonic::async_trait]
impl Agents for Service {
    async fn list(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        Ok(Response::new(v1::ListAgentsResponse { agents: self.state().agents.clone() }))
    }
    async fn get(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        let name = request.into_inner().name;
        let found = self.state().agents.iter().find(|agent| agent.name == name).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("there is no agent {name}")))
    }

    async fn drain(&self, request: Request<v1::DrainAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        Agents::get(self, Request::new(v1::GetAgentRequest { name: request.into_inner().name })).await
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        Agents::get(self, Request::new(v1::GetAgentRequest { name: request.into_inner().name })).await
    }

    async fn remove(
        &self,
        _: Request<v1::RemoveAgentRequest>,
    ) -> Result<Response<v1::RemoveAgentResponse>, Status> {
        Err(Status::failed_precondition("agent here holds 1 attempt"))
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        Err(Status::failed_precondition("this coordinator listens on its socket alone"))
    }

    async fn list_join_tokens(
        &self,
        _: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        Ok(Response::new(v1::ListJoinTokensResponse::default()))
    }

    async fn remove_join_token(
        &self,
        _: Request<v1::RemoveJoinTokenRequest>,
    ) -> Result<Response<v1::RemoveJoinTokenResponse>, Status> {
        Err(Status::not_found("there is no such token"))
    }
}
