//! What a project is. Here only the form is checked; `plan` checks the sense.

use super::error::{WireError, WireErrorKind, Within, known, nonzero, sha256, unspecified};
use crate::domain::{
    AddedTask, BuiltIn, ClientKey, FailurePolicy, ImageFile, ImageSpec, Isolation, Item, ItemSource,
    LeaseLossPolicy, MatrixAxis, Network, NewTask, Placement, ProjectSpec, Reassemble, Resources, RetryOn,
    Stdin, TaskSpec,
};
use pb::{image_spec::Image, item_source::Source, reassemble_spec::How};
use piecework_proto::v1 as pb;

/// A project's specification.
///
/// # Errors
/// If something is missing or unknown.
pub fn spec(spec: pb::ProjectSpec) -> Result<ProjectSpec, WireError> {
    let required = |field: &'static str| move || WireError::missing(field);
    Ok(ProjectSpec {
        name: spec.name,
        image: image(spec.image.ok_or_else(required("image"))?).within("image")?,
        items: source(spec.items.ok_or_else(required("items"))?).within("items")?,
        task: task(spec.task.ok_or_else(required("task"))?).within("task")?,
        reassemble: reassemble(spec.reassemble.unwrap_or_default()).within("reassemble")?,
        on_failure: match known("on_failure", "FailurePolicy", spec.on_failure)? {
            pb::FailurePolicy::Unspecified | pb::FailurePolicy::Continue => FailurePolicy::Continue,
            pb::FailurePolicy::Stop => FailurePolicy::Stop,
            pb::FailurePolicy::Ignore => FailurePolicy::Ignore,
        },
        weight: spec.weight,
        max_parallel: nonzero(spec.max_parallel),
        placement: match known("placement", "Placement", spec.placement)? {
            pb::Placement::Unspecified | pb::Placement::Spread => Placement::Spread,
            pb::Placement::Pack => Placement::Pack,
        },
        on_lease_loss: match known("on_lease_loss", "LeaseLossPolicy", spec.on_lease_loss)? {
            pb::LeaseLossPolicy::Unspecified | pb::LeaseLossPolicy::Rerun => LeaseLossPolicy::Rerun,
            pb::LeaseLossPolicy::Stop => LeaseLossPolicy::Stop,
        },
    })
}

/// The same for the wire.
#[must_use]
pub fn spec_to_proto(spec: &ProjectSpec) -> pb::ProjectSpec {
    let on_failure = match spec.on_failure {
        FailurePolicy::Continue => pb::FailurePolicy::Continue,
        FailurePolicy::Stop => pb::FailurePolicy::Stop,
        FailurePolicy::Ignore => pb::FailurePolicy::Ignore,
    };
    let placement = match spec.placement {
        Placement::Spread => pb::Placement::Spread,
        Placement::Pack => pb::Placement::Pack,
    };
    let on_lease_loss = match spec.on_lease_loss {
        LeaseLossPolicy::Rerun => pb::LeaseLossPolicy::Rerun,
        LeaseLossPolicy::Stop => pb::LeaseLossPolicy::Stop,
    };
    pb::ProjectSpec {
        name: spec.name.clone(),
        image: Some(image_to_proto(&spec.image)),
        items: Some(source_to_proto(&spec.items)),
        task: Some(task_to_proto(&spec.task)),
        reassemble: Some(reassemble_to_proto(&spec.reassemble)),
        on_failure: on_failure.into(),
        weight: spec.weight,
        max_parallel: spec.max_parallel.unwrap_or_default(),
        placement: placement.into(),
        on_lease_loss: on_lease_loss.into(),
    }
}

fn source(source: pb::ItemSource) -> Result<ItemSource, WireError> {
    Ok(match source.source.ok_or_else(|| WireError::missing("source"))? {
        Source::List(list) => ItemSource::List(list.count),
        Source::Range(pb::ItemRange { first, last, step }) => ItemSource::Range { first, last, step },
        Source::Split(split) => ItemSource::Split(task(split).within("split")?),
        Source::Matrix(matrix) => {
            let axis = |axis: pb::MatrixAxis| MatrixAxis { name: axis.name, values: axis.values };
            ItemSource::Matrix(matrix.axes.into_iter().map(axis).collect())
        }
        Source::Open(open) => ItemSource::Open { idle_millis: nonzero(open.idle_millis) },
    })
}

fn source_to_proto(source: &ItemSource) -> pb::ItemSource {
    let source = match source {
        ItemSource::List(count) => Source::List(pb::ItemList { count: *count }),
        ItemSource::Range { first, last, step } => {
            Source::Range(pb::ItemRange { first: *first, last: *last, step: *step })
        }
        ItemSource::Split(split) => Source::Split(task_to_proto(split)),
        ItemSource::Matrix(axes) => {
            let axis =
                |axis: &MatrixAxis| pb::MatrixAxis { name: axis.name.clone(), values: axis.values.clone() };
            Source::Matrix(pb::ItemMatrix { axes: axes.iter().map(axis).collect() })
        }
        ItemSource::Open { idle_millis } => {
            Source::Open(pb::ItemOpen { idle_millis: idle_millis.unwrap_or_default() })
        }
    };
    pb::ItemSource { source: Some(source) }
}

fn task(task: pb::TaskSpec) -> Result<TaskSpec, WireError> {
    let retry_on = if task.retry_on.is_empty() {
        RetryOn::ALL.to_vec()
    } else {
        let one = |(n, value): (usize, &i32)| retry_on(*value).within_nth("retry_on", n);
        task.retry_on.iter().enumerate().map(one).collect::<Result<_, _>>()?
    };
    let resources = task.resources.unwrap_or_default();
    Ok(TaskSpec {
        command: task.command,
        env: task.env.into_iter().collect(),
        workdir: nonzero(task.workdir),
        timeout_millis: nonzero(task.timeout_millis),
        retries: task.retries,
        retry_on,
        resources: Resources {
            cpus_milli: nonzero(resources.cpus_milli),
            memory_bytes: nonzero(resources.memory_bytes),
            pids_max: nonzero(resources.pids_max),
        },
        network: match known("network", "Network", task.network)? {
            pb::Network::Unspecified | pb::Network::None => Network::None,
            pb::Network::Bridge => Network::Bridge,
        },
        output_bytes_max: nonzero(task.output_bytes_max),
        isolation: match known("isolation", "Isolation", task.isolation)? {
            pb::Isolation::Unspecified | pb::Isolation::Sealed => Isolation::Sealed,
            pb::Isolation::Fresh => Isolation::Fresh,
        },
        stdin: task.stdin.map(stdin).transpose().within("stdin")?,
        requires: task.requires.into_iter().collect(),
    })
}

pub(super) fn task_to_proto(task: &TaskSpec) -> pb::TaskSpec {
    let network = match task.network {
        Network::None => pb::Network::None,
        Network::Bridge => pb::Network::Bridge,
    };
    let isolation = match task.isolation {
        Isolation::Sealed => pb::Isolation::Sealed,
        Isolation::Fresh => pb::Isolation::Fresh,
    };
    let retry_on = |on: &RetryOn| match on {
        RetryOn::Exit => pb::RetryOn::Exit.into(),
        RetryOn::Timeout => pb::RetryOn::Timeout.into(),
        RetryOn::Oom => pb::RetryOn::Oom.into(),
        RetryOn::Pids => pb::RetryOn::Pids.into(),
    };
    pb::TaskSpec {
        command: task.command.clone(),
        env: task.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        workdir: task.workdir.clone().unwrap_or_default(),
        timeout_millis: task.timeout_millis.unwrap_or_default(),
        retries: task.retries,
        retry_on: task.retry_on.iter().map(retry_on).collect(),
        resources: Some(pb::Resources {
            cpus_milli: task.resources.cpus_milli.unwrap_or_default(),
            memory_bytes: task.resources.memory_bytes.unwrap_or_default(),
            pids_max: task.resources.pids_max.unwrap_or_default(),
        }),
        network: network.into(),
        output_bytes_max: task.output_bytes_max.unwrap_or_default(),
        isolation: isolation.into(),
        stdin: task.stdin.as_ref().map(stdin_to_proto),
        requires: task.requires.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

fn stdin(stdin: pb::Stdin) -> Result<Stdin, WireError> {
    Ok(match stdin.source.ok_or_else(|| WireError::missing("source"))? {
        pb::stdin::Source::Template(text) => Stdin::Template(text),
        pb::stdin::Source::File(file) => {
            Stdin::File { sha256: sha256("file.sha256", &file.sha256)?, length: file.length }
        }
    })
}

fn stdin_to_proto(stdin: &Stdin) -> pb::Stdin {
    let source = match stdin {
        Stdin::Template(text) => pb::stdin::Source::Template(text.clone()),
        Stdin::File { sha256, length } => {
            pb::stdin::Source::File(pb::StdinFile { sha256: sha256.to_vec(), length: *length })
        }
    };
    pb::Stdin { source: Some(source) }
}

/// The path is that of a list's element, so the field itself has no name.
fn retry_on(value: i32) -> Result<RetryOn, WireError> {
    match known("", "RetryOn", value)? {
        pb::RetryOn::Unspecified => Err(unspecified("", "RetryOn")),
        pb::RetryOn::Exit => Ok(RetryOn::Exit),
        pb::RetryOn::Timeout => Ok(RetryOn::Timeout),
        pb::RetryOn::Oom => Ok(RetryOn::Oom),
        pb::RetryOn::Pids => Ok(RetryOn::Pids),
    }
}

fn image(image: pb::ImageSpec) -> Result<ImageSpec, WireError> {
    Ok(match image.image.ok_or_else(|| WireError::missing("image"))? {
        Image::Reference(reference) => ImageSpec::Reference(reference),
        Image::Build(build) => {
            let file = |(n, file): (usize, pb::ImageFile)| {
                let sha256 = sha256("sha256", &file.sha256).within_nth("build.files", n)?;
                Ok(ImageFile { path: file.path, sha256, mode: file.mode, length: file.length })
            };
            let files = build.files.into_iter().enumerate().map(file).collect::<Result<_, WireError>>()?;
            ImageSpec::Build { from: build.from, files, run: build.run }
        }
    })
}

pub(super) fn image_to_proto(image: &ImageSpec) -> pb::ImageSpec {
    let image = match image {
        ImageSpec::Reference(reference) => Image::Reference(reference.clone()),
        ImageSpec::Build { from, files, run } => {
            let file = |file: &ImageFile| pb::ImageFile {
                path: file.path.clone(),
                sha256: file.sha256.to_vec(),
                mode: file.mode,
                length: file.length,
            };
            Image::Build(pb::ImageBuild {
                from: from.clone(),
                files: files.iter().map(file).collect(),
                run: run.clone(),
            })
        }
    };
    pb::ImageSpec { image: Some(image) }
}

fn reassemble(reassemble: pb::ReassembleSpec) -> Result<Reassemble, WireError> {
    Ok(match reassemble.how {
        None => Reassemble::BuiltIn(BuiltIn::Concat),
        Some(How::Command(command)) => Reassemble::Command(task(command).within("command")?),
        Some(How::BuiltIn(value)) => {
            Reassemble::BuiltIn(match known("built_in", "BuiltInReassemble", value)? {
                pb::BuiltInReassemble::Unspecified | pb::BuiltInReassemble::Concat => BuiltIn::Concat,
                pb::BuiltInReassemble::Sum => BuiltIn::Sum,
                pb::BuiltInReassemble::Json => BuiltIn::Json,
                pb::BuiltInReassemble::None => BuiltIn::None,
            })
        }
    })
}

fn reassemble_to_proto(reassemble: &Reassemble) -> pb::ReassembleSpec {
    let how = match reassemble {
        Reassemble::Command(command) => How::Command(task_to_proto(command)),
        Reassemble::BuiltIn(built_in) => How::BuiltIn(
            match built_in {
                BuiltIn::Concat => pb::BuiltInReassemble::Concat,
                BuiltIn::Sum => pb::BuiltInReassemble::Sum,
                BuiltIn::Json => pb::BuiltInReassemble::Json,
                BuiltIn::None => pb::BuiltInReassemble::None,
            }
            .into(),
        ),
    };
    pb::ReassembleSpec { how: Some(how) }
}

/// One item. Any text will do.
#[must_use]
pub fn item(item: pb::Item) -> Item {
    Item { text: item.text, args: item.args, resource: nonzero(item.resource) }
}

/// Tasks that are to be added. Their paths begin with `tasks`.
///
/// # Errors
/// If one has no usable key, or no item.
pub fn new_tasks(tasks: Vec<pb::NewTask>) -> Result<Vec<NewTask>, WireError> {
    let one = |(n, task): (usize, pb::NewTask)| {
        let key = ClientKey::new(task.key).map_err(|error| WireError::new("key", error.into()));
        let item = task.item.ok_or_else(|| WireError::missing("item"));
        Ok(NewTask { key: key.within_nth("tasks", n)?, item: self::item(item.within_nth("tasks", n)?) })
    };
    tasks.into_iter().enumerate().map(one).collect()
}

/// What became of one, for the wire.
#[must_use]
pub fn added_to_proto(task: AddedTask) -> pb::AddedTask {
    pb::AddedTask { index: task.index, existed: task.existed }
}

/// A text that people get to see in a line: not too long, and without control characters.
pub(super) fn line(field: &str, text: String, bytes_max: usize) -> Result<String, WireError> {
    if text.len() > bytes_max {
        return Err(WireError::new(field, WireErrorKind::TooLong { max: bytes_max, got: text.len() }));
    }
    if text.chars().any(char::is_control) {
        return Err(WireError::new(field, WireErrorKind::Control));
    }
    Ok(text)
}
