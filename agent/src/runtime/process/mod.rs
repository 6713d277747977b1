//! Workers without Docker: the same init as a daemon on this host, in a pid namespace of its own where that is allowed.
//!
//! There is no image: commands are the host's. The files of an image that is to be built are put into a directory, which
//! comes before the host's own. Limits of memory, processors and network are not enforced, and tasks run as the agent's
//! user: this is for one's own tasks on one's own machine.
//!
//! init is no child of the agent and outlives it. It is found again by the file with its pid, which also says when that
//! process started: another one that has its pid now is left alone.

#[cfg(test)]
mod tests;

use super::{
    Begun, Blobs, Connection, Gone, ImageError, PreparedImage, Runtime, RuntimeKind, WorkerError, WorkerId,
    WorkerSpec, init_binary,
    place::{self, NoConnection, Places},
};
use crate::{
    domain::{AttemptKey, ImageSpec},
    images::{self, Once},
};
use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    process::Command,
    sync::oneshot,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

/// How long the launcher of an init may take; it only forks.
const LAUNCH_SECS_MAX: u64 = 10;

/// How often, and how far apart, an init binary that is still open for writing somewhere is tried.
const BUSY_TRIES_MAX: u32 = 20;
const BUSY_WAIT_MILLIS: u64 = 10;

/// How long an init may take to kill everything below it, and then itself to vanish.
const END_SECS_MAX: u64 = 5;
const LOOK_MILLIS: u64 = 2;

/// How much of an init's last words is told.
const WORDS_CHARS_MAX: usize = 500;

/// The runtime.
#[derive(Clone, Debug)]
pub struct ProcessRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    places: Places,
    images: PathBuf,
    init: PathBuf,
    /// Whether pid namespaces can be had.
    isolates: bool,
    preparing: Once<Result<Arc<PreparedImage>, ImageError>>,
}

impl ProcessRuntime {
    /// Makes one in a data directory, and tries what the host allows.
    ///
    /// # Errors
    /// If the data directory can't be used.
    pub async fn new(data: &Path) -> io::Result<Self> {
        place::private_dir(data)?;
        let data = data.canonicalize()?;
        let images = data.join("images");
        place::private_dir(&images)?;
        let places = Places::open(&data, RuntimeKind::Process)?;
        let init = init_binary::install(&data)?;
        let mut probe = Command::new(&init);
        probe.arg("--probe").stderr(Stdio::null());
        let isolates = matches!(run(&mut probe).await, Ok(status) if status.success());
        tracing::info!(isolates, "tasks run as processes of this host");
        Ok(Self { inner: Arc::new(Inner { places, images, init, isolates, preparing: Once::default() }) })
    }

    /// Whether workers have a pid namespace of their own. Otherwise a task that ends its own init can get away.
    #[must_use]
    pub fn isolates(&self) -> bool {
        self.inner.isolates
    }

    /// Whether there is a worker whose init runs.
    #[must_use]
    pub fn has_running_worker(&self) -> bool {
        let runs = |id: &WorkerId| {
            self.inner.places.of(id).is_some_and(|dir| piecework_init::running(&pid_file(&dir)).is_some())
        };
        self.inner.places.list().is_ok_and(|ids| ids.iter().any(runs))
    }
}

/// Runs one of init's own short commands.
async fn run(command: &mut Command) -> io::Result<std::process::ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let mut tries = 0;
    let mut child = loop {
        match command.spawn() {
            // A fork of another thread may hold the binary open for as long as it has not executed its own.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES_MAX => {
                tries += 1;
                sleep(Duration::from_millis(BUSY_WAIT_MILLIS)).await;
            }
            spawned => break spawned?,
        }
    };
    match timeout(Duration::from_secs(LAUNCH_SECS_MAX), child.wait()).await {
        Ok(status) => status,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn prepare(&self, image: &ImageSpec, blobs: &dyn Blobs) -> Result<Arc<PreparedImage>, ImageError> {
        self.inner.prepare(image, blobs).await
    }

    /// Runs to its end even if the caller drops it: then what was made is removed again.
    async fn create(&self, spec: &WorkerSpec) -> Result<Box<dyn Connection>, WorkerError> {
        let (inner, spec) = (Arc::clone(&self.inner), spec.clone());
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let created = inner.create(&spec).await;
            if sender.send(created).is_err() {
                inner.discard_or_log(&spec.id).await;
            }
        });
        let stream = receiver.await.map_err(|_| WorkerError::Worker("the agent is stopping".into()))??;
        Ok(Box::new(stream))
    }

    async fn connect(&self, id: &WorkerId) -> Result<Box<dyn Connection>, WorkerError> {
        let unreachable =
            |error| WorkerError::Worker(format!("the init of the worker {id} can't be reached: {error}"));
        let dir = self.inner.places.of(id).ok_or_else(|| unreachable(io::ErrorKind::NotFound.into()))?;
        Ok(Box::new(place::connect(&dir).await.map_err(unreachable)?))
    }

    fn note(&self, id: &WorkerId, runs: &[(u64, AttemptKey)], released: u64) -> io::Result<()> {
        self.inner.places.note(id, runs, released)
    }

    fn unnote(&self, id: &WorkerId, runs: &[u64]) -> io::Result<()> {
        self.inner.places.unnote(id, runs)
    }

    fn begun(&self, id: &WorkerId) -> Option<Begun> {
        self.inner.places.begun(id)
    }

    async fn why_gone(&self, id: &WorkerId) -> Gone {
        let dir = self.inner.places.of(id).filter(|dir| dir.is_dir());
        Gone::Worker(match dir {
            None => "it was removed".into(),
            Some(dir) if piecework_init::running(&pid_file(&dir)).is_some() => {
                "its init is still there, but has hung up".into()
            }
            Some(dir) => ended(&dir),
        })
    }

    async fn discard(&self, id: &WorkerId) -> Result<(), WorkerError> {
        self.inner.discard(id).await
    }

    async fn workers(&self) -> Result<Vec<WorkerId>, WorkerError> {
        let listed = self.inner.places.list();
        listed.map_err(|error| {
            WorkerError::Worker(format!("the directories of workers can't be listed: {error}"))
        })
    }
}

fn pid_file(dir: &Path) -> PathBuf {
    dir.join("pid")
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("init.log")
}

/// That an init has ended, with its last words.
fn ended(dir: &Path) -> String {
    let words: String =
        fs::read_to_string(log_file(dir)).unwrap_or_default().chars().take(WORDS_CHARS_MAX).collect();
    if words.trim().is_empty() {
        "its init was killed".into()
    } else {
        format!("its init ended: {}", words.trim())
    }
}

impl Inner {
    async fn prepare(&self, image: &ImageSpec, blobs: &dyn Blobs) -> Result<Arc<PreparedImage>, ImageError> {
        let env = std::env::var("PATH").map(|path| vec![("PATH".to_owned(), path)]).unwrap_or_default();
        let ImageSpec::Build { from, files, run } = image else {
            return Ok(Arc::new(PreparedImage {
                handle: String::new(),
                env,
                workdir: None,
                volumes: Vec::new(),
            }));
        };
        if !run.is_empty() {
            return Err(ImageError::Unavailable(
                "an image whose build runs commands needs Docker: without it there is no image to run them in".into(),
            ));
        }
        let digest = images::build_digest(from, files, run);
        let work = async {
            let mut sources = Vec::new();
            for file in files {
                sources.push(blobs.fetch(&file.sha256).await?);
            }
            let (images, name, files) = (self.images.clone(), digest.clone(), files.clone());
            let made = spawn_blocking(move || images::materialise(&images, &name, &files, &sources)).await;
            let made = made.unwrap_or_else(|error| Err(io::Error::other(error)));
            let dir = made.map_err(|error| {
                ImageError::Unavailable(format!("the files of the image can't be put in place: {error}"))
            })?;
            Ok(Arc::new(PreparedImage {
                handle: dir.display().to_string(),
                env,
                workdir: None,
                volumes: Vec::new(),
            }))
        };
        self.preparing.run(&digest, work).await
    }

    async fn create(&self, spec: &WorkerSpec) -> Result<tokio::net::UnixStream, WorkerError> {
        let made = self.places.make(&spec.id);
        let dir = made.map_err(|error| {
            WorkerError::Worker(format!("no directory for the worker {}: {error}", spec.id))
        })?;
        let started = async {
            let failed = |error: io::Error| format!("init can't be started: {error}");
            let status = self.launch(spec, &dir).await.map_err(failed)?;
            if !status.success() {
                return Err(ended(&dir));
            }
            let gone = || async { piecework_init::running(&pid_file(&dir)).is_none().then(|| ended(&dir)) };
            place::connect_when_it_listens(&dir, gone).await.map_err(|error| match error {
                NoConnection::Gone(why) => why,
                NoConnection::Failed(error) => format!("the worker's init can't be reached: {error}"),
            })
        };
        started.await.map_err(WorkerError::Worker)
    }

    async fn launch(&self, spec: &WorkerSpec, dir: &Path) -> io::Result<std::process::ExitStatus> {
        let work = dir.join("work");
        fs::create_dir(&work)?;
        let mut command = Command::new(&self.init);
        command
            .args(["--socket".as_ref(), dir.join(place::INIT_DIR).join(place::SOCKET).as_os_str()])
            .args(["--pid-file".as_ref(), pid_file(dir).as_os_str()])
            .args(["--workdir".as_ref(), work.as_os_str()])
            .stderr(File::create(log_file(dir))?)
            .env_clear()
            .current_dir("/");
        if !spec.shape.image.handle.is_empty() {
            command.args(["--root", &spec.shape.image.handle]);
        }
        if self.isolates {
            command.arg("--isolate");
        }
        run(&mut command).await
    }

    /// Ends init, which ends everything below it: in a pid namespace the kernel does that, otherwise init itself, asked
    /// by SIGTERM. If it does not answer, all that can be found below it is killed from here.
    async fn discard(&self, id: &WorkerId) -> Result<(), WorkerError> {
        let Some(dir) = self.places.of(id) else { return Ok(()) };
        let file = pid_file(&dir);
        if let Some(init) = piecework_init::running(&file) {
            let signal = if self.isolates { Signal::SIGKILL } else { Signal::SIGTERM };
            let _ = kill(init, signal);
            if !vanished(&file).await {
                for pid in piecework_init::descendants(init).into_iter().chain([init]) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                if !vanished(&file).await {
                    return Err(WorkerError::Worker(format!("the init of the worker {id} can't be killed")));
                }
            }
        }
        let removed = self.places.remove(id).await;
        removed
            .map_err(|error| WorkerError::Worker(format!("the directory of the worker {id} stays: {error}")))
    }

    async fn discard_or_log(&self, id: &WorkerId) {
        if let Err(error) = self.discard(id).await {
            tracing::warn!(worker = %id, %error, "a worker can't be removed");
        }
    }
}

/// Waits, not for ever, until the process that the file names is gone.
async fn vanished(pid_file: &Path) -> bool {
    let give_up = Instant::now() + Duration::from_secs(END_SECS_MAX);
    while piecework_init::running(pid_file).is_some() {
        if Instant::now() > give_up {
            return false;
        }
        sleep(Duration::from_millis(LOOK_MILLIS)).await;
    }
    true
}
