//! A submission: header, items and files in; a durable project out; on any failure nothing at all.
//!
//! ```text
//!  header ─▶ validate ─▶ begin ─▶ items, files ─▶ all there? ─▶ driver: project durable ─▶ answer
//!                          └─ anything fails, or the client vanishes ─▶ abandon
//! ```

use super::super::{Context, limits, status};
use crate::{
    coordinator::NewProject,
    domain::{ImageFile, ImageSpec, Item, ItemSource, Phase, Project, ProjectId, ProjectSpec, Stdin},
    output::{BlobUpload, OutputError, Outputs},
    plan::{self, CommandTemplate},
    store::{Begun, Store},
    wire,
};
use piecework_proto::v1::{self as pb, submit_request::Part};
use prost::Message;
use std::{collections::HashMap, sync::Arc};
use tonic::{Code, Status, Streaming};

type Digest = [u8; 32];

/// Takes a whole submission.
pub(super) async fn submit(
    context: &Context,
    mut parts: Streaming<pb::SubmitRequest>,
) -> Result<pb::SubmitResponse, Status> {
    let Some(Part::Header(header)) = next_part(context, &mut parts).await? else {
        return Err(status::bad_field("header", "missing: the first message of a submission is its header"));
    };
    let (key, spec) = parse_header(header)?;
    let draft = match begin(context, key).await? {
        Opened::Draft(draft) => draft,
        Opened::Existing(project) if project.spec == spec => return Ok(answer(&project, true)),
        Opened::Existing(project) => {
            return Err(Status::already_exists(format!(
                "the idempotency key belongs to project {}, which is another one: use a new key",
                project.id
            )));
        }
    };
    let mut items = Items::new(context.store.clone(), draft.project, &spec);
    let mut files = Files::new(context.outputs.clone(), &spec);
    while let Some(part) = next_part(context, &mut parts).await? {
        match part {
            Part::Header(_) => return Err(status::bad_field("header", "only the first message is a header")),
            Part::Items(chunk) => items.take(chunk).await?,
            Part::Blob(chunk) => files.take(chunk).await?,
        }
    }
    files.finish().await?;
    items.finish().await?;
    let id = draft.complete(context, spec).await?;
    Ok(answer(&context.known_project(id).await?, false))
}

fn answer(project: &Project, existed: bool) -> pb::SubmitResponse {
    pb::SubmitResponse { project: Some(wire::project_to_proto(project)), existed }
}

async fn next_part(
    context: &Context,
    parts: &mut Streaming<pb::SubmitRequest>,
) -> Result<Option<Part>, Status> {
    let message = context.before(limits::SUBMIT_IDLE, "more of the submission", parts.message()).await?;
    match message {
        None => Ok(None),
        Some(pb::SubmitRequest { part: Some(part) }) => Ok(Some(part)),
        Some(pb::SubmitRequest { part: None }) => {
            Err(status::bad_field("part", "missing: a message carries a header, items, or bytes of a file"))
        }
    }
}

fn parse_header(header: pb::SubmitHeader) -> Result<(String, Arc<ProjectSpec>), Status> {
    let pb::SubmitHeader { idempotency_key: key, spec } = header;
    if key.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX {
        let max = limits::IDEMPOTENCY_KEY_BYTES_MAX;
        return Err(status::bad_field("idempotency_key", format!("at most {max} bytes, not {}", key.len())));
    }
    let spec = spec.ok_or_else(|| status::bad_field("spec", "missing"))?;
    let bytes = spec.encoded_len();
    if bytes > limits::SPEC_BYTES_MAX {
        let max = limits::SPEC_BYTES_MAX;
        return Err(status::bad_field("spec", format!("at most {max} bytes without the items, not {bytes}")));
    }
    let spec = wire::spec(spec).map_err(status::wire)?;
    let spec = plan::validate(spec).map_err(|problems| status::problems(&problems))?;
    Ok((key, Arc::new(spec)))
}

/// What comes of beginning.
enum Opened {
    Draft(Box<Draft>),
    Existing(Box<Project>),
}

/// Begins in a task of its own: if the client vanishes meanwhile, this call is dropped, but what was begun comes out of
/// that task as a draft, and is abandoned.
async fn begin(context: &Context, key: String) -> Result<Opened, Status> {
    let shared = context.clone();
    let begun = context.tasks.spawn(async move {
        Ok(match shared.store.begin_submission(&key).await.map_err(status::store)? {
            Begun::New(project) => Opened::Draft(Box::new(Draft::new(&shared, project))),
            Begun::Existing(project) => Opened::Existing(project),
            Begun::UnderWay => {
                let message = "another submission with this idempotency key is under way: try again shortly";
                return Err(status::try_again(Code::Aborted, message));
            }
        })
    });
    begun.await.map_err(|error| status::internal("a submission crashed", &error))?
}

/// A submission that is not complete. Dropped before it is, it is abandoned.
struct Draft {
    project: ProjectId,
    context: Option<Context>,
    runtime: tokio::runtime::Handle,
}

impl Draft {
    fn new(context: &Context, project: ProjectId) -> Self {
        Self { project, context: Some(context.clone()), runtime: tokio::runtime::Handle::current() }
    }

    /// Makes it a project. Once asked, the driver is not to be interrupted: this goes on if the client vanishes.
    async fn complete(mut self, context: &Context, spec: Arc<ProjectSpec>) -> Result<ProjectId, Status> {
        let driver = context.driver.clone();
        let completed = context.tasks.spawn(async move {
            let tasks = plan::task_count(&spec);
            let project = NewProject { id: self.project, spec, tasks };
            driver.submit(project).await.map_err(status::driver)?;
            self.context = None;
            Ok(self.project)
        });
        completed.await.map_err(|error| status::internal("a submission crashed", &error))?
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(context) = self.context.take() else { return };
        let project = self.project;
        context.tasks.spawn_on(
            {
                let store = context.store.clone();
                let stop = context.stop.clone();
                async move {
                    tokio::select! {
                        () = abandon(store, project) => {}
                        // The next start removes it.
                        () = stop.cancelled() => {}
                    }
                }
            },
            &self.runtime,
        );
    }
}

async fn abandon(store: Arc<dyn Store>, project: ProjectId) {
    let mut pause = limits::ABANDON_PAUSE;
    for _ in 0..limits::ABANDON_TRIES_MAX {
        match store.abandon_submission(project).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%project, %error, "an abandoned submission can't be removed yet"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The items of a submission on their way into the store.
struct Items {
    store: Arc<dyn Store>,
    project: ProjectId,
    template: CommandTemplate,
    /// How many there are to be; none if the project does not take any.
    expected: Option<u32>,
    /// How many came.
    count: u32,
    /// Those that are not in the store yet.
    group: Vec<Item>,
    group_bytes: usize,
}

impl Items {
    fn new(store: Arc<dyn Store>, project: ProjectId, spec: &ProjectSpec) -> Self {
        let expected = match spec.items {
            ItemSource::List(count) => Some(count),
            ItemSource::Range { .. }
            | ItemSource::Matrix(_)
            | ItemSource::Split(_)
            | ItemSource::Open { .. } => None,
        };
        let template = CommandTemplate::new(spec, Phase::Task);
        Self { store, project, template, expected, count: 0, group: Vec::new(), group_bytes: 0 }
    }

    async fn take(&mut self, chunk: pb::ItemChunk) -> Result<(), Status> {
        let Some(expected) = self.expected else {
            return Err(status::bad_field(
                "items",
                "the project's items don't come from a list, so none can be sent",
            ));
        };
        for item in chunk.items {
            if self.count == expected {
                let message = format!("the header announces {expected} items, and more were sent");
                return Err(status::bad_field("items.list.count", message));
            }
            let item = wire::item(item);
            plan::check_item(&self.template, self.count, &item)
                .map_err(|problems| status::problems(&problems))?;
            self.count += 1;
            self.group_bytes += item.text.len() + item.args.iter().map(String::len).sum::<usize>();
            self.group.push(item);
            if self.group.len() == limits::ITEM_GROUP_MAX || self.group_bytes >= limits::ITEM_GROUP_BYTES_MAX
            {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Status> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        let Ok(length) = u32::try_from(group.len()) else { return Ok(()) };
        if length == 0 {
            return Ok(());
        }
        self.store.put_items(self.project, self.count - length, group).await.map_err(status::store)
    }

    async fn finish(mut self) -> Result<(), Status> {
        if let Some(expected) = self.expected
            && expected != self.count
        {
            let message = format!("the header announces {expected} items, and {} were sent", self.count);
            return Err(status::bad_field("items.list.count", message));
        }
        self.flush().await
    }
}

/// The files of a submission on their way into the bulk bytes.
struct Files {
    outputs: Outputs,
    /// By digest; several files may have the same contents.
    expected: HashMap<Digest, Expected>,
    open: Option<OpenFile>,
}

struct Expected {
    /// The field of the first file with these contents.
    field: String,
    path: String,
    length: u64,
    arrived: bool,
}

struct OpenFile {
    sha256: Digest,
    length: u64,
    /// None if the contents are known already: then these bytes are only counted.
    upload: Option<BlobUpload>,
}

impl Files {
    fn new(outputs: Outputs, spec: &ProjectSpec) -> Self {
        let files: &[ImageFile] = match &spec.image {
            ImageSpec::Build { files, .. } => files,
            ImageSpec::Reference(_) => &[],
        };
        let mut expected = HashMap::new();
        for (phase, field) in [(Phase::Split, "items.split.stdin.file"), (Phase::Task, "task.stdin.file")] {
            let stdin = spec.task_of(phase).and_then(|task| task.stdin.as_ref());
            if let Some(Stdin::File { sha256, length }) = stdin {
                expected.entry(*sha256).or_insert_with(|| Expected {
                    field: field.to_owned(),
                    path: "the stdin".to_owned(),
                    length: *length,
                    arrived: false,
                });
            }
        }
        for (n, file) in files.iter().enumerate() {
            expected.entry(file.sha256).or_insert_with(|| Expected {
                field: format!("image.build.files[{n}]"),
                path: file.path.clone(),
                length: file.length,
                arrived: false,
            });
        }
        Self { outputs, expected, open: None }
    }

    async fn take(&mut self, chunk: pb::BlobChunk) -> Result<(), Status> {
        let sha256 = wire::sha256("blob.sha256", &chunk.sha256).map_err(status::wire)?;
        let Some(expected) = self.expected.get_mut(&sha256) else {
            let message = format!("the project has no file with the SHA-256 {}", hex(&sha256));
            return Err(status::bad_field("blob.sha256", message));
        };
        let mut open = match self.open.take() {
            Some(open) if open.sha256 == sha256 => open,
            Some(open) => {
                let message =
                    format!("the file {} is not complete yet: send one after the other", hex(&open.sha256));
                return Err(status::bad_field("blob.sha256", message));
            }
            None => {
                let known = self.outputs.has_blob(sha256).await.map_err(status::output)?.is_some();
                let upload = match known {
                    true => None,
                    false => Some(self.outputs.upload_blob(sha256).await.map_err(status::output)?),
                };
                OpenFile { sha256, length: 0, upload }
            }
        };
        open.length += chunk.data.len() as u64;
        if open.length > expected.length || (chunk.last && open.length != expected.length) {
            return Err(wrong_length(expected, open.length));
        }
        if let Some(upload) = &mut open.upload {
            upload.write(chunk.data).await.map_err(|error| file_status(expected, error))?;
        }
        if chunk.last {
            if let Some(upload) = open.upload {
                upload.finish().await.map_err(|error| file_status(expected, error))?;
            }
            expected.arrived = true;
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    /// Every file has arrived, or is known.
    async fn finish(self) -> Result<(), Status> {
        if let Some(open) = self.open {
            let field = self.expected.get(&open.sha256).map_or("blob", |expected| &expected.field);
            return Err(status::bad_field(field, "the submission ended in the middle of this file"));
        }
        let mut missing = Vec::new();
        for (sha256, expected) in self.expected {
            if expected.arrived {
                continue;
            }
            match self.outputs.has_blob(sha256).await.map_err(status::output)? {
                Some(length) if length == expected.length => {}
                Some(length) => return Err(wrong_length(&expected, length)),
                None => missing.push((
                    expected.field,
                    format!(
                        "the contents of {} (SHA-256 {}) were not sent, and are not known",
                        expected.path,
                        hex(&sha256)
                    ),
                )),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort();
        Err(status::bad_fields(missing.into_iter()))
    }
}

fn wrong_length(expected: &Expected, got: u64) -> Status {
    let Expected { field, path, length, .. } = expected;
    status::bad_field(format!("{field}.length"), format!("{path} is to have {length} bytes, not {got}"))
}

fn file_status(expected: &Expected, error: OutputError) -> Status {
    match error {
        OutputError::Digest => status::bad_field(
            format!("{}.sha256", expected.field),
            format!("the contents that were sent for {} have another SHA-256", expected.path),
        ),
        error => status::output(error),
    }
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
