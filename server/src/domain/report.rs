//! What an agent reports of an ended attempt.

use super::{AttemptKey, Outcome, Usage};
use bytes::Bytes;

/// One of the two output streams of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What an attempt printed on one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its length in bytes.
    pub length: u64,
    /// Where the bytes are.
    pub body: OutputBody,
}

/// Where the bytes of an output are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputBody {
    /// Here: they are committed with the row.
    Inline(Bytes),
    /// In the object store, durable, under the attempt's key; this is their SHA-256.
    Stored([u8; 32]),
}

impl Output {
    /// An output that rides in its report.
    #[must_use]
    pub const fn inline(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, body: OutputBody::Inline(bytes) }
    }

    /// No output.
    #[must_use]
    pub const fn empty() -> Self {
        Self::inline(Bytes::new())
    }
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// What it printed on stdout.
    pub stdout: Output,
    /// What it printed on stderr.
    pub stderr: Output,
}
