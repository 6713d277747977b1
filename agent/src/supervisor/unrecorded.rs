//! What the core knows of the outbox: the endings that the coordinator has not settled.

use crate::domain::{AttemptKey, Output, OutputStream, Report};
use std::collections::{BTreeMap, BTreeSet};

/// The most reports in the outbox before no more work is asked for, in reports.
pub const OUTBOX_REPORTS_MAX: usize = 4096;

/// The most output that rides in reports of the outbox before no more work is asked for, in bytes. It is in memory, too.
pub const OUTBOX_INLINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most output in spool files of the outbox before no more work is asked for, in bytes.
pub const OUTBOX_SPOOLED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// One ending.
#[derive(Debug)]
struct Entry {
    report: Report,
    /// Its place in the order of ending.
    order: u64,
    /// Nothing of it is left to upload.
    uploaded: bool,
}

/// All endings in the outbox.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    entries: BTreeMap<AttemptKey, Entry>,
    /// Those that can be reported and were not yet in this session, in the order of ending.
    unsent: BTreeMap<u64, AttemptKey>,
    next_order: u64,
    inline_bytes: u64,
    spooled_bytes: u64,
    full: bool,
}

impl Unrecorded {
    pub(super) fn contains(&self, attempt: AttemptKey) -> bool {
        self.entries.contains_key(&attempt)
    }

    pub(super) fn attempts(&self) -> Vec<AttemptKey> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// More is in the outbox than may be. Stays so until half of that has left, so that credits do not flutter.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Adds an ending. An attempt ends once: a second ending changes nothing.
    pub(super) fn add(&mut self, report: Report) {
        let attempt = report.attempt;
        if self.entries.contains_key(&attempt) {
            return;
        }
        let order = self.next_order;
        self.next_order += 1;
        let (inline, spooled) = sizes(&report);
        self.inline_bytes += inline;
        self.spooled_bytes = self.spooled_bytes.saturating_add(spooled);
        let uploaded = !report.stdout.is_spooled() && !report.stderr.is_spooled();
        if uploaded {
            self.unsent.insert(order, attempt);
        }
        self.entries.insert(attempt, Entry { report, order, uploaded });
        self.weigh();
    }

    pub(super) fn report(&self, attempt: AttemptKey) -> Option<Report> {
        self.entries.get(&attempt).map(|entry| entry.report.clone())
    }

    /// Removes an ending; tells whether it was there.
    pub(super) fn remove(&mut self, attempt: AttemptKey) -> bool {
        let Some(entry) = self.entries.remove(&attempt) else { return false };
        self.unsent.remove(&entry.order);
        let (inline, spooled) = sizes(&entry.report);
        self.inline_bytes -= inline;
        self.spooled_bytes = self.spooled_bytes.saturating_sub(spooled);
        self.weigh();
        true
    }

    /// Nothing of it is left to upload: it can be reported.
    pub(super) fn uploaded(&mut self, attempt: AttemptKey) {
        if let Some(entry) = self.entries.get_mut(&attempt)
            && !entry.uploaded
        {
            entry.uploaded = true;
            self.unsent.insert(entry.order, attempt);
        }
    }

    /// Whether it is still to be uploaded.
    pub(super) fn waits_for_upload(&self, attempt: AttemptKey) -> bool {
        self.entries.get(&attempt).is_some_and(|entry| !entry.uploaded)
    }

    /// Which of its outputs are spooled, with their lengths.
    pub(super) fn spooled(&self, attempt: AttemptKey) -> Vec<(OutputStream, u64)> {
        let Some(Entry { report, .. }) = self.entries.get(&attempt) else { return Vec::new() };
        let outputs = [(OutputStream::Stdout, &report.stdout), (OutputStream::Stderr, &report.stderr)];
        let spooled = outputs.into_iter().filter_map(|(stream, output)| match output {
            Output::Inline(_) => None,
            Output::Spooled { length, .. } => Some((stream, *length)),
        });
        spooled.collect()
    }

    /// All that are still to be uploaded, in the order of ending.
    pub(super) fn to_upload(&self) -> Vec<AttemptKey> {
        let by_order: BTreeMap<u64, AttemptKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.uploaded)
            .map(|(attempt, entry)| (entry.order, *attempt))
            .collect();
        by_order.into_values().collect()
    }

    /// A new session: everything is to be reported again.
    pub(super) fn send_all_again(&mut self) {
        self.unsent = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.uploaded)
            .map(|(attempt, entry)| (entry.order, *attempt))
            .collect();
    }

    /// What was reported in this session.
    pub(super) fn sent(&self) -> Vec<AttemptKey> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.uploaded && !self.unsent.contains_key(&entry.order))
            .map(|(attempt, _)| *attempt)
            .collect()
    }

    /// The next report to send in this session.
    pub(super) fn next_unsent(&mut self) -> Option<Report> {
        let (_, attempt) = self.unsent.pop_first()?;
        self.report(attempt)
    }

    fn weigh(&mut self) {
        let over = |share: u64| {
            self.entries.len() as u64 > OUTBOX_REPORTS_MAX as u64 / share
                || self.inline_bytes > OUTBOX_INLINE_BYTES_MAX / share
                || self.spooled_bytes > OUTBOX_SPOOLED_BYTES_MAX / share
        };
        self.full = if self.full { over(2) } else { over(1) };
    }

    /// Cross-checks the indexes and sums.
    pub(super) fn check(&self) {
        let orders: BTreeSet<u64> = self.entries.values().map(|entry| entry.order).collect();
        assert_eq!(orders.len(), self.entries.len(), "two endings in one place");
        assert!(orders.last().is_none_or(|last| *last < self.next_order), "an order beyond the next");
        for (order, attempt) in &self.unsent {
            let entry = self.entries.get(attempt);
            assert!(
                entry.is_some_and(|entry| entry.order == *order && entry.uploaded),
                "{attempt} can't be sent"
            );
        }
        let (mut inline, mut spooled) = (0, 0_u64);
        for (attempt, entry) in &self.entries {
            assert_eq!(*attempt, entry.report.attempt, "a report under another's key");
            let sizes = sizes(&entry.report);
            inline += sizes.0;
            spooled = spooled.saturating_add(sizes.1);
        }
        assert_eq!((inline, spooled), (self.inline_bytes, self.spooled_bytes), "sizes");
    }
}

/// Bytes of output that ride in a report, and bytes that are spooled.
pub(super) fn sizes(report: &Report) -> (u64, u64) {
    let mut sizes = (0, 0_u64);
    for output in [&report.stdout, &report.stderr] {
        match output {
            Output::Inline(bytes) => sizes.0 += bytes.len() as u64,
            Output::Spooled { length, .. } => sizes.1 = sizes.1.saturating_add(*length),
        }
    }
    sizes
}
