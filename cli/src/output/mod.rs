//! What users and scripts read: [`human`] tables and lines, [`json`] for programs, [`progress`] on stderr, and the
//! [`Screen`] that all of it goes through.

pub mod bench;
pub mod hint;
pub mod human;
pub mod json;
pub mod progress;
pub mod reason;
mod screen;

pub use screen::{LogWriter, Screen};

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// For programs: one JSON object, or one a line where more follow. Described in docs/cli-output.schema.json.
    Json,
}
