//! The rules of the core, one test each. Every step asserts all that was done, and so also that nothing else was.

mod attempts;
mod backlog;
mod bench;
mod bounds;
mod outbox;
#[cfg(feature = "planted-bugs")]
mod planted;
mod session;
mod stop;
