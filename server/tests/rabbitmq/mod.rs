//! A RabbitMQ of the tests' own: Debian's `rabbitmq-server` as a plain process on a free port. It ends with the process
//! that started it, however that ends.

use std::{
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Where Debian has the program that runs as whoever calls it.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(120);

/// Runs a node until its stdin ends.
const UNTIL_STDIN_ENDS: &str = r#"
setsid "$0"/rabbitmq-server >"$HOME/log" 2>&1 </dev/null &
read -r word
kill -9 -$!
wait $! 2>/dev/null
epmd -kill >/dev/null 2>&1
[ "$word" = keep ] || rm -rf "$HOME"
"#;

/// A node.
pub(crate) struct Node {
    dir: TempDir,
    shell: Option<Child>,
    ports: [u16; 3],
}

impl Node {
    /// Starts one. None where there is no RabbitMQ, unless that is required.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(|_| String::new())
    }

    /// The same with more lines in its configuration, which may name files that are put into its directory.
    pub(crate) fn start_with(configure: impl FnOnce(&Path) -> String) -> Option<Self> {
        if !Path::new(PROGRAMS).join("rabbitmq-server").exists() {
            let required = std::env::var_os("PIECEWORK_TEST_REQUIRE_RABBITMQ").is_some();
            assert!(!required, "a test that must run here can't: rabbitmq-server is not installed");
            let _ = io::stderr().write_all(b"skipped: rabbitmq-server is not installed\n");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let held = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
        let ports = held.each_ref().map(|port| port.local_addr().expect("its address").port());
        drop(held);
        let config = format!(
            "listeners.tcp.default = 127.0.0.1:{}\nloopback_users = none\ndisk_free_limit.absolute = 50MB\n\
             log.console = true\nlog.file = false\n{}",
            ports[0],
            configure(dir.path())
        );
        fs::write(dir.path().join("rabbitmq.conf"), config).expect("a file");
        fs::write(dir.path().join("plugins"), "[].\n").expect("a file");
        let mut node = Self { dir, shell: None, ports };
        node.up();
        Some(node)
    }

    /// Where it listens, with a user that may do everything.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.ports[0])
    }

    /// Starts it again, with what it had on its disk.
    pub(crate) fn up(&mut self) {
        let mut command = Command::new("sh");
        command.args(["-c", UNTIL_STDIN_ENDS, PROGRAMS]).stdin(Stdio::piped());
        self.shell = Some(self.in_place(&mut command).spawn().expect("a shell"));
        let until = Instant::now() + START_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[0])).is_err() {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "RabbitMQ does not start:\n{}", log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// `kill -9`; what it has on its disk stays.
    pub(crate) fn kill(&mut self) {
        let mut shell = self.shell.take().expect("a node that runs");
        let mut stdin = shell.stdin.take().expect("its stdin");
        stdin.write_all(b"keep\n").expect("a shell that reads");
        drop(stdin);
        shell.wait().expect("its end");
    }

    /// `rabbitmqctl` with these arguments.
    pub(crate) fn control(&self, args: &[&str]) {
        let mut command = Command::new(Path::new(PROGRAMS).join("rabbitmqctl"));
        let output = self.in_place(command.args(args)).output().expect("rabbitmqctl");
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    fn in_place<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let [port, distribution, names] = self.ports.map(|port| port.to_string());
        let in_dir = |name| self.dir.path().join(name);
        command
            // Where it leaves what it dumps.
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env("ERL_EPMD_PORT", names)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("piecework-{port}@localhost"))
            .env("RABBITMQ_DIST_PORT", distribution)
            .env("RABBITMQ_CONFIG_FILE", in_dir("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", in_dir("plugins"))
            .env("RABBITMQ_MNESIA_BASE", in_dir("mnesia"))
            .env("RABBITMQ_LOG_BASE", in_dir("logs"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", in_dir("config"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", in_dir("feature-flags"))
            .env("RABBITMQ_PID_FILE", in_dir("pid"))
    }
}
