//! Images: present, else pulled, or built from a generated Dockerfile.

use super::{
    Inner,
    error::{is_in_trouble, is_lacking, is_missing, is_not_to_be_had, is_refusal, words},
};
use crate::{
    domain::{ImageFile, ImageSpec},
    images,
    runtime::{Blobs, ImageError, PreparedImage},
};
use bollard::{
    Docker, body_try_stream,
    errors::Error,
    models::ImageInspect,
    query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder, PruneImagesOptionsBuilder},
};
use futures_util::StreamExt;
use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

/// The name of all images that are built here; the tag is the digest of their parts.
const BUILD_NAME: &str = "piecework/build";

/// How long pulling or building may take.
const WORK_SECS_MAX: u64 = 3600;

/// How much of a failed build's log is told.
const LOG_LINES_MAX: usize = 20;
const LOG_LINE_CHARS_MAX: usize = 300;

/// How many chunks of a build's archive wait for the engine.
const CHUNKS_MAX: usize = 8;

/// What concurrent callers share the work by.
pub(super) fn key(image: &ImageSpec) -> String {
    match image {
        ImageSpec::Reference(reference) => format!("reference {reference}"),
        ImageSpec::Build { from, files, run } => format!("build {}", images::build_digest(from, files, run)),
    }
}

impl Inner {
    pub(super) async fn prepare(
        &self,
        image: &ImageSpec,
        blobs: &dyn Blobs,
    ) -> Result<Arc<PreparedImage>, ImageError> {
        match image {
            ImageSpec::Reference(reference) => self.prepare_reference(reference).await,
            ImageSpec::Build { from, files, run } => {
                let digest = images::build_digest(from, files, run);
                let tag = format!("{BUILD_NAME}:{digest}");
                if let Some(image) = self.find_image(&tag).await? {
                    return Ok(image);
                }
                if from != "scratch" {
                    self.prepare_reference(from).await?;
                }
                let dockerfile = images::dockerfile(&digest, from, files, run);
                let built = self.build(&tag, dockerfile, files, blobs).await;
                if built.is_err() {
                    self.remove_remains(&digest).await;
                }
                built?;
                self.find_image(&tag).await?.ok_or_else(|| {
                    ImageError::Engine(format!("the image {tag} was built, and then removed by someone"))
                })
            }
        }
    }

    async fn prepare_reference(&self, reference: &str) -> Result<Arc<PreparedImage>, ImageError> {
        if let Some(image) = self.find_image(reference).await? {
            return Ok(image);
        }
        tracing::info!(image = reference, "pulling an image");
        self.pull(reference).await?;
        self.find_image(reference).await?.ok_or_else(|| {
            ImageError::Engine(format!("the image `{reference}` was pulled, and then removed by someone"))
        })
    }

    /// The image, if the engine has it.
    async fn find_image(&self, name: &str) -> Result<Option<Arc<PreparedImage>>, ImageError> {
        if let Some(known) = self.names.get(name) {
            return Ok(Some(known));
        }
        let stamp = self.names.stamp();
        let (found, ()) = tokio::join!(self.docker.inspect_image(name), self.names.look(&self.docker));
        match found {
            Ok(found) => {
                let image = Arc::new(prepared(name, &found));
                self.names.learn(name, &found, stamp, &image);
                Ok(Some(image))
            }
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) if is_in_trouble(&error) => Err(ImageError::Engine(format!(
                "the engine can't say whether it has `{name}`: {}",
                words(&error)
            ))),
            Err(error) if is_refusal(&error) => {
                Err(ImageError::Unavailable(format!("the engine does not take `{name}`: {}", words(&error))))
            }
            Err(error) => Err(ImageError::Engine(self.engine_is_gone(&error))),
        }
    }

    async fn pull(&self, reference: &str) -> Result<(), ImageError> {
        pull(&self.docker, reference).await.map_err(|error| {
            if is_not_to_be_had(&error) {
                ImageError::Unavailable(format!(
                    "the image `{reference}` is not on this host, and pulling it failed: {}; check its name, or bring \
                     it here by hand (`docker pull {reference}`, `docker load`), or build it from files with `build:`",
                    words(&error)
                ))
            } else if is_refusal(&error) {
                ImageError::Engine(format!(
                    "the image `{reference}` is not on this host, and could not be pulled now: {}",
                    words(&error)
                ))
            } else {
                ImageError::Engine(self.engine_is_gone(&error))
            }
        })
    }

    async fn build(
        &self,
        tag: &str,
        dockerfile: String,
        files: &[ImageFile],
        blobs: &dyn Blobs,
    ) -> Result<(), ImageError> {
        let mut sources = Vec::new();
        for file in files {
            sources.push(blobs.fetch(&file.sha256).await?);
        }
        tracing::info!(image = tag, "building an image");
        let (body, packing) = archive(dockerfile, files.to_vec(), sources);
        let options = BuildImageOptionsBuilder::default()
            .dockerfile("Dockerfile")
            .t(tag)
            .rm(true)
            .forcerm(true)
            .build();
        let docker = self.docker.clone().with_timeout(Duration::from_secs(WORK_SECS_MAX));
        let mut log = Log::default();
        let building = async {
            let mut progress = docker.build_image(options, None, Some(body_try_stream(body)));
            while let Some(step) = progress.next().await {
                let step = step?;
                log.add(step.stream.as_deref().unwrap_or_default());
                if let Some(error) = step.error_detail {
                    return Err(Error::DockerStreamError { error: error.message.unwrap_or_default() });
                }
            }
            Ok(())
        };
        let built = bounded(building).await;
        // A file that can't be read shows at the engine as a broken request only.
        if let Ok(Err(error)) = packing.await
            && built.is_err()
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(ImageError::Engine(format!("the files of the image can't be read: {error}")));
        }
        built.map_err(|error| {
            if is_refusal(&error) && is_lacking(&error) {
                ImageError::Engine(log.failure(&words(&error)))
            } else if is_refusal(&error) {
                ImageError::Unavailable(log.failure(&words(&error)))
            } else {
                ImageError::Engine(self.engine_is_gone(&error))
            }
        })
    }
}

impl Inner {
    /// Removes the nameless images of a build that failed.
    async fn remove_remains(&self, digest: &str) {
        let filters = HashMap::from([
            ("dangling", vec!["true".to_owned()]),
            ("label", vec![format!("{}={digest}", images::BUILD_LABEL)]),
        ]);
        let options = PruneImagesOptionsBuilder::default().filters(&filters).build();
        if let Err(error) = self.docker.prune_images(Some(options)).await {
            tracing::warn!(error = words(&error), "the remains of a failed build can't be removed");
        }
    }
}

type ArchiveStream = ReceiverStream<Result<bytes::Bytes, io::Error>>;

/// The archive of a build, as a stream that is filled by a thread.
fn archive(
    dockerfile: String,
    files: Vec<ImageFile>,
    sources: Vec<PathBuf>,
) -> (ArchiveStream, tokio::task::JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let packing = spawn_blocking(move || {
        let packed = images::context(&dockerfile, &files, &sources, sender.clone());
        if let Err(error) = &packed {
            // The request must not look complete.
            let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        packed
    });
    (ReceiverStream::new(receiver), packing)
}

/// Pulls an image.
pub(super) async fn pull(docker: &Docker, reference: &str) -> Result<(), Error> {
    // Without a tag, the engine would pull every one that there is.
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let tagged = if name.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") };
    let options = CreateImageOptionsBuilder::default().from_image(&tagged).build();
    let docker = docker.clone().with_timeout(Duration::from_secs(WORK_SECS_MAX));
    bounded(async {
        let mut progress = docker.create_image(Some(options), None, None);
        while let Some(step) = progress.next().await {
            if let Some(error) = step?.error_detail {
                return Err(Error::DockerStreamError { error: error.message.unwrap_or_default() });
            }
        }
        Ok(())
    })
    .await
}

async fn bounded(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let took_too_long =
        |_| Error::DockerStreamError { error: format!("it took longer than {WORK_SECS_MAX} s") };
    timeout(Duration::from_secs(WORK_SECS_MAX), work).await.map_err(took_too_long)?
}

fn prepared(name: &str, found: &ImageInspect) -> PreparedImage {
    let config = found.config.clone().unwrap_or_default();
    let env = config.env.unwrap_or_default();
    PreparedImage {
        handle: found.id.clone().unwrap_or_else(|| name.to_owned()),
        env: env
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        workdir: config.working_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
        volumes: config.volumes.unwrap_or_default().into_iter().map(PathBuf::from).collect(),
    }
}

/// The end of a build's log.
#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    open: String,
}

impl Log {
    fn add(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            let room = LOG_LINE_CHARS_MAX.saturating_sub(self.open.chars().count());
            self.open.extend(plain(piece).take(room));
            if piece.ends_with('\n') {
                self.finish_line();
            }
        }
    }

    fn finish_line(&mut self) {
        let line = std::mem::take(&mut self.open);
        if !line.trim().is_empty() {
            self.lines.push_back(line);
        }
        if self.lines.len() > LOG_LINES_MAX {
            self.lines.pop_front();
        }
    }

    fn failure(mut self, error: &str) -> String {
        self.finish_line();
        let mut text = format!("building the image failed: {error}");
        if !self.lines.is_empty() {
            text += "; the end of the build's log:";
        }
        for line in &self.lines {
            text.push_str("\n  ");
            text += line;
        }
        text
    }
}

/// Without colours, which the engine puts around what a build prints on stderr, and other control characters.
fn plain(text: &str) -> impl Iterator<Item = char> + '_ {
    let mut in_escape = false;
    text.chars().filter(move |character| {
        let hidden = in_escape || character.is_control();
        in_escape = *character == '\u{1b}' || (in_escape && !character.is_ascii_alphabetic());
        !hidden
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_away() {
        let mut log = Log::default();
        log.add("\u{1b}[91mred\n\u{1b}[0m");
        log.add("\u{1b}[1;92mgreen\u{1b}[0m [x]\n");
        assert_eq!(log.lines, ["red", "green [x]"]);
    }

    #[test]
    fn the_end_of_the_log_is_told() {
        let mut log = Log::default();
        for number in 0..30 {
            log.add(&format!("line {number}\r\n\n"));
        }
        log.add("cut in ");
        log.add(&"x".repeat(1000));
        let text = log.failure("it returned 1");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + LOG_LINES_MAX);
        assert!(lines[0].contains("failed: it returned 1") && lines[1] == "  line 11", "{text}");
        assert!(lines[20].starts_with("  cut in xxx") && lines[20].len() == LOG_LINE_CHARS_MAX + 2, "{text}");
    }
}
