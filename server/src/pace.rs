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

    /// Counts one; the earliest time of the next one, if that has to wait.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let even = self.even.map_or(now, |even| even.max(now)) + self.period;
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
        let waits: Vec<_> = (0..6).map(|_| pace.next(now).map(|at| at - now)).collect();
        assert_eq!(waits, [None, None, None, Some(period), Some(period * 2), Some(period * 3)]);
        // Half of that later, half of it is still to be waited for.
        let later = now + period * 3;
        assert_eq!(pace.next(later), Some(later + period));
        let much_later = now + period * 100;
        assert_eq!((0..3).map(|_| pace.next(much_later)).collect::<Vec<_>>(), [None; 3]);
    }
}
