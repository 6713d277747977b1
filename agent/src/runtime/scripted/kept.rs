//! The output that a scripted worker keeps until the agent has it.

/// One output of one run.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
}

impl Kept {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What is kept from this offset on; none if it is not kept.
    pub(super) fn from(&self, offset: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(offset.checked_sub(self.start)?).ok()?..)
    }

    pub(super) fn forget_before(&mut self, offset: u64) -> bool {
        if offset > self.end() {
            return false;
        }
        let count = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(0);
        self.bytes.drain(..count);
        self.start += count as u64;
        true
    }
}
