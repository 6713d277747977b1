//! What `add` writes.

use schemars::JsonSchema;
use serde::Serialize;

/// A task that was added.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Added {
    /// The project's number.
    pub project: u64,
    /// The task's index.
    pub index: u32,
    /// The key under which it was added.
    pub key: String,
    /// The key was known: nothing was added.
    pub existed: bool,
}
