//! Writes down everything that a task can observe of its worker, one JSON object a line, in an order that never changes: so
//! that two runs can be compared. Left out are clocks and counters: times of access and of change of status, inode and
//! process numbers, times of device files, use of memory and processor, and the network's packet counts.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

mod files;
mod process;
mod system;

use std::fmt::Write;

/// What was observed, in order.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
}

impl Report {
    /// One thing that was observed. Bytes that are no text are kept apart by their numbers.
    fn add(&mut self, topic: &str, name: &[u8], value: impl AsRef<[u8]>) {
        let mut line = format!("{{\"topic\":\"{topic}\",\"name\":\"");
        escape(name, &mut line);
        line.push_str("\",\"value\":\"");
        escape(value.as_ref(), &mut line);
        line.push_str("\"}");
        self.lines.push(line);
    }
}

fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b' '..=b'~' => out.push(char::from(*byte)),
            // Never fails on a string.
            _ => drop(write!(out, "\\u{byte:04x}")),
        }
    }
}

fn main() {
    let mut report = Report::default();
    process::observe(&mut report);
    system::observe(&mut report);
    files::observe(&mut report);
    println!("{}", report.lines.join("\n"));
}
