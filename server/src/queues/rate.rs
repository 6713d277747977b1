//! How many a second: an average in which what is longer ago counts less.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// After this time something counts for 1/e of what it did.
const DECAY: Duration = Duration::from_secs(10);

/// Below, it is nothing.
const LEAST: f64 = 0.001;

/// A rate.
#[derive(Debug)]
pub(super) struct Rate(Mutex<(Instant, f64)>);

impl Default for Rate {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), 0.0)))
    }
}

impl Rate {
    /// So many have come now.
    pub(super) fn count(&self, many: usize) {
        self.add(many, Instant::now());
    }

    /// How many come a second.
    pub(super) fn per_sec(&self) -> f64 {
        self.add(0, Instant::now())
    }

    fn add(&self, many: usize, now: Instant) -> f64 {
        // Two numbers that belong together, whoever panicked.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, rate) = *state;
        let passed = now.saturating_duration_since(since).as_secs_f64();
        let kept = rate * (-passed / DECAY.as_secs_f64()).exp();
        #[expect(clippy::cast_precision_loss, reason = "numbers of messages in one call are small")]
        let rate = kept + many as f64 / DECAY.as_secs_f64();
        *state = (now, rate);
        if rate < LEAST { 0.0 } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_comes_and_is_forgotten() {
        let rate = Rate::default();
        let start = Instant::now();
        for tenth in 0..600 {
            rate.add(5, start + Duration::from_millis(tenth * 100));
        }
        let end = start + Duration::from_secs(60);
        let steady = rate.add(0, end);
        assert!((48.0..52.0).contains(&steady), "{steady} instead of 50 a second");
        let later = rate.add(0, end + DECAY);
        assert!((16.0..20.0).contains(&later), "{later}: a third or so of 50");
        assert!(rate.add(0, end + 20 * DECAY).abs() < f64::EPSILON);
    }
}
