//! From init's frames to the agent's own words.

use super::InitExit;
use crate::domain::{Outcome, OutputStream, Usage};
use piecework_init::frame;

/// An exit in the agent's words.
pub(super) fn exit(exit: frame::Exit) -> InitExit {
    InitExit {
        outcome: match exit.outcome {
            frame::Outcome::Exited(code) => Outcome::Exited(code),
            frame::Outcome::Signaled(signal) => Outcome::Signaled(signal),
            frame::Outcome::TimedOut => Outcome::TimedOut,
            frame::Outcome::OutOfMemory => Outcome::OutOfMemory,
            frame::Outcome::CouldNotStart(why) => Outcome::CouldNotStart(frame::cut_message(why)),
            frame::Outcome::OutputLimit => Outcome::OutputLimit,
            frame::Outcome::Cancelled => Outcome::Cancelled,
            frame::Outcome::PidsLimit => Outcome::PidsLimit,
        },
        usage: Usage {
            wall_micros: exit.usage.wall_micros,
            user_micros: exit.usage.user_micros,
            system_micros: exit.usage.system_micros,
            peak_memory_bytes: exit.usage.peak_memory_bytes,
            oom_kills: exit.usage.oom_kills,
            pids_refused: exit.usage.pids_refused,
        },
        stdout_length: exit.stdout_length,
        stderr_length: exit.stderr_length,
    }
}

/// The stream in the agent's words.
pub(super) const fn stream_of(stream: frame::Stream) -> OutputStream {
    match stream {
        frame::Stream::Stdout => OutputStream::Stdout,
        frame::Stream::Stderr => OutputStream::Stderr,
    }
}
