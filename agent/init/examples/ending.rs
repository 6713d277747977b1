//! Ends in the way that the name says under which it is called, or else its first argument: `exit-7`, `signal-11`,
//! `late`, `memory`, `child-memory`, `prints`, `processes`, `daemon-7`, `deaf`, `kills-everyone`.

use nix::{
    libc,
    sys::signal::{SigHandler, Signal, kill, raise, signal},
    unistd::{ForkResult, Pid, fork, setsid},
};
use std::{io::Write as _, path::Path, process::ExitCode, thread::sleep, time::Duration};

/// Longer than any time limit that a test gives.
const LATE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    let name =
        Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = if name == "ending" { words.next().unwrap_or_default() } else { name };
    let (way, number) = match name.rsplit_once('-').map(|(way, number)| (way, number.parse::<u8>())) {
        Some((way, Ok(number))) => (way.to_owned(), number),
        _ => (name, 0),
    };
    match way.as_str() {
        "exit" => ExitCode::from(number),
        "signal" => {
            if let Ok(sent) = Signal::try_from(i32::from(number)) {
                // Rust's own handler looks for overflows of the stack.
                // SAFETY: the default action runs no code of ours.
                let _ = unsafe { signal(sent, SigHandler::SigDfl) };
                let _ = raise(sent);
            }
            ExitCode::from(64)
        }
        "late" => {
            sleep(LATE);
            ExitCode::SUCCESS
        }
        // Every way to miss the end of its time: no signal is heard, the group and the session are left, nothing is printed.
        "deaf" => {
            for ignored in Signal::iterator() {
                // SAFETY: ignoring runs no code of ours.
                let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
            }
            in_background(|| sleep(LATE));
            // SAFETY: nothing is printed after this.
            unsafe { libc::close(1) };
            sleep(LATE);
            ExitCode::SUCCESS
        }
        "memory" => use_up_memory(),
        // The leader is not the one that is killed.
        "child-memory" => {
            // SAFETY: this program has one thread.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => use_up_memory(),
                Ok(ForkResult::Parent { child }) => {
                    let _ = nix::sys::wait::waitpid(child, None);
                    ExitCode::from(number)
                }
                Err(_) => ExitCode::from(64),
            }
        }
        "prints" => loop {
            if std::io::stdout().write_all(&[b'x'; 1 << 16]).is_err() {
                return ExitCode::from(64);
            }
        },
        // Fails as a shell does that can't fork.
        "processes" => loop {
            // SAFETY: this program has one thread.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => sleep(LATE),
                Ok(ForkResult::Parent { .. }) => {}
                Err(_) => return ExitCode::from(254),
            }
        },
        // Succeeds or fails, and leaves somebody behind.
        "daemon" => {
            in_background(|| sleep(LATE));
            ExitCode::from(number)
        }
        "kills-everyone" => {
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            let _ = raise(Signal::SIGKILL);
            ExitCode::from(64)
        }
        _ => ExitCode::from(64),
    }
}

/// Touches more and more of it.
fn use_up_memory() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&held);
    }
}

fn in_background(run: impl Fn()) {
    // SAFETY: this program has one thread.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        let _ = setsid();
        // SAFETY: as above.
        if let Ok(ForkResult::Child) = unsafe { fork() } {
            run();
        }
        // SAFETY: ends the child without running anything that belongs to its parent.
        unsafe { libc::_exit(0) }
    }
}
