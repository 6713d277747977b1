//! The frames between an agent and an init: what they say, how long they may be, and their bytes.
//!
//! A frame is a length (`u32`, little endian, of what follows), a tag (`u8`) and the fields of that tag. The agent sends
//! [`Request`]s, init sends [`Event`]s. Every kind of frame has a limit of its own, which is checked before the frame is
//! waited for; a frame that is too long, has an unknown tag, ends early or goes on after its last field is a
//! [`FrameError`], after which the connection is of no use.
//!
//! The course of a connection:
//!
//! ```text
//! init   Hello(held)
//! agent  Recall Resume           if Hello names runs: first what has not begun is taken back
//! agent  Run Run Run …           ahead of need, so that init goes from one to the next by itself
//! init   Started                 of each run in its turn (not after Resume)
//! init   Output …  StdinWritten …
//! agent  Ack …  Stdin …  CloseStdin  Kill
//! init   Exited                  after the last Output of both streams; then the next run begins
//! agent  Release                 any number of ended runs at once
//! ```
//!
//! init runs one attempt at a time, in the order in which they came. It begins one only while an agent is connected, so
//! that an agent which comes back can take back what was queued and knows what has begun. Before it begins one, it
//! writes the run's number to the file [`BEGUN`] beside its socket, which outlives the worker.

mod event;
mod primitives;
mod request;

pub use event::{Event, Exit, Held, HeldState, Outcome, Usage};
pub use primitives::{Decoder, Frame, FrameError, Reader, Writer, decode};
pub use request::{Offsets, Request, Run};

/// The version of the frames; told in [`Event::Hello`]. An agent that was updated may meet an older init.
pub const FRAME_VERSION: u16 = 2;

/// The file beside the socket that says which run was begun last: its number, 8 bytes, little endian. Without the file,
/// or while it is empty, none was.
pub const BEGUN: &str = "begun";

/// Longest [`Request::Run`]. The kernel takes at most 6 MiB of arguments and variables.
pub const RUN_FRAME_BYTES_MAX: usize = 8 << 20;

/// Longest frame of any other kind.
pub const FRAME_BYTES_MAX: usize = 128 << 10;

/// Most bytes in one [`Event::Output`] or [`Request::Stdin`].
pub const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Most bytes of one output stream that init keeps unacknowledged. When it has that much, it stops reading the pipe.
pub const UNACKED_BYTES_MAX: usize = 1 << 20;

/// Most bytes of stdin that may be on their way: sent, and not yet credited by [`Event::StdinWritten`]. An agent that
/// sends more breaks the protocol.
pub const STDIN_BYTES_MAX: usize = 1 << 20;

/// Longest text of a message for people, such as why a command could not be started.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both, in the order of [`Stream::index`].
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// 0 for stdout, 1 for stderr.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// Cuts a message for people at [`MESSAGE_BYTES_MAX`].
#[must_use]
pub fn cut_message(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 3));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
