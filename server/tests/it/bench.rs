//! A coordinator in a temporary directory, clients for it, and specifications to submit.

use piecework_proto::v1::{
    self as pb, admin_client::AdminClient, agent_session_client::AgentSessionClient,
    agents_client::AgentsClient, image_spec::Image, item_source::Source, projects_client::ProjectsClient,
    reassemble_spec::How, submit_request::Part,
};
use piecework_server::{Server, ServerConfig};
use sha2::{Digest as _, Sha256};
use std::{path::Path, time::Duration};
use tempfile::TempDir;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// Longer than anything here takes on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough that no lease ends by accident.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// Waits for something that must come.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes in time")
}

/// A running coordinator.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    server: Option<Server>,
    pub(crate) channel: Channel,
}

pub(crate) fn config(data: &Path) -> ServerConfig {
    ServerConfig { lease: LEASE, ..ServerConfig::new(data.to_owned()) }
}

pub(crate) async fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    endpoint.connect().await.unwrap()
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With a configuration that differs in something.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        let channel = channel(server.socket()).await;
        Self { dir, server: Some(server), channel }
    }

    /// Stops the coordinator, and starts another one on the same data.
    pub(crate) async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    /// With a configuration that differs in something.
    pub(crate) async fn restart_with(&mut self, change: impl FnOnce(&mut ServerConfig)) {
        within(self.server.take().unwrap().shutdown()).await;
        let mut config = config(self.dir.path());
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        self.channel = channel(server.socket()).await;
        self.server = Some(server);
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(crate) async fn shutdown(mut self) -> TempDir {
        within(self.server.take().unwrap().shutdown()).await;
        self.dir
    }

    pub(crate) fn projects(&self) -> ProjectsClient<Channel> {
        ProjectsClient::new(self.channel.clone())
    }

    pub(crate) fn agents(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    pub(crate) fn sessions(&self) -> AgentSessionClient<Channel> {
        AgentSessionClient::new(self.channel.clone())
    }

    pub(crate) async fn submit(&self, parts: Vec<pb::SubmitRequest>) -> Result<pb::SubmitResponse, Status> {
        let answer = within(self.projects().submit(tokio_stream::iter(parts))).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Submits what must be accepted; returns its number.
    pub(crate) async fn submit_good(&self, spec: pb::ProjectSpec) -> u64 {
        let answer = self.submit(vec![header("", spec)]).await.unwrap();
        assert!(!answer.existed);
        answer.project.unwrap().id
    }

    pub(crate) async fn get(&self, project: &str) -> Result<pb::Project, Status> {
        let request = pb::GetProjectRequest { project: project.to_owned() };
        within(self.projects().get(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn list(&self) -> Vec<u64> {
        let answer = within(self.projects().list(pb::ListProjectsRequest::default())).await.unwrap();
        answer.into_inner().projects.iter().map(|project| project.id).collect()
    }
}

/// `echo {item}` over the integers from 1 on.
pub(crate) fn spec(last: i64) -> pb::ProjectSpec {
    pb::ProjectSpec {
        name: "test".to_owned(),
        image: Some(pb::ImageSpec { image: Some(Image::Reference("busybox".to_owned())) }),
        items: Some(pb::ItemSource {
            source: Some(Source::Range(pb::ItemRange { first: 1, last, step: 1 })),
        }),
        task: Some(task(&["echo", "{item}"])),
        reassemble: Some(built_in(pb::BuiltInReassemble::Concat)),
        ..Default::default()
    }
}

pub(crate) fn task(command: &[&str]) -> pb::TaskSpec {
    pb::TaskSpec { command: command.iter().map(ToString::to_string).collect(), ..Default::default() }
}

pub(crate) fn built_in(built_in: pb::BuiltInReassemble) -> pb::ReassembleSpec {
    pb::ReassembleSpec { how: Some(How::BuiltIn(built_in.into())) }
}

/// The same over a list of items.
pub(crate) fn list_spec(count: u32) -> pb::ProjectSpec {
    let source = Source::List(pb::ItemList { count });
    pb::ProjectSpec { items: Some(pb::ItemSource { source: Some(source) }), ..spec(1) }
}

pub(crate) fn header(key: &str, spec: pb::ProjectSpec) -> pb::SubmitRequest {
    let header = pb::SubmitHeader { idempotency_key: key.to_owned(), spec: Some(spec) };
    pb::SubmitRequest { part: Some(Part::Header(header)) }
}

pub(crate) fn items(texts: &[&str]) -> pb::SubmitRequest {
    let item = |text: &&str| pb::Item { text: (*text).to_owned(), ..Default::default() };
    pb::SubmitRequest { part: Some(Part::Items(pb::ItemChunk { items: texts.iter().map(item).collect() })) }
}

pub(crate) fn blob(contents: &[u8], data: &[u8], last: bool) -> pb::SubmitRequest {
    let chunk = pb::BlobChunk { sha256: sha256(contents), data: data.to_vec().into(), last };
    pb::SubmitRequest { part: Some(Part::Blob(chunk)) }
}

pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// Checks a refusal: its code, and a part of its message.
#[track_caller]
pub(crate) fn check_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, part: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(part), "{part:?} in {status}");
}

/// Checks the refusal of one field, in words and in details.
#[track_caller]
pub(crate) fn check_bad_field<T: std::fmt::Debug>(result: Result<T, Status>, field: &str, part: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(part), "{part:?} in {status}");
    let fields: Vec<_> =
        status.get_details_bad_request().unwrap().field_violations.into_iter().map(|one| one.field).collect();
    assert_eq!(fields, [field], "{status}");
}
