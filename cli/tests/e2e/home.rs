//! A user's place: a data directory of its own, project files, and the programs.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// What tasks run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Docker,
    Process,
}

impl Runtime {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }

    /// This machine can't run tests in it, and says so. With PIECEWORK_TEST_REQUIRE_DOCKER, as in CI, that is a failure.
    pub(crate) fn is_missing(self) -> bool {
        static WHY: OnceLock<Option<&'static str>> = OnceLock::new();
        let docker = || Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
        let why = *WHY.get_or_init(|| match docker() {
            Ok(output) if output.status.success() => {
                busybox().is_none().then_some("there is no static busybox (package busybox-static)")
            }
            _ => Some("no Docker engine answers"),
        });
        let Some(why) = why.filter(|_| self == Self::Docker) else { return false };
        let required = std::env::var_os("PIECEWORK_TEST_REQUIRE_DOCKER").is_some();
        assert!(!required, "a test that must run here can't: {why}");
        eprintln!("not run: {why}");
        true
    }

    /// An image with a shell, and how a project file names it.
    pub(crate) fn image(self) -> &'static str {
        match self {
            Self::Docker => busybox_image(),
            // Not looked at.
            Self::Process => "busybox",
        }
    }
}

/// A data directory with what belongs to it.
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) runtime: Runtime,
    /// What coordinators and agents of fleets are started with, beside what they have anyway.
    pub(crate) env: Vec<(&'static str, PathBuf)>,
}

impl Home {
    pub(crate) fn new(runtime: Runtime) -> Self {
        let dir = tempfile::Builder::new().prefix("piecework-e2e-").tempdir().expect("a temporary directory");
        Self { dir, runtime, env: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the temporary directory");
        path
    }

    /// `piecework` with these arguments, in this place.
    pub(crate) fn piecework(&self, args: &[&str]) -> Command {
        let mut command = program("piecework");
        command.args(args).current_dir(self.dir.path()).env("PIECEWORK_DATA", self.data());
        command
    }

    /// Runs `piecework` to its end.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        finish(self.piecework(args).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()))
    }

    /// Runs a project file in an embedded coordinator.
    pub(crate) fn run(&self, file: &Path) -> Output {
        let file = file.to_string_lossy().into_owned();
        self.output(&["run", "--runtime", self.runtime.name(), &file])
    }

    /// A coordinator in a process of its own.
    pub(crate) fn server(&self) -> Program {
        self.server_with(&[])
    }

    /// With more options.
    pub(crate) fn server_with(&self, args: &[&str]) -> Program {
        let log = self.log("server.log");
        let mut command = program("piecework-server");
        command.arg("--data").arg(self.data()).args(args).envs(self.env.iter().cloned());
        command.stdout(log.try_clone().expect("the log")).stderr(log);
        let server = Program(command.spawn().expect("piecework-server"));
        self.wait("the coordinator listens", || self.output(&["ls"]).status.success());
        server
    }

    /// An agent in a process of its own.
    pub(crate) fn agent(&self, slots: u32) -> Program {
        let log = self.log("agent.log");
        let mut command = program("piecework-agent");
        command
            .arg("--data")
            .arg(self.data().join("agent"))
            .arg("--server")
            .arg(self.data().join("piecework.sock"))
            .args(["--runtime", self.runtime.name(), "--slots", &slots.to_string()])
            .stdout(log.try_clone().expect("the log"))
            .stderr(log);
        Program(command.spawn().expect("piecework-agent"))
    }

    /// An agent of a fleet, with a data directory of its own.
    pub(crate) fn agent_of_fleet(&self, name: &str, address: &str, token: &str, args: &[&str]) -> Program {
        let log = self.log("agent.log");
        let mut command = program("piecework-agent");
        command
            .arg("--data")
            .arg(self.path(&format!("agent-{name}")))
            .args(["--server", address, "--name", name, "--runtime", self.runtime.name()])
            .args(args)
            .env("PIECEWORK_JOIN_TOKEN", token)
            .envs(self.env.iter().cloned())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log);
        Program(command.spawn().expect("piecework-agent"))
    }

    fn log(&self, name: &str) -> File {
        File::options().create(true).append(true).open(self.path(name)).expect("a log")
    }

    /// What the programs logged, for the message of a failed test.
    pub(crate) fn logs(&self) -> String {
        ["server.log", "agent.log"]
            .map(|name| {
                let text = fs::read_to_string(self.path(name)).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(40).collect();
                format!("--- {name}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
            })
            .join("\n")
    }

    /// Waits until something holds.
    pub(crate) fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain until {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The containers of this place's agent.
    pub(crate) fn containers(&self) -> Vec<String> {
        containers_of(&self.data().join("agent"))
    }

    /// The data directories of its agents.
    fn agents(&self) -> Vec<PathBuf> {
        let inside = fs::read_dir(self.dir.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        inside.chain([self.data().join("agent")]).filter(|dir| dir.join("agent-id").exists()).collect()
    }
}

/// The containers of the agent with this data directory. They are labelled with the first eight digits of its id.
pub(crate) fn containers_of(agent: &Path) -> Vec<String> {
    let id = fs::read_to_string(agent.join("agent-id")).expect("the agent's id");
    let filter = format!("label=piecework.agent={}", id.get(..8).expect("eight digits"));
    docker(&["ps", "--all", "--quiet", "--filter", &filter]).lines().map(str::to_owned).collect()
}

/// An agent that is killed with its test leaves its workers to the next one, which there is none of.
impl Drop for Home {
    fn drop(&mut self) {
        if self.runtime != Runtime::Docker {
            return;
        }
        for agent in self.agents() {
            let containers = containers_of(&agent);
            if !containers.is_empty() {
                let _ = Command::new("docker").args(["rm", "--force"]).args(containers).output();
            }
        }
    }
}

/// A program in the background. Killed with the test.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        self.0.wait().expect("wait")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of our programs, beside this test.
fn program(name: &str) -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name(name);
    assert!(
        beside.exists(),
        "{} is missing: run `cargo test --workspace`, or build it first",
        beside.display()
    );
    let mut command = Command::new(beside);
    // Nothing of the developer's own settings.
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("PIECEWORK_")) {
        command.env_remove(key);
    }
    command
}

/// Runs a command to its end, with a bound.
pub(crate) fn finish(command: &mut Command) -> Output {
    let mut child = command.spawn().expect("the program starts");
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut bytes).expect("its output");
            }
            bytes
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("its status") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let text = stderr.join().unwrap_or_default();
            panic!("{command:?} does not end; stderr: {}", String::from_utf8_lossy(&text));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Output {
        status,
        stdout: stdout.join().expect("the reader of stdout"),
        stderr: stderr.join().expect("the reader of stderr"),
    }
}

/// Runs `docker`, which must succeed.
pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker")
        .args(args)
        .output()
        .expect("docker is needed for this test: install and start it");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

fn busybox() -> Option<&'static Path> {
    ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists())
}

/// An image with nothing but busybox, made here, as no registry is at hand.
pub(crate) fn busybox_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let name = "piecework-e2e-busybox:local".to_owned();
        let known = Command::new("docker").args(["image", "inspect", &name]).output();
        if known.expect("docker is needed for this test: install and start it").status.success() {
            return name;
        }
        let busybox = busybox().expect("a static busybox, as was asked before");
        let root = tempfile::tempdir().expect("a temporary directory");
        let bin = root.path().join("bin");
        fs::create_dir(&bin).expect("bin");
        fs::copy(busybox, bin.join("busybox")).expect("busybox");
        let applets = Command::new(busybox).arg("--list").output().expect("the list of applets");
        for applet in String::from_utf8(applets.stdout).expect("text").lines() {
            if applet != "busybox" {
                std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link");
            }
        }
        import(root.path(), &name, &[]);
        name
    })
}

/// Makes an image of what is in a directory.
pub(crate) fn import(root: &Path, name: &str, changes: &[&str]) {
    let tar = Command::new("tar")
        .arg("-C")
        .arg(root)
        .args(["--owner=0", "--group=0", "-c", "."])
        .output()
        .expect("tar");
    let mut import = Command::new("docker")
        .arg("import")
        .args(changes.iter().flat_map(|change| ["--change", change]))
        .args(["-", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("docker is needed for this test: install and start it");
    import.stdin.take().expect("its stdin").write_all(&tar.stdout).expect("the image");
    assert!(import.wait().expect("docker import").success(), "docker import failed");
}

/// One of the programs that play tasks; cargo builds them with the tests.
pub(crate) fn player(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo test --workspace`, or build it first", path.display());
    path
}

/// An image with those programs in `/bin`, and the libraries that they are linked with.
pub(crate) fn players_image(names: &[&str], changes: &[&str], add: impl FnOnce(&Path)) -> Image {
    let root = tempfile::tempdir().expect("a temporary directory");
    let place = |from: &Path, to: &Path| {
        let to = root.path().join(to.strip_prefix("/").unwrap_or(to));
        fs::create_dir_all(to.parent().expect("a parent")).expect("its directory");
        fs::copy(from, to).expect("a file of the image");
    };
    for name in names {
        let program = player(name);
        place(&program, &Path::new("/bin").join(name));
        let linked = Command::new("ldd").arg(&program).output().expect("ldd");
        for word in String::from_utf8(linked.stdout).expect("text").split_whitespace() {
            if word.starts_with('/') {
                place(Path::new(word), Path::new(word));
            }
        }
    }
    add(root.path());
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let image = Image(format!("piecework-e2e-players:{}-{count}", std::process::id()));
    import(root.path(), &image.0, changes);
    image
}

/// An image of one test's own. Removed with it.
pub(crate) struct Image(pub(crate) String);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).stdout(Stdio::null()).status();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
