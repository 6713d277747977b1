//! An init as a child of the test, and an agent's end of a connection to it.

use piecework_init::frame::{
    Decoder, Event, Exit, FRAME_VERSION, Frame, Outcome, Request, Run, State, Stream,
};
use std::{
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};
use tempfile::TempDir;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE_SECS: u64 = 30;

/// An init. It is a subreaper here and not PID 1; everything below it is killed with it.
pub(crate) struct Init {
    pub(crate) child: Child,
    dir: TempDir,
}

impl Init {
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_piecework-init"))
            .arg("--socket")
            .arg(dir.path().join("init.sock"))
            .args(args)
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn connect(&self) -> Link {
        connect(&self.dir.path().join("init.sock"))
    }

    /// Connects, and expects init to be idle.
    pub(crate) fn idle(&self) -> Link {
        let mut link = self.connect();
        assert_eq!(link.hello(), State::Idle);
        link
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..PATIENCE_SECS * 500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("waited in vain: {what}");
}

pub(crate) fn connect(socket: &Path) -> Link {
    wait_until("the socket", || socket.exists());
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(PATIENCE_SECS))).unwrap();
    Link { stream, decoder: Decoder::default(), output: [Vec::new(), Vec::new()], started: false, credit: 0 }
}

/// An agent's end.
pub(crate) struct Link {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    pub(crate) output: [Vec<u8>; 2],
    pub(crate) started: bool,
    pub(crate) credit: u64,
}

impl Link {
    pub(crate) fn send(&mut self, request: &Request) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next event; none when init has closed the connection.
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.take().unwrap() {
                return Some(event);
            }
            let mut buffer = vec![0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn hello(&mut self) -> State {
        match self.event() {
            Some(Event::Hello { version: FRAME_VERSION, state }) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Takes one event in, acknowledging output; returns the exit if it is that.
    pub(crate) fn step(&mut self) -> Option<Exit> {
        match self.event().expect("init closed the connection") {
            Event::Started => self.started = true,
            Event::Output { stream, offset, bytes } => {
                let kept = &mut self.output[stream.index()];
                assert_eq!(offset, kept.len() as u64, "output follows without gaps");
                assert!(!bytes.is_empty());
                kept.extend_from_slice(&bytes);
                let offset = kept.len() as u64;
                self.send(&Request::Ack { stream, offset });
            }
            Event::StdinWritten { bytes } => self.credit += bytes,
            Event::Exited(exit) => {
                assert_eq!(exit.stdout_length, self.output[0].len() as u64);
                assert_eq!(exit.stderr_length, self.output[1].len() as u64);
                return Some(exit);
            }
            other => panic!("{other:?}"),
        }
        None
    }

    /// Follows the attempt to its end, and releases it.
    pub(crate) fn finish(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.step() {
                self.send(&Request::Release);
                return exit;
            }
        }
    }

    /// Follows the attempt until its stdout has this in it.
    pub(crate) fn read_until(&mut self, wanted: &str) {
        while !self.stdout().contains(wanted) {
            assert_eq!(self.step(), None, "it ended before it printed {wanted}");
        }
    }

    pub(crate) fn run(&mut self, run: Run) {
        self.send(&Request::Run(run));
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output[Stream::Stdout.index()]).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output[Stream::Stderr.index()]).into_owned()
    }
}

/// An attempt without limits.
pub(crate) fn command(words: &[&str]) -> Run {
    Run {
        attempt: "1-task-0-1".into(),
        command: words.iter().map(ToString::to_string).collect(),
        output_bytes_max: u64::MAX,
        ..Run::default()
    }
}

pub(crate) fn shell(script: &str) -> Run {
    command(&["/bin/sh", "-c", script])
}

/// Runs one attempt to its end in an init of its own.
pub(crate) fn run(attempt: Run) -> (Exit, Link) {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(attempt);
    let exit = link.finish();
    (exit, link)
}

#[track_caller]
pub(crate) fn check_outcome(attempt: Run, expected: &Outcome) -> (Exit, Link) {
    let (exit, link) = run(attempt);
    assert_eq!(exit.outcome, *expected, "stderr: {}", link.stderr());
    (exit, link)
}

/// Whether a process lives and is not only waiting to be collected.
pub(crate) fn lives(pid: i32) -> bool {
    piecework_init::identity(pid).is_some()
}

/// A file in the test's own directory.
pub(crate) fn path_in(dir: &Path, name: &str) -> (PathBuf, String) {
    let path = dir.join(name);
    let text = path.display().to_string();
    (path, text)
}
