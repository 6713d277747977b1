//! What is said of the host.

use std::{fs, num::NonZero, thread};

/// The host's name.
pub(super) fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "agent".into() } else { name.into() }
}

/// How many processors this process may use.
pub(super) fn processors() -> u32 {
    let count = thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The host's memory in bytes; 0 if that can't be found out.
pub(super) fn memory_bytes() -> u64 {
    memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn memory_total(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    total.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(memory_total("MemTotal:       24570640 kB\nMemFree: 1 kB\n"), 24_570_640 * 1024);
        assert_eq!(memory_total("MemTotal: lots"), 0);
        assert_eq!(memory_total(""), 0);
    }
}
