//! From init's frames to the agent's own words.

use super::{InitExit, LinkError};
use crate::domain::{Outcome, Usage};
use bytes::BytesMut;
use piecework_init::frame::{self, Event};
use tokio_util::codec::Decoder;

/// An exit in the agent's words.
pub(super) fn exit(exit: frame::Exit) -> InitExit {
    InitExit {
        outcome: match exit.outcome {
            frame::Outcome::Exited(code) => Outcome::Exited(code),
            frame::Outcome::Signaled(signal) => Outcome::Signaled(signal),
            frame::Outcome::TimedOut => Outcome::TimedOut,
            frame::Outcome::OutOfMemory => Outcome::OutOfMemory,
            frame::Outcome::CouldNotStart(why) => Outcome::CouldNotStart(why),
            frame::Outcome::OutputLimit => Outcome::OutputLimit,
            frame::Outcome::Cancelled => Outcome::Cancelled,
        },
        usage: Usage {
            wall_micros: exit.usage.wall_micros,
            user_micros: exit.usage.user_micros,
            system_micros: exit.usage.system_micros,
            peak_memory_bytes: exit.usage.peak_memory_bytes,
            ..Usage::default()
        },
        stdout_length: exit.stdout_length,
        stderr_length: exit.stderr_length,
    }
}

/// Takes events out of a stream.
pub(super) struct EventDecoder;

impl Decoder for EventDecoder {
    type Item = Event;
    type Error = LinkError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Event>, LinkError> {
        let Some((event, length)) = frame::decode(bytes)? else { return Ok(None) };
        let _ = bytes.split_to(length);
        Ok(Some(event))
    }
}
