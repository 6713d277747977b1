//! With real processes. What a host allows differs: isolated and plain workers are both tried where both can be had.

use super::*;
use crate::{
    domain::{AttemptKey, ImageFile, Isolation, Outcome, Phase},
    init_link::{HeldState, InitEvent, InitLink, Offsets, RunCommand},
    runtime::WorkerShape,
    sweep::{Swept, sweep},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// One file.
struct OneFile([u8; 32], PathBuf);

#[async_trait]
impl Blobs for OneFile {
    async fn fetch(&self, sha256: &[u8; 32]) -> Result<PathBuf, ImageError> {
        if *sha256 == self.0 {
            Ok(self.1.clone())
        } else {
            Err(ImageError::Unavailable("no such file".into()))
        }
    }
}

fn no_file() -> OneFile {
    OneFile([0; 32], PathBuf::new())
}

/// The runtime as it is on this host, and as it is where namespaces can't be had.
async fn runtimes(data: &Path) -> Vec<ProcessRuntime> {
    let found = ProcessRuntime::new(&data.join("found")).await.unwrap();
    let mut all = vec![];
    if found.isolates() {
        let plain = ProcessRuntime::new(&data.join("plain")).await.unwrap();
        let mut inner = Arc::into_inner(plain.inner).unwrap();
        inner.isolates = false;
        all.push(ProcessRuntime { inner: Arc::new(inner) });
    }
    all.push(found);
    all
}

async fn spec(runtime: &ProcessRuntime, id: &str) -> WorkerSpec {
    let image = runtime.prepare(&ImageSpec::Reference("any".into()), &no_file()).await.unwrap();
    spec_of(image, id)
}

fn spec_of(image: Arc<PreparedImage>, id: &str) -> WorkerSpec {
    let shape = WorkerShape {
        image,
        isolation: Isolation::Sealed,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        workdir: None,
    };
    WorkerSpec { id: WorkerId(id.into()), shape: Arc::new(shape) }
}

fn key(index: u32) -> AttemptKey {
    AttemptKey { project: 1, phase: Phase::Task, index, attempt: 1 }
}

fn shell(script: &str, env: &[(String, String)]) -> RunCommand {
    RunCommand {
        number: 1,
        attempt: key(0),
        command: ["sh", "-c", script].map(String::from).into(),
        env: env.to_vec(),
        workdir: None,
        timeout: Some(Duration::from_secs(60)),
        output_bytes_max: 10 << 20,
        has_stdin: false,
    }
}

/// Follows an attempt to its end, or to the end of its first line.
async fn follow(link: &mut InitLink, to_line: bool) -> (Option<Outcome>, String) {
    let mut all = Vec::new();
    loop {
        match link.event().await.unwrap() {
            InitEvent::Output { run, stream, offset, bytes } => {
                all.extend_from_slice(&bytes);
                link.ack(run, stream, offset + bytes.len() as u64);
                if to_line && all.ends_with(b"\n") {
                    link.flush().await.unwrap();
                    return (None, String::from_utf8(all).unwrap());
                }
            }
            InitEvent::Exited(run, exit) => {
                link.release(run);
                link.flush().await.unwrap();
                return (Some(exit.outcome), String::from_utf8(all).unwrap());
            }
            InitEvent::Started(_) | InitEvent::StdinWritten => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn start(runtime: &ProcessRuntime, spec: &WorkerSpec, script: &str) -> InitLink {
    let (mut link, hello) = InitLink::open(runtime.create(spec).await.unwrap()).await.unwrap();
    assert_eq!((hello.held, hello.spent), (vec![], None));
    link.run(&shell(script, &spec.shape.image.env)).unwrap();
    link
}

#[tokio::test]
async fn a_task_runs_with_the_host_s_commands() {
    let data = tempfile::tempdir().unwrap();
    for runtime in runtimes(data.path()).await {
        let spec = spec(&runtime, "a-1-task-0-1").await;
        let script = "echo from $(basename $(pwd)); cat /proc/self/comm; exit 5";
        let mut link = start(&runtime, &spec, script).await;
        let ended = follow(&mut link, false).await;
        assert_eq!(ended, (Some(Outcome::Exited(5)), "from work\ncat\n".into()));
        runtime.discard(&spec.id).await.unwrap();
        runtime.discard(&spec.id).await.unwrap();
        assert_eq!(runtime.workers().await.unwrap(), []);
    }
}

#[tokio::test]
async fn discarding_ends_everything_below() {
    let data = tempfile::tempdir().unwrap();
    for runtime in runtimes(data.path()).await {
        let spec = spec(&runtime, "a-1-task-0-1").await;
        let marker = data.path().join("marker");
        let touch = format!("trap '' TERM; while :; do touch {}; sleep 0.02; done", marker.display());
        let script =
            format!("trap '' TERM; (setsid sh -c \"{touch}\" &); echo up; while :; do sleep 1; done");
        let mut link = start(&runtime, &spec, &script).await;
        follow(&mut link, true).await;
        while !marker.exists() {
            sleep(Duration::from_millis(2)).await;
        }
        let file = pid_file(&runtime.inner.places.of(&spec.id).unwrap());
        assert!(piecework_init::running(&file).is_some());
        runtime.discard(&spec.id).await.unwrap();
        fs::remove_file(&marker).unwrap();
        sleep(Duration::from_millis(200)).await;
        assert!(!marker.exists(), "a process is still there");
        assert_eq!(runtime.why_gone(&spec.id).await, Gone::Worker("it was removed".into()));
    }
}

#[tokio::test]
async fn workers_outlive_their_agent_and_are_adopted() {
    let data = tempfile::tempdir().unwrap();
    for runtime in runtimes(data.path()).await {
        let first = spec(&runtime, "a-1-task-0-1").await;
        let mut link = start(&runtime, &first, "echo one; sleep 0.2; echo two").await;
        follow(&mut link, true).await;
        drop(link);
        drop(runtime.create(&spec(&runtime, "a-1-task-1-1").await).await.unwrap());

        let second = runtime.clone();
        assert_eq!(second.workers().await.unwrap().len(), 2);
        let (mut link, hello) = InitLink::open(second.connect(&first.id).await.unwrap()).await.unwrap();
        let [held] = hello.held.as_slice() else { panic!("{hello:?}") };
        assert_eq!((held.run, held.attempt.as_str()), (1, "1-task-0-1"));
        assert_ne!(held.state, HeldState::Queued);
        link.resume(vec![Offsets { run: 1, stdout: 4, stderr: 0 }]);
        let ended = follow(&mut link, false).await;
        assert_eq!(ended, (Some(Outcome::Exited(0)), "two\n".into()));
        assert_eq!(sweep(&second, &BTreeSet::new()).await.unwrap(), Swept { removed: 2, failed: 0 });
    }
}

#[tokio::test]
async fn a_lost_init_is_explained_and_its_pid_is_not_trusted() {
    let data = tempfile::tempdir().unwrap();
    for runtime in runtimes(data.path()).await {
        let spec = spec(&runtime, "a-1-task-0-1").await;
        let mut link = start(&runtime, &spec, "echo up; exec sleep 600").await;
        runtime.note(&spec.id, &[(1, key(0)), (2, key(1))], 0).unwrap();
        link.run(&RunCommand { number: 2, attempt: key(1), ..shell("true", &[]) }).unwrap();
        follow(&mut link, true).await;
        let file = pid_file(&runtime.inner.places.of(&spec.id).unwrap());
        kill(piecework_init::running(&file).unwrap(), Signal::SIGKILL).unwrap();
        assert!(link.event().await.is_err());
        assert!(vanished(&file).await);
        assert_eq!(runtime.why_gone(&spec.id).await, Gone::Worker("its init was killed".into()));
        assert_eq!(
            runtime.begun(&spec.id),
            Some(Begun { run: 1, attempts: vec![(1, key(0))] }),
            "the second never began"
        );
        assert!(runtime.connect(&spec.id).await.is_err());
        // The pid is another's now: this process's own. Were it believed, the test would end here.
        let own = piecework_init::identity(std::process::id().cast_signed()).unwrap();
        let fields: Vec<&str> = own.split(' ').collect();
        fs::write(&file, format!("{} 1 {}", fields[0], fields[2])).unwrap();
        runtime.discard(&spec.id).await.unwrap();
    }
}

#[tokio::test]
async fn the_files_of_an_image_come_before_the_host_s() {
    let data = tempfile::tempdir().unwrap();
    let source = data.path().join("script");
    fs::write(&source, "#!/bin/sh\necho own \"$@\"\n").unwrap();
    let sha256: [u8; 32] = Sha256::digest(fs::read(&source).unwrap()).into();
    let file = ImageFile {
        path: "/usr/bin/ls".into(),
        sha256,
        mode: 0o755,
        length: source.metadata().unwrap().len(),
    };
    let build = |run: &[&str], file: &ImageFile| ImageSpec::Build {
        from: "scratch".into(),
        files: vec![file.clone()],
        run: run.iter().map(ToString::to_string).collect(),
    };
    for runtime in runtimes(data.path()).await {
        let blobs = OneFile(sha256, source.clone());
        let image = build(&[], &file);
        let prepare = || runtime.prepare(&image, &blobs);
        let (first, second) = tokio::join!(prepare(), prepare());
        let image = first.unwrap();
        assert_eq!(image, second.unwrap());
        let spec = spec_of(image, "a-1-task-0-1");
        let mut link = start(&runtime, &spec, "ls a; /bin/echo host").await;
        assert_eq!(follow(&mut link, false).await.1, "own a\nhost\n");
        let direct =
            RunCommand { number: 2, command: vec!["/usr/bin/ls".into(), "b".into()], ..shell("", &[]) };
        link.run(&direct).unwrap();
        assert_eq!(follow(&mut link, false).await.1, "own b\n");
        runtime.discard(&spec.id).await.unwrap();

        let needs_docker = runtime.prepare(&build(&["true"], &file), &blobs).await;
        assert!(matches!(needs_docker, Err(ImageError::Unavailable(why)) if why.contains("needs Docker")));
        let missing =
            runtime.prepare(&build(&[], &ImageFile { sha256: [1; 32], ..file.clone() }), &blobs).await;
        assert!(matches!(missing, Err(ImageError::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_worker_that_can_t_start_says_why() {
    let data = tempfile::tempdir().unwrap();
    for runtime in runtimes(data.path()).await {
        let spec = spec(&runtime, "a-1-task-0-1").await;
        drop(runtime.create(&spec).await.unwrap());
        assert!(matches!(runtime.create(&spec).await, Err(WorkerError::Worker(_))), "it is there already");
        runtime.discard(&spec.id).await.unwrap();
        let mut inner = Arc::into_inner(runtime.inner).unwrap();
        inner.init = "/bin/false".into();
        let broken = ProcessRuntime { inner: Arc::new(inner) };
        assert!(matches!(broken.create(&spec).await, Err(WorkerError::Worker(_))));
        assert_eq!(broken.begun(&spec.id), Some(Begun::default()));
        broken.discard(&spec.id).await.unwrap();
        assert_eq!(broken.workers().await.unwrap(), []);
    }
}
