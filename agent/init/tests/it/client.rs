//! An init as a child of the test, and an agent's end of a connection to it.

use piecework_init::frame::{
    Decoder, Event, Exit, FRAME_VERSION, Frame, Held, HeldState, Offsets, Outcome, Request, Run, Stream,
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

    /// Connects, and expects init to hold nothing.
    pub(crate) fn idle(&self) -> Link {
        let mut link = self.connect();
        assert_eq!(link.hello(), []);
        link
    }

    /// Connects until the only run that is held has ended.
    pub(crate) fn ended(&self) -> Link {
        loop {
            let mut link = self.connect();
            match link.hello().as_slice() {
                [Held { state: HeldState::Ended, .. }] => return link,
                [_] => {}
                other => panic!("{other:?}"),
            }
        }
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
    Link {
        stream,
        decoder: Decoder::default(),
        number: 0,
        output: [Vec::new(), Vec::new()],
        started: false,
        credit: 0,
    }
}

/// An agent's end, which follows one run at a time.
pub(crate) struct Link {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    /// The run that was sent last.
    pub(crate) number: u64,
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

    /// What init holds.
    pub(crate) fn hello(&mut self) -> Vec<Held> {
        match self.event() {
            Some(Event::Hello { version: FRAME_VERSION, held, spent: None, .. }) => {
                self.number = held.last().map_or(self.number, |held| held.run);
                held
            }
            other => panic!("{other:?}"),
        }
    }

    /// Goes on with the run that was sent last, of which this much of stdout is there.
    pub(crate) fn resume(&mut self, stdout: u64) {
        self.send(&Request::Resume(vec![Offsets { run: self.number, stdout, stderr: 0 }]));
    }

    pub(crate) fn kill(&mut self, grace: Duration) {
        self.send(&Request::Kill { run: self.number, grace });
    }

    pub(crate) fn stdin(&mut self, bytes: Vec<u8>) {
        self.send(&Request::Stdin { run: self.number, bytes });
    }

    /// Takes one event in, acknowledging output; returns the exit if it is that.
    pub(crate) fn step(&mut self) -> Option<Exit> {
        match self.event().expect("init closed the connection") {
            Event::Started { run } if run == self.number => self.started = true,
            Event::Output { run, stream, offset, bytes } if run == self.number => {
                let kept = &mut self.output[stream.index()];
                assert_eq!(offset, kept.len() as u64, "output follows without gaps");
                assert!(!bytes.is_empty());
                kept.extend_from_slice(&bytes);
                let offset = kept.len() as u64;
                self.send(&Request::Ack { run, stream, offset });
            }
            Event::StdinWritten { run, bytes } if run == self.number => self.credit += bytes,
            Event::Exited { run, exit } if run == self.number => {
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
                self.send(&Request::Release { through: self.number });
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

    /// Sends a run with the next number; the one that is followed from here on.
    pub(crate) fn run(&mut self, run: Run) {
        self.number += 1;
        self.output = [Vec::new(), Vec::new()];
        self.started = false;
        self.send(&Request::Run(Run { number: self.number, ..run }));
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
