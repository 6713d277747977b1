//! Against the real engine. Without one these tests say so and pass, unless PIECEWORK_TEST_REQUIRE_DOCKER is set, as in CI.

mod names;
mod sealed;

use super::*;
use crate::{
    domain::{AttemptKey, ImageFile, Isolation, Outcome, OutputStream, Phase},
    init_link::{HeldState, Hello, InitEvent, InitExit, InitLink, LinkError, Offsets, RunCommand},
    runtime::WorkerShape,
    sweep::{Swept, sweep},
};
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptions};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, path::Path, sync::atomic::AtomicU32};
use tempfile::TempDir;

/// A static program with a shell in it, from the Debian package busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// Files by their digest.
#[derive(Default)]
struct Files(BTreeMap<[u8; 32], PathBuf>);

#[async_trait]
impl Blobs for Files {
    async fn fetch(&self, sha256: &[u8; 32]) -> Result<PathBuf, ImageError> {
        self.0.get(sha256).cloned().ok_or_else(|| ImageError::Unavailable("no such file".into()))
    }
}

impl Files {
    fn add(&mut self, source: &Path, path: &str, mode: u32) -> ImageFile {
        let contents = fs::read(source).unwrap_or_else(|error| {
            panic!("{} is needed (package busybox-static): {error}", source.display());
        });
        let sha256 = Sha256::digest(&contents).into();
        self.0.insert(sha256, source.into());
        ImageFile { path: path.into(), sha256, mode, length: contents.len() as u64 }
    }
}

/// The engine, and an agent of its own for one test. What it made is removed with it.
struct Bench {
    data: TempDir,
    agent_id: String,
    runtime: DockerRuntime,
    image: ImageSpec,
    files: Files,
}

impl Bench {
    /// None if this machine has no engine, and says so.
    async fn open() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let data = tempfile::tempdir().unwrap();
        if let Some(why) = what_is_missing(data.path()).await {
            let required = std::env::var_os("PIECEWORK_TEST_REQUIRE_DOCKER").is_some();
            assert!(!required, "a test that must run here can't: {why}");
            eprintln!("not run: {why}");
            return None;
        }
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let agent_id = format!("t{}x{number}", std::process::id());
        let runtime = connect(data.path(), &agent_id).await;
        let mut files = Files::default();
        let image = ImageSpec::Build {
            from: "scratch".into(),
            files: vec![
                files.add(Path::new(BUSYBOX), "/bin/busybox", 0o755),
                files.add(Path::new(BUSYBOX), "/bin/sh", 0o755),
            ],
            run: vec!["/bin/busybox --install -s /bin".into()],
        };
        Some(Self { data, agent_id, runtime, image, files })
    }

    async fn spec(&self, index: u32) -> WorkerSpec {
        let image = self.runtime.prepare(&self.image, &self.files).await.unwrap();
        let shape = WorkerShape {
            image,
            isolation: Isolation::Sealed,
            cpus_milli: Some(500),
            memory_bytes: Some(64 << 20),
            pids_max: Some(50),
            network: false,
            workdir: None,
        };
        WorkerSpec { id: self.id(index), shape: Arc::new(shape) }
    }

    /// The worker of [`Self::spec`], made otherwise.
    async fn spec_with(&self, index: u32, change: impl FnOnce(&mut WorkerShape)) -> WorkerSpec {
        let WorkerSpec { id, mut shape } = self.spec(index).await;
        change(Arc::make_mut(&mut shape));
        WorkerSpec { id, shape }
    }

    async fn start_with(&self, index: u32, change: impl FnOnce(&mut WorkerShape)) -> Link {
        let spec = self.spec_with(index, change).await;
        Link::open(self.runtime.create(&spec).await.unwrap()).await
    }

    fn id(&self, index: u32) -> WorkerId {
        WorkerId(format!("{}-{}", self.agent_id, key(index)))
    }

    async fn start(&self, index: u32) -> Link {
        self.start_with(index, |_| {}).await
    }

    /// Ends the test: everything is removed, and nothing is left.
    async fn close(self) {
        sweep(&self.runtime, &BTreeSet::new()).await.unwrap();
        assert_eq!(self.runtime.workers().await.unwrap(), []);
    }
}

async fn connect(data: &Path, agent_id: &str) -> DockerRuntime {
    let config = DockerConfig { data: data.into(), agent_id: agent_id.into(), socket: None };
    DockerRuntime::connect(config).await.unwrap()
}

/// Why these tests can't run on this machine.
async fn what_is_missing(data: &Path) -> Option<String> {
    if !Path::new(BUSYBOX).exists() {
        return Some(format!("there is no {BUSYBOX} (package busybox-static)"));
    }
    let config = DockerConfig { data: data.into(), agent_id: "missing".into(), socket: None };
    match DockerRuntime::connect(config).await {
        Ok(runtime) => runtime.ready().await.err(),
        Err(error) => Some(error.to_string()),
    }
}

fn key(index: u32) -> AttemptKey {
    AttemptKey { project: 1, phase: Phase::Task, index, attempt: 1 }
}

fn shell(script: &str) -> RunCommand {
    RunCommand {
        number: 0,
        attempt: key(0),
        command: ["sh", "-c", script].map(String::from).into(),
        env: Vec::new(),
        workdir: None,
        timeout: Some(Duration::from_secs(60)),
        output_bytes_max: 10 << 20,
        has_stdin: false,
    }
}

struct Link {
    init: InitLink,
    hello: Hello,
    /// Of the last run.
    number: u64,
    stdout: Vec<u8>,
}

impl Link {
    async fn open(connection: Box<dyn Connection>) -> Self {
        let (init, hello) = InitLink::open(connection).await.unwrap();
        Self { init, hello, number: 0, stdout: Vec::new() }
    }

    async fn step(&mut self) -> Result<Option<InitExit>, LinkError> {
        match self.init.event().await? {
            InitEvent::Output { run, stream, offset, bytes } => {
                if stream == OutputStream::Stdout {
                    self.stdout.extend_from_slice(&bytes);
                }
                self.init.ack(run, stream, offset + bytes.len() as u64);
            }
            InitEvent::Exited(run, exit) => {
                self.init.release(run);
                return Ok(Some(exit));
            }
            InitEvent::Started(_) | InitEvent::StdinWritten => {}
            other => panic!("{other:?}"),
        }
        Ok(None)
    }

    /// Sends a command as the next run.
    fn send(&mut self, command: &RunCommand) {
        self.number += 1;
        self.init.run(&RunCommand { number: self.number, ..command.clone() }).unwrap();
        self.stdout.clear();
    }

    async fn end(&mut self) -> InitExit {
        loop {
            if let Some(exit) = self.step().await.unwrap() {
                self.init.flush().await.unwrap();
                return exit;
            }
        }
    }

    async fn run(&mut self, command: &RunCommand) -> (Outcome, String) {
        self.send(command);
        let exit = self.end().await;
        (exit.outcome, String::from_utf8_lossy(&self.stdout).into_owned())
    }

    async fn start_and_read_line(&mut self, script: &str) {
        self.send(&shell(script));
        while !self.stdout.ends_with(b"\n") {
            assert_eq!(self.step().await.unwrap(), None);
        }
    }
}

/// Runs a script that prints lines, and compares them.
async fn check_lines(link: &mut Link, script: &str, expected: &[&str]) {
    let (outcome, stdout) = link.run(&shell(script)).await;
    assert_eq!(
        (outcome, stdout.lines().collect::<Vec<_>>()),
        (Outcome::Exited(0), expected.to_vec()),
        "{script}"
    );
}

#[tokio::test]
async fn endings_are_told_apart() {
    let Some(bench) = Bench::open().await else { return };
    let mut link = bench.start(0).await;
    assert_eq!(link.run(&shell("exit 3")).await.0, Outcome::Exited(3));
    assert_eq!(link.run(&shell("kill -9 $$")).await.0, Outcome::Signaled(9));
    // The shell holds more and more in one variable.
    let hungry = shell("x=x; while :; do x=$x$x; done");
    assert_eq!(link.run(&hungry).await.0, Outcome::OutOfMemory);
    assert_eq!(link.run(&shell("kill -9 $$")).await.0, Outcome::Signaled(9), "an earlier one does not count");
    let timeout = Some(Duration::from_millis(50));
    assert_eq!(link.run(&RunCommand { timeout, ..shell("sleep 60") }).await.0, Outcome::TimedOut);
    let missing = RunCommand { command: vec!["no-such-tool".into()], ..shell("") };
    let Outcome::CouldNotStart(why) = link.run(&missing).await.0 else { panic!() };
    assert!(why.contains("`no-such-tool` was not found in PATH"), "{why}");
    let elsewhere = RunCommand { workdir: Some("/no/dir".into()), ..shell("true") };
    let Outcome::CouldNotStart(why) = link.run(&elsewhere).await.0 else { panic!() };
    assert!(why.contains("working directory `/no/dir` does not exist"), "{why}");
    let since = Instant::now();
    check_lines(&mut link, "(setsid sleep 600 &); sleep 600 & echo done", &["done"]).await;
    assert!(since.elapsed() < Duration::from_secs(60), "what is left over does not delay the end");
    check_lines(&mut link, "ps | grep -c '[s]leep' || true", &["0"]).await;
    bench.close().await;
}

#[tokio::test]
async fn workers_outlive_their_agent_and_are_adopted() {
    let Some(bench) = Bench::open().await else { return };
    let mut link = bench.start(0).await;
    link.start_and_read_line("echo one; sleep 0.3; echo two; sleep 600").await;
    drop(link);
    drop(bench.start(1).await);

    let second = connect(bench.data.path(), &bench.agent_id).await;
    assert_eq!(second.workers().await.unwrap(), [bench.id(0), bench.id(1)]);
    let other = tempfile::tempdir().unwrap();
    let stranger = connect(other.path(), &format!("{}other", bench.agent_id)).await;
    assert_eq!(stranger.workers().await.unwrap(), [], "another agent's workers are not its own");

    let mut adopted = Link::open(second.connect(&bench.id(0)).await.unwrap()).await;
    let [held] = adopted.hello.held.as_slice() else { panic!("{:?}", adopted.hello) };
    assert_eq!((held.run, held.attempt.as_str()), (1, "1-task-0-1"));
    assert!(matches!(held.state, HeldState::Running { .. }));
    assert_eq!(
        sweep(&second, &BTreeSet::from([bench.id(0)])).await.unwrap(),
        Swept { removed: 1, failed: 0 }
    );
    adopted.init.resume(vec![Offsets { run: 1, stdout: 4, stderr: 0 }]);
    while adopted.stdout != b"two\n" {
        assert_eq!(adopted.step().await.unwrap(), None);
    }
    adopted.init.kill(1, Duration::from_secs(20));
    assert_eq!(adopted.end().await.outcome, Outcome::Cancelled);
    bench.close().await;
}

#[tokio::test]
async fn losses_are_explained() {
    let Some(bench) = Bench::open().await else { return };
    let docker = &bench.runtime.inner.docker;
    let mut link = bench.start(0).await;
    link.start_and_read_line("echo up; sleep 600").await;
    docker.kill_container(&container_name(&bench.id(0)), None).await.unwrap();
    assert!(matches!(link.step().await, Err(LinkError::Closed)));
    assert_eq!(bench.runtime.why_gone(&bench.id(0)).await, Gone::Worker("its container was killed".into()));
    assert!(matches!(bench.runtime.connect(&bench.id(0)).await, Err(WorkerError::Worker(_))));
    bench.runtime.discard(&bench.id(0)).await.unwrap();
    bench.runtime.discard(&bench.id(0)).await.unwrap();

    let mut link = bench.start(1).await;
    link.start_and_read_line("echo up; sleep 600").await;
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&container_name(&bench.id(1)), Some(options)).await.unwrap();
    assert!(matches!(link.step().await, Err(LinkError::Closed)));
    assert!(
        matches!(bench.runtime.why_gone(&bench.id(1)).await, Gone::Engine(why) if why.contains("no container"))
    );
    assert_eq!(bench.runtime.workers().await.unwrap(), [bench.id(1)], "its directory is still there");
    bench.close().await;
}

#[tokio::test]
async fn an_engine_that_is_gone_is_not_a_refusal() {
    let Some(bench) = Bench::open().await else { return };
    let own = tempfile::tempdir().unwrap();
    let socket = own.path().join("docker.sock");
    std::os::unix::fs::symlink(&bench.runtime.inner.socket, &socket).unwrap();
    let config = |socket: &Path| DockerConfig {
        data: own.path().join("data"),
        agent_id: format!("{}gone", bench.agent_id),
        socket: Some(socket.into()),
    };
    let runtime = DockerRuntime::connect(config(&socket)).await.unwrap();
    runtime.ready().await.unwrap();
    let spec = bench.spec(0).await;
    fs::remove_file(&socket).unwrap();
    let why = runtime.ready().await.unwrap_err();
    assert!(why.contains("docker.sock does not answer: "), "{why}");
    assert!(matches!(runtime.create(&spec).await, Err(WorkerError::Engine(_))));
    assert!(matches!(runtime.discard(&spec.id).await, Err(WorkerError::Engine(_))));
    assert!(matches!(runtime.why_gone(&spec.id).await, Gone::Engine(_)));
    assert!(matches!(runtime.prepare(&bench.image, &bench.files).await, Err(ImageError::Engine(_))));
    let error = DockerRuntime::connect(config(&socket)).await.unwrap_err().to_string();
    assert!(error.contains("no Docker engine answers at") && error.contains("process runtime"), "{error}");
    bench.close().await;
}

#[tokio::test]
async fn a_refused_worker_says_why_and_an_unwanted_one_is_removed() {
    let Some(bench) = Bench::open().await else { return };
    let spec = bench.spec(0).await;
    let no_image = |shape: &mut WorkerShape| {
        Arc::make_mut(&mut shape.image).handle = "piecework/none:such".into();
    };
    let refused = bench.runtime.create(&bench.spec_with(0, no_image).await).await;
    let Err(WorkerError::Worker(why)) = refused else { panic!() };
    assert!(why.contains("No such image"), "{why}");
    bench.runtime.discard(&spec.id).await.unwrap();
    let too_many = |shape: &mut WorkerShape| shape.cpus_milli = Some(1_000_000);
    let refused = bench.runtime.create(&bench.spec_with(0, too_many).await).await;
    assert!(matches!(refused, Err(WorkerError::Worker(_))));
    bench.runtime.discard(&spec.id).await.unwrap();
    assert_eq!(bench.runtime.workers().await.unwrap(), []);

    // A caller that loses interest in the middle.
    let id = spec.id.clone();
    assert!(timeout(Duration::from_millis(20), bench.runtime.create(&spec)).await.is_err());
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        sleep(Duration::from_millis(20)).await;
        let there = bench.runtime.inner.state(&id).await.is_ok()
            || bench.runtime.inner.places.of(&id).unwrap().exists();
        if !there {
            break;
        }
        assert!(Instant::now() < give_up, "the worker was not removed");
    }
    bench.close().await;
}

#[tokio::test]
async fn sockets_below_a_long_path_work() {
    let Some(bench) = Bench::open().await else { return };
    let data = bench.data.path().join("long".repeat(40));
    let runtime = connect(&data, &bench.agent_id).await;
    let connection = runtime.create(&bench.spec(0).await).await.unwrap();
    check_lines(&mut Link::open(connection).await, "echo far", &["far"]).await;
    sweep(&runtime, &BTreeSet::new()).await.unwrap();
    bench.close().await;
}

#[tokio::test]
async fn an_image_that_can_t_be_had_says_what_to_do() {
    let Some(bench) = Bench::open().await else { return };
    for name in ["piecework.invalid/no/such:image", "piecework.invalid/none"] {
        let missing = bench.runtime.prepare(&ImageSpec::Reference(name.into()), &bench.files).await;
        let Err(ImageError::Unavailable(why)) = missing else { panic!("{missing:?}") };
        for part in [name, "is not on this host, and pulling it failed: ", "`docker pull"] {
            assert!(why.contains(part), "{why}");
        }
    }
    let nonsense = bench.runtime.prepare(&ImageSpec::Reference("Not An Image".into()), &bench.files).await;
    assert!(matches!(nonsense, Err(ImageError::Unavailable(_))), "{nonsense:?}");
    let nowhere =
        ImageSpec::Build { from: "piecework.invalid/none".into(), files: Vec::new(), run: Vec::new() };
    let missing = bench.runtime.prepare(&nowhere, &bench.files).await;
    assert!(matches!(missing, Err(ImageError::Unavailable(why)) if why.contains("pulling it failed")));
    bench.close().await;
}

/// The image of the tests with something more, that no other test builds.
fn variant(bench: &mut Bench, file: Option<&str>, command: &str) -> ImageSpec {
    let ImageSpec::Build { from, mut files, mut run } = bench.image.clone() else { panic!() };
    files.extend(file.map(|path| bench.files.add(Path::new(BUSYBOX), path, 0o751)));
    run.push(command.into());
    ImageSpec::Build { from, files, run }
}

#[tokio::test]
async fn a_build_that_fails_shows_the_end_of_its_log() {
    let Some(mut bench) = Bench::open().await else { return };
    let broken = variant(&mut bench, None, "echo this is wrong >&2; exit 7");
    let ImageSpec::Build { from, files, run } = broken.clone() else { panic!() };
    let parts = (from, files, run);
    let containers = || async {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let all = bench.runtime.inner.docker.list_containers(Some(options)).await.unwrap();
        all.into_iter()
            .filter(|found| found.command.as_deref().is_some_and(|line| line.contains("is wrong")))
            .count()
    };
    let built = bench.runtime.prepare(&broken, &bench.files).await;
    let Err(ImageError::Unavailable(why)) = built else { panic!("{built:?}") };
    assert!(why.contains("building the image failed: ") && why.contains("code: 7"), "{why}");
    assert!(why.contains("\n  this is wrong"), "{why}");
    assert_eq!(containers().await, 0, "no container of the build is left over");
    let digest = crate::images::build_digest(&parts.0, &parts.1, &parts.2);
    let labelled = HashMap::from([("label", vec![format!("{}={digest}", crate::images::BUILD_LABEL)])]);
    let options = ListImagesOptionsBuilder::default().all(true).filters(&labelled).build();
    assert_eq!(bench.runtime.inner.docker.list_images(Some(options)).await.unwrap(), [], "and no image");
    let mut no_files = Files::default();
    let lost = variant(&mut bench, None, "true");
    std::mem::swap(&mut no_files, &mut bench.files);
    assert!(matches!(bench.runtime.prepare(&lost, &bench.files).await, Err(ImageError::Unavailable(_))));
    bench.close().await;
}

#[tokio::test]
async fn an_image_is_built_once_with_any_file_name() {
    let Some(mut bench) = Bench::open().await else { return };
    let path = "/odd dir/$HOME 'q' \"d\" \\x";
    let unique = format!("echo {} > /stamp; cat /proc/sys/kernel/random/uuid >> /stamp", bench.agent_id);
    let image = variant(&mut bench, Some(path), &unique);
    let prepare = || bench.runtime.prepare(&image, &bench.files);
    let (first, second, third) = tokio::join!(prepare(), prepare(), prepare());
    let first = first.unwrap();
    assert_eq!((&first, &first), (&second.unwrap(), &third.unwrap()));
    let name = first.handle.clone();
    assert_eq!(prepare().await.unwrap().handle, name, "a later call finds it");
    let mut link = bench.start_with(0, |shape| shape.image = first).await;
    let script = "for f in '/odd dir'/*; do printf '%s\\n' \"$f\"; stat -c %a \"$f\"; done; head -n 1 /stamp";
    check_lines(&mut link, script, &[path, "751", &bench.agent_id]).await;
    drop(link);
    sweep(&bench.runtime, &BTreeSet::new()).await.unwrap();
    bench.runtime.inner.docker.remove_image(&name, None::<RemoveImageOptions>, None).await.unwrap();
    bench.close().await;
}

/// Not a test of speed: it tells what a worker costs on this machine (`--nocapture`).
#[tokio::test]
async fn a_worker_s_cost_is_measured() {
    let Some(bench) = Bench::open().await else { return };
    let mut costs = [Duration::ZERO; 3];
    let count = 5;
    for index in 0..count {
        let spec = bench.spec(index).await;
        let begin = Instant::now();
        let connection = bench.runtime.create(&spec).await.unwrap();
        let created = Instant::now();
        assert_eq!(Link::open(connection).await.run(&shell("true")).await.0, Outcome::Exited(0));
        let ran = Instant::now();
        bench.runtime.discard(&spec.id).await.unwrap();
        for (cost, step) in costs.iter_mut().zip([created - begin, ran - created, ran.elapsed()]) {
            *cost += step / count;
        }
    }
    println!(
        "a worker: created and connected {:?}, one task {:?}, discarded {:?}",
        costs[0], costs[1], costs[2]
    );
    bench.close().await;
}
