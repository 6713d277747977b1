//! The memory of a process, now and at its peak, as the kernel counts it.

use super::error::BenchError;
use std::{fs, io, path::PathBuf};

/// What is written to `clear_refs` to begin a new peak.
const RESET_PEAK: &str = "5";

/// The largest resident set that a process has had, in bytes.
pub(super) fn peak_bytes(pid: u32) -> Result<u64, BenchError> {
    figure(pid, "VmHWM:")
}

/// The resident set of a process now, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Result<u64, BenchError> {
    figure(pid, "VmRSS:")
}

fn figure(pid: u32, name: &str) -> Result<u64, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(BenchError::file(&path))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| BenchError::file(&path)(io::Error::other(format!("it has no {name}"))))
}

/// Makes the present resident set the peak.
pub(super) fn reset_peak(pid: u32) -> Result<(), BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/clear_refs"));
    fs::write(&path, RESET_PEAK).map_err(BenchError::file(&path))
}

/// In millions of bytes.
#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_stays_until_it_is_reset() {
        const BIG_BYTES: usize = 64 << 20;
        let pid = std::process::id();
        let before = peak_bytes(pid).unwrap();
        let big = std::hint::black_box(vec![1_u8; BIG_BYTES]);
        drop(big);
        let with_big = peak_bytes(pid).unwrap();
        assert!(with_big >= BIG_BYTES as u64 && with_big >= before);
        assert!(resident_bytes(pid).unwrap() <= with_big);
        reset_peak(pid).unwrap();
        assert!(peak_bytes(pid).unwrap() < with_big);
    }
}
