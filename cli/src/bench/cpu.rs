//! The processor time of a process, as the kernel counts it.

use super::error::BenchError;
use nix::{errno::Errno, time::clock_getcpuclockid, unistd::Pid};
use std::{path::PathBuf, time::Duration};

/// What all threads of a process have used so far.
pub(super) fn used(pid: u32) -> Result<Duration, BenchError> {
    let clock = i32::try_from(pid).map_err(|_| Errno::ESRCH).map(Pid::from_raw).and_then(clock_getcpuclockid);
    let time = clock.and_then(nix::time::ClockId::now);
    time.map(Duration::from)
        .map_err(|error| BenchError::file(PathBuf::from(format!("/proc/{pid}")))(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_takes_time() {
        let pid = std::process::id();
        let before = used(pid).unwrap();
        let start = Instant::now();
        while used(pid).unwrap() < before + Duration::from_millis(20) {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn a_process_that_is_not_there_has_none() {
        assert!(used(u32::MAX).is_err());
    }
}
