//! One output stream of an attempt: its pipe, and what was read from it and is kept.

use crate::{buffer::Unacked, frame::UNACKED_BYTES_MAX};
use nix::errno::Errno;
use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    slice,
};

/// How much is read from a pipe at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// The stream.
#[derive(Debug)]
pub(crate) struct Output {
    /// None at its end.
    pub(crate) pipe: Option<OwnedFd>,
    pub(crate) kept: Unacked,
}

/// What came of reading a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Some,
    NothingYet,
    NoRoom,
    End,
    /// Some, but more than the limit allows.
    OverLimit,
}

impl Output {
    pub(crate) fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, kept: Unacked::new(UNACKED_BYTES_MAX) }
    }

    /// Reads once. Keeps what the limit of both streams leaves, or nothing if all is to be thrown away.
    pub(crate) fn read(&mut self, bytes_left: &mut u64, discards: bool) -> Read {
        let Some(pipe) = &self.pipe else { return Read::End };
        let room = if discards { READ_BYTES_MAX } else { self.kept.room().min(READ_BYTES_MAX) };
        if room == 0 {
            return Read::NoRoom;
        }
        // Not zeroed: this is read anew for every short run.
        let mut buffer = [MaybeUninit::<u8>::uninit(); READ_BYTES_MAX];
        match read(pipe, &mut buffer[..room]) {
            Ok([]) => {}
            Ok(_) if discards => return Read::Some,
            Ok(bytes) => {
                let count = bytes.len();
                let kept = usize::try_from(*bytes_left).map_or(count, |left| left.min(count));
                self.kept.push(&bytes[..kept]);
                *bytes_left -= kept as u64;
                return if kept < count { Read::OverLimit } else { Read::Some };
            }
            Err(Errno::EAGAIN) => return Read::NothingYet,
            Err(Errno::EINTR) => return Read::Some,
            Err(_) => {}
        }
        self.pipe = None;
        Read::End
    }
}

/// Reads into memory that need not be initialised.
fn read<'a>(pipe: &OwnedFd, buffer: &'a mut [MaybeUninit<u8>]) -> nix::Result<&'a [u8]> {
    // SAFETY: the buffer is as long as is said, and any byte may be written to it.
    let count =
        Errno::result(unsafe { libc::read(pipe.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })?;
    let count = usize::try_from(count).unwrap_or(0).min(buffer.len());
    // SAFETY: the kernel has written this many bytes.
    Ok(unsafe { slice::from_raw_parts(buffer.as_ptr().cast(), count) })
}
