//! The output that init keeps until the agent has it.

use std::collections::VecDeque;

/// The unacknowledged end of one output stream.
#[derive(Debug)]
pub(crate) struct Unacked {
    bytes: VecDeque<u8>,
    /// The offset of the first byte that is kept.
    start: u64,
    bytes_max: usize,
}

/// An offset outside of what is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

impl Unacked {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes: VecDeque::new(), start: 0, bytes_max }
    }

    /// How much more may be added.
    pub(crate) fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.len())
    }

    /// Adds bytes, at most [`Self::room`] of them.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.bytes.extend(bytes);
    }

    /// How much is kept.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The offset of the first byte that is kept.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The length of the stream so far.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Whether a reader can go on from this offset.
    pub(crate) fn holds(&self, offset: u64) -> bool {
        (self.start..=self.end()).contains(&offset)
    }

    /// Some bytes from this offset on, at most `bytes_max`; none at the end of the stream.
    pub(crate) fn chunk(&self, offset: u64, bytes_max: usize) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let (head, tail) = self.bytes.as_slices();
        let rest = match head.get(from..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => tail.get(from - head.len()..)?,
        };
        (!rest.is_empty()).then(|| &rest[..rest.len().min(bytes_max)])
    }

    /// Forgets what is before the offset. An offset that was passed already changes nothing.
    pub(crate) fn forget_before(&mut self, offset: u64) -> Result<(), OutOfRange> {
        if offset > self.end() {
            return Err(OutOfRange);
        }
        if let Ok(count) = usize::try_from(offset.saturating_sub(self.start)) {
            self.bytes.drain(..count);
            self.start += count as u64;
        }
        // A task that once printed much need not cost its worker memory for good.
        if self.bytes.is_empty() {
            self.bytes.shrink_to(IDLE_BYTES_MAX);
        }
        Ok(())
    }
}

/// How much memory an empty buffer keeps.
const IDLE_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_run_to_the_end_over_the_ring_s_seam() {
        let mut buffer = Unacked::new(8);
        buffer.push(b"abcdefgh");
        assert_eq!(buffer.room(), 0);
        buffer.forget_before(5).unwrap();
        buffer.push(b"ijklm");
        let (mut offset, mut read) = (5, Vec::new());
        while let Some(chunk) = buffer.chunk(offset, 3) {
            read.extend_from_slice(chunk);
            offset += chunk.len() as u64;
        }
        assert_eq!((read.as_slice(), offset), (b"fghijklm".as_slice(), buffer.end()));
    }

    #[test]
    fn offsets_outside_are_refused() {
        let mut buffer = Unacked::new(8);
        buffer.push(b"abcd");
        buffer.forget_before(2).unwrap();
        buffer.forget_before(1).unwrap();
        assert_eq!(buffer.forget_before(5), Err(OutOfRange));
        assert!(!buffer.holds(1) && buffer.holds(2) && buffer.holds(4) && !buffer.holds(5));
        assert_eq!(buffer.chunk(1, 9), None);
        assert_eq!(buffer.chunk(9, 9), None);
        assert_eq!(buffer.chunk(2, 9), Some(b"cd".as_slice()));
    }
}
