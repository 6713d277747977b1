//! A real init, real processes, a real socket.

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

mod client;
mod endings;
mod fuzz;
mod hostile;
mod lasting;
mod output;
mod queue;
mod sealed;
