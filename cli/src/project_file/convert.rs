//! From the document, as it is written, to the specification that is submitted.

use super::{
    Submission,
    document::{
        Build, BuiltIn, Command, Document, Isolation, Network, OnFailure, OnLeaseLoss, Placement, Reassemble,
        RetryOn, Scalar, Stdin, Task,
    },
    files::{self, Collected, FileToSend, collect},
    placeholders,
    problem::{Problem, ProjectFileError, quoted},
    shape::Ordered,
    source::items,
    values,
};
use piecework_proto::v1;
use serde_saphyr::Spanned;
use std::{collections::HashMap, path::Path};

/// What can go wrong in a document: something in it, or a file that it names.
pub(super) enum ConvertError {
    Content(Problem),
    File(ProjectFileError),
}

impl From<Problem> for ConvertError {
    fn from(problem: Problem) -> Self {
        Self::Content(problem)
    }
}

/// What a text says about its project; files that it names are relative to `base`.
pub(super) fn convert(
    document: Document,
    default_name: &str,
    base: &Path,
) -> Result<Submission, ConvertError> {
    let name = match &document.name {
        None => default_name.to_owned(),
        Some(name) if values::is_name(&name.value) => name.value.clone(),
        Some(name) => {
            return Err(Problem::at(
                name.referenced,
                format!("{} is no name of a project", quoted(&name.value)),
            )
            .hint("a name is 1 to 63 letters, digits, `.`, `_` and `-`")
            .into());
        }
    };
    let (image, mut files) = image(&document, base)?;
    let (source, items, axes) = items(&document, base, &mut files)?;
    let known: Vec<&str> = ["item", "index"].into_iter().chain(axes.iter().map(String::as_str)).collect();
    let around = Around { known: &known, base, reads_output: false };
    let spec = v1::ProjectSpec {
        name,
        image: Some(image),
        items: Some(v1::ItemSource { source: Some(source) }),
        task: Some(task(&document.task.value, &around, &mut files)?),
        reassemble: Some(v1::ReassembleSpec { how: Some(reassemble(document.reassemble.as_ref(), base)?) }),
        on_failure: i32::from(match &document.on_failure {
            None => v1::FailurePolicy::Continue,
            Some(policy) => match values::one_of("way to go on after a failure", policy, OnFailure::ALL)? {
                OnFailure::Continue => v1::FailurePolicy::Continue,
                OnFailure::Stop => v1::FailurePolicy::Stop,
                OnFailure::Ignore => v1::FailurePolicy::Ignore,
            },
        }),
        weight: optional(document.weight.as_ref(), |weight| {
            values::whole("weight", weight, &values::WEIGHTS)
        })?
        .unwrap_or(1),
        max_parallel: optional(document.max_parallel.as_ref(), |most| {
            values::whole("max_parallel", most, &values::PARALLEL)
        })?
        .unwrap_or_default(),
        placement: i32::from(match &document.placement {
            None => v1::Placement::Spread,
            Some(placement) => match values::one_of("placement", placement, Placement::ALL)? {
                Placement::Spread => v1::Placement::Spread,
                Placement::Pack => v1::Placement::Pack,
            },
        }),
        on_lease_loss: i32::from(match &document.on_lease_loss {
            None => v1::LeaseLossPolicy::Rerun,
            Some(policy) => {
                match values::one_of("way to go on after a lost lease", policy, OnLeaseLoss::ALL)? {
                    OnLeaseLoss::Rerun => v1::LeaseLossPolicy::Rerun,
                    OnLeaseLoss::Stop => v1::LeaseLossPolicy::Stop,
                }
            }
        }),
    };
    Ok(Submission { spec, items, files })
}

pub(super) fn optional<T>(
    value: Option<&Scalar>,
    read: impl FnOnce(&Scalar) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    value.map(read).transpose()
}

fn image(document: &Document, base: &Path) -> Result<(v1::ImageSpec, Vec<FileToSend>), Problem> {
    let (image, files) = match (&document.image, &document.build) {
        (Some(_), Some(build)) => {
            return Err(
                Problem::at(build.referenced, "`image` and `build` are both there").hint("keep one of them")
            );
        }
        (None, None) => {
            return Err(Problem::new("there is neither `image` nor `build`")
                .hint("name the image that the tasks run in: `image: debian:bookworm-slim`"));
        }
        (Some(reference), None) => {
            (v1::image_spec::Image::Reference(image_reference(reference)?), Vec::new())
        }
        (None, Some(build)) => {
            let (build, files) = self::build(&build.value, base)?;
            (v1::image_spec::Image::Build(build), files)
        }
    };
    Ok((v1::ImageSpec { image: Some(image) }, files))
}

fn image_reference(reference: &Scalar) -> Result<String, Problem> {
    if reference.value.is_empty()
        || reference.value.chars().any(|char| char.is_whitespace() || char.is_control())
    {
        return Err(Problem::at(
            reference.referenced,
            format!("{} is no name of an image", quoted(&reference.value)),
        )
        .hint("write it as for `docker run`: `debian:bookworm-slim`"));
    }
    Ok(reference.value.clone())
}

fn build(build: &Build, base: &Path) -> Result<(v1::ImageBuild, Vec<FileToSend>), Problem> {
    let Collected { in_image, to_send, .. } = collect(&build.copy, base)?;
    let run = build
        .run
        .iter()
        .map(|line| {
            if line.value.trim().is_empty() {
                return Err(Problem::at(line.referenced, "the command is blank"));
            }
            values::no_zero(line).map(str::to_owned)
        })
        .collect::<Result<_, _>>()?;
    Ok((v1::ImageBuild { from: image_reference(&build.from)?, files: in_image, run }, to_send))
}

/// How one task runs; a file that it reads is added to those that are sent.
pub(super) fn task(
    task: &Task,
    around: &Around<'_>,
    files: &mut Vec<FileToSend>,
) -> Result<v1::TaskSpec, Problem> {
    let resources = task.resources.as_ref();
    let cpus = resources.and_then(|resources| resources.cpus.as_ref());
    let memory = resources.and_then(|resources| resources.memory.as_ref());
    let pids = resources.and_then(|resources| resources.pids.as_ref());
    let retry_on = task.retry_on.iter().flatten().map(|ending| {
        Ok(i32::from(match values::one_of("ending that can be retried", ending, RetryOn::ALL)? {
            RetryOn::Exit => v1::RetryOn::Exit,
            RetryOn::Timeout => v1::RetryOn::Timeout,
            RetryOn::Oom => v1::RetryOn::Oom,
            RetryOn::Pids => v1::RetryOn::Pids,
        }))
    });
    Ok(v1::TaskSpec {
        command: command(&task.command, around.known)?,
        env: env(&task.env)?,
        workdir: optional(task.workdir.as_ref(), workdir)?.unwrap_or_default(),
        timeout_millis: optional(task.timeout.as_ref(), |text| values::duration_millis("timeout", text))?
            .unwrap_or_default(),
        retries: optional(task.retries.as_ref(), |text| values::whole("retries", text, &values::RETRIES))?
            .unwrap_or_default(),
        retry_on: retry_on.collect::<Result<_, Problem>>()?,
        resources: Some(v1::Resources {
            cpus_milli: optional(cpus, values::cpus_milli)?.unwrap_or_default(),
            memory_bytes: optional(memory, |text| values::bytes("memory", text, &values::MEMORY_BYTES))?
                .unwrap_or_default(),
            pids_max: optional(pids, |text| values::whole("pids", text, &values::PIDS))?.unwrap_or_default(),
        }),
        network: i32::from(match &task.network {
            None => v1::Network::None,
            Some(network) => match values::one_of("network", network, Network::ALL)? {
                Network::None => v1::Network::None,
                Network::Bridge => v1::Network::Bridge,
            },
        }),
        requires: values::labels(&task.requires)?,
        stdin: task.stdin.as_ref().map(|text| stdin(text, around, files)).transpose()?,
        isolation: i32::from(match &task.isolation {
            None => v1::Isolation::Sealed,
            Some(isolation) => match values::one_of("isolation", isolation, Isolation::ALL)? {
                Isolation::Sealed => v1::Isolation::Sealed,
                Isolation::Fresh => v1::Isolation::Fresh,
            },
        }),
        output_bytes_max: optional(task.output_limit.as_ref(), |text| {
            values::bytes("output_limit", text, &values::OUTPUT_BYTES)
        })?
        .unwrap_or_default(),
    })
}

/// What a task's fields are understood by.
pub(super) struct Around<'a> {
    /// The placeholders that mean something in it.
    pub(super) known: &'a [&'a str],
    /// Where its files are.
    pub(super) base: &'a Path,
    /// Its stdin is the ordered output.
    pub(super) reads_output: bool,
}

fn stdin(
    stdin: &Spanned<Stdin>,
    around: &Around<'_>,
    files: &mut Vec<FileToSend>,
) -> Result<v1::Stdin, Problem> {
    if around.reads_output {
        return Err(Problem::at(stdin.referenced, "a task of `reassemble` has no `stdin` of its own")
            .hint("it reads what all tasks have printed, in their order"));
    }
    let source = match &stdin.value {
        Stdin::Text(text) => {
            placeholders::check(text, around.known)
                .map_err(|(what, hint)| Problem::at(stdin.referenced, what).hint(hint))?;
            v1::stdin::Source::Template(text.clone())
        }
        Stdin::Value(value) => {
            return Err(Problem::at(stdin.referenced, "the stdin is no text")
                .hint(format!("write it in quotes: `stdin: \"{value}\"`")));
        }
        Stdin::File(from) => {
            let file = files::stdin(&from.file, around.base)?;
            let named = v1::StdinFile { sha256: file.sha256.to_vec(), length: file.length };
            if !files.iter().any(|other| other.sha256 == file.sha256) {
                files.push(file);
            }
            v1::stdin::Source::File(named)
        }
    };
    Ok(v1::Stdin { source: Some(source) })
}

fn command(command: &Spanned<Command>, known: &[&str]) -> Result<Vec<String>, Problem> {
    let list = match &command.value {
        Command::List(list) => list,
        Command::Line(line) => {
            let words = shell_words::split(line).unwrap_or_default();
            let needs_shell =
                words.is_empty() || line.contains(['|', '&', ';', '<', '>', '$', '`', '*', '?', '~']);
            let list = if needs_shell {
                "[\"sh\", \"-c\", \"…\"]".to_owned()
            } else {
                serde_json::to_string(&words).unwrap_or_default().replace("\",\"", "\", \"")
            };
            return Err(Problem::at(
                command.referenced,
                "a command is a list of program and arguments, not one line",
            )
            .hint(format!("write `command: {list}`")));
        }
    };
    let program = list.first().ok_or_else(|| {
        Problem::at(command.referenced, "the command is empty")
            .hint("name a program: `command: [echo, \"{item}\"]`")
    })?;
    if program.value.is_empty() {
        return Err(Problem::at(program.referenced, "the program's name is empty"));
    }
    list.iter()
        .map(|argument| {
            placeholders::check(values::no_zero(argument)?, known)
                .map_err(|(what, hint)| Problem::at(argument.referenced, what).hint(hint))?;
            Ok(argument.value.clone())
        })
        .collect()
}

fn env(env: &Ordered<Scalar>) -> Result<HashMap<String, String>, Problem> {
    env.0
        .iter()
        .map(|(name, value)| {
            let well_formed = !name.value.is_empty()
                && !name.value.starts_with(|char: char| char.is_ascii_digit())
                && name
                    .value
                    .chars()
                    .all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-'));
            if !well_formed {
                return Err(Problem::at(
                    name.referenced,
                    format!("{} is no name of a variable", quoted(&name.value)),
                )
                .hint("letters, digits, `_`, `.` and `-`, beginning with no digit"));
            }
            Ok((name.value.clone(), values::no_zero(value)?.to_owned()))
        })
        .collect()
}

fn workdir(path: &Scalar) -> Result<String, Problem> {
    if path.value != "/" && !values::is_image_path(&path.value) {
        return Err(Problem::at(
            path.referenced,
            format!("{} is no absolute path without `.` and `..`", quoted(&path.value)),
        ));
    }
    Ok(path.value.clone())
}

fn reassemble(
    reassemble: Option<&Spanned<Reassemble>>,
    base: &Path,
) -> Result<v1::reassemble_spec::How, Problem> {
    let built_in = match reassemble {
        None => v1::BuiltInReassemble::Concat,
        Some(Spanned { value: Reassemble::Command(command), .. }) => {
            let around = Around { known: &[], base, reads_output: true };
            // It reads no file: its stdin is refused.
            return Ok(v1::reassemble_spec::How::Command(task(command, &around, &mut Vec::new())?));
        }
        Some(Spanned { value: Reassemble::Named(name), referenced, defined }) => {
            let name = Scalar::new(name.clone(), *referenced, *defined);
            match values::one_of("way to reassemble", &name, BuiltIn::ALL)? {
                BuiltIn::Concat => v1::BuiltInReassemble::Concat,
                BuiltIn::Sum => v1::BuiltInReassemble::Sum,
                BuiltIn::Json => v1::BuiltInReassemble::Json,
                BuiltIn::None => v1::BuiltInReassemble::None,
            }
        }
    };
    Ok(v1::reassemble_spec::How::BuiltIn(i32::from(built_in)))
}
