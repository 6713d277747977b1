//! Sockets that outlive their processes: connections in TIME_WAIT, or that still have something to send. Only the counts
//! of the worker's own network namespace are compared; the others beside them are the whole machine's. And IPv6 flow labels,
//! which linger for minutes.

use super::Stain;
use std::{fs::File, io, os::unix::fs::FileExt};

/// How many counts there are at present.
const COUNTS: usize = 8;

/// Longest that the file may be.
const FILE_BYTES_MAX: usize = 1 << 10;

/// `/proc/net/sockstat`, and how it was at the start. It tells of both versions of IP: `used` counts every socket, and `tw`
/// what is left of connections of either.
#[derive(Debug)]
pub(super) struct Sockets {
    file: File,
    before: Vec<u64>,
    /// One line, and one more for each label. None without IPv6.
    flow_labels: Option<File>,
}

impl Sockets {
    pub(super) fn open() -> io::Result<Self> {
        let file = File::open("/proc/self/net/sockstat")?;
        let flow_labels = File::open("/proc/self/net/ip6_flowlabel").ok();
        Ok(Self { before: counts(&file)?, file, flow_labels })
    }

    pub(super) fn look(&self) -> Result<(), Stain> {
        let is_same = counts(&self.file).is_ok_and(|counts| counts == self.before);
        let has_label = |file: &File| {
            let mut buffer = [0; FILE_BYTES_MAX];
            let length = file.read_at(&mut buffer, 0).unwrap_or(FILE_BYTES_MAX);
            buffer[..length].iter().filter(|byte| **byte == b'\n').count() != 1
        };
        if is_same && !self.flow_labels.as_ref().is_some_and(has_label) {
            Ok(())
        } else {
            Err(Stain::Sockets)
        }
    }
}

fn counts(file: &File) -> io::Result<Vec<u64>> {
    let mut buffer = [0; FILE_BYTES_MAX];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(parse(&String::from_utf8_lossy(&buffer[..length])))
}

/// The numbers behind `used`, `inuse` and `tw`.
fn parse(text: &str) -> Vec<u64> {
    let mut words = text.split_ascii_whitespace();
    let mut counts = Vec::with_capacity(COUNTS);
    while let Some(word) = words.next() {
        if matches!(word, "used" | "inuse" | "tw") {
            counts.extend(words.next().and_then(|count| count.parse::<u64>().ok()));
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_the_counts_of_the_namespace_are_taken() {
        let text = "sockets: used 33\nTCP: inuse 2 orphan 9 tw 4 alloc 17 mem 3\nUDP: inuse 1 mem 5\nFRAG: inuse 0 memory 0\n";
        assert_eq!(parse(text), [33, 2, 4, 1, 0]);
    }

    #[test]
    fn a_listening_socket_is_counted() {
        let tcp = || counts(&File::open("/proc/self/net/sockstat").unwrap()).unwrap()[1];
        let sockets: Vec<_> = (0..50).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let with = tcp();
        drop(sockets);
        assert!(with >= 50 && tcp() < with, "{with}");
    }
}
