//! The core's clock. It stands still while the driver is held up: whoever could not be heard meanwhile was not silent.

use std::time::{Duration, Instant};

/// Counts the time that passes for the core.
#[derive(Debug)]
pub(super) struct Clock {
    now: Duration,
    read: Instant,
    /// As much counts between two readings. The driver reads more often, unless its process was stopped, its machine was
    /// asleep, or a commit was slow; then what agents have said still waits, some of it in sockets where it can't be seen.
    step_max: Duration,
}

impl Clock {
    pub(super) const fn new(start: Instant, step_max: Duration) -> Self {
        Self { now: Duration::ZERO, read: start, step_max }
    }

    /// The core's time. `at` never goes back.
    pub(super) fn read(&mut self, at: Instant) -> Duration {
        let passed = at.saturating_duration_since(self.read);
        self.read = at;
        self.now += passed.min(self.step_max);
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_MAX: Duration = Duration::from_secs(1);

    fn check(passed_millis: &[u64], expected_millis: u64) {
        let mut at = Instant::now();
        let mut clock = Clock::new(at, STEP_MAX);
        let mut now = Duration::ZERO;
        for &passed in passed_millis {
            at += Duration::from_millis(passed);
            let before = now;
            now = clock.read(at);
            assert!(now >= before, "it went back");
        }
        assert_eq!(now, Duration::from_millis(expected_millis), "{passed_millis:?}");
    }

    #[test]
    fn it_goes_with_time() {
        check(&[], 0);
        check(&[0, 500, 250, 1000, 1], 1751);
    }

    #[test]
    fn it_stands_still_while_nobody_reads_it() {
        check(&[500, 60_000, 500], 2000);
        check(&[3_600_000, 3_600_000], 2000);
    }
}
