//! What is said of the host.

use std::{fs, num::NonZero, thread};

/// The length of an agent's name at the most, in bytes. The coordinator's bound.
const NAME_BYTES_MAX: usize = 63;

/// The host's name, as far as an agent may be called so.
pub(super) fn name() -> String {
    agent_name(fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim())
}

fn agent_name(host: &str) -> String {
    let fits = |char: char| if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '-' };
    let name: String = host.chars().take(NAME_BYTES_MAX).map(fits).collect();
    if name.is_empty() { "agent".into() } else { name }
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
    fn a_host_of_any_name_can_have_an_agent() {
        assert_eq!(agent_name("build-1.example"), "build-1.example");
        assert_eq!(agent_name("büro 1"), "b-ro-1");
        assert_eq!(agent_name(""), "agent");
        assert_eq!(agent_name(&"x".repeat(200)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(memory_total("MemTotal:       24570640 kB\nMemFree: 1 kB\n"), 24_570_640 * 1024);
        assert_eq!(memory_total("MemTotal: lots"), 0);
        assert_eq!(memory_total(""), 0);
    }
}
