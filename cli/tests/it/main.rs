//! The program and its client, from the outside.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail where they stand")]

mod client;
mod commands;
mod fake;
mod files;
mod interrupt;
mod program;
