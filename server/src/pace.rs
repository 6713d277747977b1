//! How often something is done at the most, by the generic cell rate algorithm: some at once, and then one each period.

use std::time::Duration;
use tokio::time::Instant;

/// Counts what is done.
#[derive(Debug)]
pub struct Pace {
    period: Duration,
    at_once: u32,
    /// When all so far had come if none came at once.
    even: Option<Instant>,
}

impl Pace {
    /// So many at once, after a pause that is long enough, and then one each period.
    #[must_use]
    pub const fn new(period: Duration, at_once: u32) -> Self {
        Self { period, at_once, even: None }
    }

    /// Counts one; the earliest time of the next one, if that has to wait. That is never more than one period away: who did not
    /// wait, as it does not have to for what is urgent, does not make up for it later.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let even = self.even.map_or(now, |even| even.max(now)) + self.period;
        let even = even.min(now + self.period * (self.at_once + 1));
        self.even = Some(even);
        even.checked_sub(self.period * self.at_once).filter(|next| *next > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_come_at_once_and_others_one_each_period() {
        let period = Duration::from_millis(20);
        let mut pace = Pace::new(period, 3);
        let now = Instant::now();
        assert_eq!((0..3).map(|_| pace.next(now)).collect::<Vec<_>>(), [None; 3]);
        let mut at = now;
        for _ in 0..5 {
            let next = pace.next(at);
            assert_eq!(next, Some(at + period));
            at += period;
        }
        let much_later = now + period * 100;
        assert_eq!((0..3).map(|_| pace.next(much_later)).collect::<Vec<_>>(), [None; 3]);
    }

    #[test]
    fn who_did_not_wait_waits_no_longer_than_others() {
        let period = Duration::from_millis(20);
        let mut pace = Pace::new(period, 3);
        let now = Instant::now();
        let latest = (0..1000).filter_map(|_| pace.next(now)).max();
        assert_eq!(latest, Some(now + period));
    }
}
