//! Sockets that outlive their processes: connections in TIME_WAIT, or that still have something to send. Only the counts
//! of the worker's own network namespace are compared; the others in these files are the whole machine's.

use super::Stain;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Longest of the files.
const FILE_BYTES_MAX: usize = 1 << 10;

/// `/proc/net/sockstat` and `sockstat6`, and how they were at the start.
#[derive(Debug)]
pub(super) struct Sockets {
    files: Vec<(File, Vec<u64>)>,
}

impl Sockets {
    pub(super) fn open() -> io::Result<Self> {
        let mut files = Vec::new();
        for path in ["/proc/self/net/sockstat", "/proc/self/net/sockstat6"] {
            match File::open(path) {
                Ok(file) => {
                    let counts = counts(&file)?;
                    files.push((file, counts));
                }
                // A kernel without version 6 lacks its file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { files })
    }

    pub(super) fn look(&self) -> Result<(), Stain> {
        let same = |(file, before): &(File, Vec<u64>)| counts(file).is_ok_and(|counts| counts == *before);
        if self.files.iter().all(same) { Ok(()) } else { Err(Stain::Sockets) }
    }
}

fn counts(file: &File) -> io::Result<Vec<u64>> {
    let mut buffer = [0; FILE_BYTES_MAX];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(parse(&String::from_utf8_lossy(&buffer[..length])))
}

/// The numbers behind `used`, `inuse` and `tw`.
fn parse(text: &str) -> Vec<u64> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let counted = words.windows(2).filter(|pair| matches!(pair[0], "used" | "inuse" | "tw"));
    counted.filter_map(|pair| pair[1].parse().ok()).collect()
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
