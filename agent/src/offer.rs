//! What an operator lets an agent offer of its host: processors and memory, as they are written.

/// Least and most processors that an agent may offer, in thousandths.
const CPUS_MILLI: std::ops::RangeInclusive<u32> = 10..=1024 * 1000;

/// Least and most memory that an agent may offer, in bytes: from what one worker needs to a pebibyte.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 6 << 20..=1 << 50;

/// The units of memory.
const UNITS: [(&str, u64); 6] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Processors, in thousandths.
///
/// # Errors
/// If this is no number of processors.
pub fn cpus_milli(text: &str) -> Result<u32, String> {
    const EXPECTED: &str = "expected a number from 0.01 to 1024, with at most three decimals";
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(EXPECTED.to_owned());
    }
    let part = format!("{part:0<3}");
    let milli = || whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(part.parse().ok()?);
    milli().filter(|milli| CPUS_MILLI.contains(milli)).ok_or_else(|| EXPECTED.to_owned())
}

/// Memory in bytes.
///
/// # Errors
/// If this is no number of bytes with a unit.
pub fn memory_bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a whole number with a unit, such as `16GiB`, from 6MiB to 1024TiB";
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    unit.and_then(|(number, bytes)| number.trim_end().parse::<u64>().ok()?.checked_mul(*bytes))
        .filter(|bytes| MEMORY_BYTES.contains(bytes))
        .ok_or_else(|| EXPECTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_written_as_in_a_project_file() {
        for (text, milli) in [("4", 4000), ("0.5", 500), ("1.25", 1250), ("0.010", 10), ("1024", 1_024_000)] {
            assert_eq!(cpus_milli(text), Ok(milli), "{text}");
        }
        for text in ["", "0", "-1", "1.", ".5", "0.0001", "2000", "two", "1e3", "99999999999"] {
            assert!(cpus_milli(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_unit() {
        for (text, bytes) in [("16GiB", 16 << 30), ("512 MiB", 512 << 20), ("64GB", 64_000_000_000)] {
            assert_eq!(memory_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "16", "16G", "GiB", "-1GiB", "1KiB", "99999999999TiB"] {
            assert!(memory_bytes(text).is_err(), "{text}");
        }
    }
}
