//! The way of stdin from frames to the task, and the credit for it.

use crate::frame::STDIN_BYTES_MAX;
use nix::{errno::Errno, unistd::write};
use std::{collections::VecDeque, os::fd::OwnedFd};

/// The stdin of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Stdin {
    /// None if the task has an empty stdin, reads no more, or has all of it.
    pipe: Option<OwnedFd>,
    expected: bool,
    waiting: VecDeque<u8>,
    closed: bool,
    received: u64,
    credit: u64,
}

impl Stdin {
    pub(crate) fn new(pipe: Option<OwnedFd>, expected: bool) -> Self {
        Self { pipe, expected, ..Self::default() }
    }

    /// The pipe, if there is something to write to it.
    pub(crate) fn wants_to_write(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref().filter(|_| !self.waiting.is_empty())
    }

    /// How much was received, and how much of that still waits.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.received, self.waiting.len() as u64)
    }

    /// Takes bytes from the agent.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if !self.expected {
            return Err("stdin for an attempt that has none");
        }
        if self.closed {
            return Err("stdin after its end");
        }
        if self.waiting.len() as u64 + self.credit + bytes.len() as u64 > STDIN_BYTES_MAX as u64 {
            return Err("more stdin than was credited");
        }
        self.received += bytes.len() as u64;
        self.waiting.extend(bytes);
        self.advance();
        Ok(())
    }

    /// No more bytes will come.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.advance();
    }

    /// Writes what the pipe takes.
    pub(crate) fn advance(&mut self) {
        while let Some(pipe) = &self.pipe {
            let (head, _) = self.waiting.as_slices();
            if head.is_empty() {
                break;
            }
            match write(pipe, head) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.credit += count as u64;
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // The task reads no more: the rest is not wanted.
                Err(_) => self.pipe = None,
            }
        }
        if self.pipe.is_none() {
            self.credit += self.waiting.len() as u64;
            self.waiting.clear();
        } else if self.closed {
            self.pipe = None;
        }
    }

    /// The task is gone.
    pub(crate) fn abandon(&mut self) {
        self.pipe = None;
        self.advance();
    }

    /// What was taken since the last call.
    pub(crate) fn take_credit(&mut self) -> u64 {
        std::mem::take(&mut self.credit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{fcntl::OFlag, unistd::pipe2};
    use std::{fs::File, io::Read};

    #[test]
    fn bytes_reach_the_pipe_and_are_credited_once() {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut stdin = Stdin::new(Some(write), true);
        stdin.receive(&[7; 100_000]).unwrap();
        let credited = stdin.take_credit();
        assert!(credited > 0 && credited < 100_000, "a pipe takes some of it: {credited}");
        assert_eq!(stdin.progress(), (100_000, 100_000 - credited));
        stdin.close();
        let (mut all, mut read) = (vec![0; 100_000], File::from(read));
        let mut count = read.read(&mut all).unwrap();
        stdin.advance();
        count += read.read(&mut all[count..]).unwrap();
        assert_eq!((count, stdin.take_credit()), (100_000, 100_000 - credited));
        assert_eq!(read.read(&mut all).unwrap(), 0, "it is closed at its end");
        assert!(stdin.receive(b"x").is_err());
    }

    #[test]
    fn what_nobody_reads_is_credited_all_the_same() {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut stdin = Stdin::new(Some(write), true);
        drop(read);
        stdin.receive(b"abc").unwrap();
        stdin.receive(b"de").unwrap();
        assert_eq!(stdin.take_credit(), 5);
    }

    #[test]
    fn too_much_is_refused() {
        let (_read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut stdin = Stdin::new(Some(write), true);
        stdin.receive(&vec![0; STDIN_BYTES_MAX]).unwrap();
        assert!(stdin.receive(b"x").is_err());
        assert!(Stdin::new(None, false).receive(b"x").is_err());
    }
}
