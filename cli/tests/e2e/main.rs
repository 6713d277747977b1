//! The real thing, end to end: the programs as users start them, worker containers on the machine's own Docker engine,
//! and plain processes.
//!
//! On a machine without Docker its tests say so and pass; with PIECEWORK_TEST_REQUIRE_DOCKER, as in CI, they fail.

#![expect(clippy::print_stderr, reason = "a test that does not run says so")]

mod bad_input;
mod bench;
mod clocks;
mod crashes;
mod endings;
mod fleet;
mod home;
#[expect(dead_code, reason = "it can do more than is asked of it here")]
#[path = "../../../server/tests/rabbitmq/mod.rs"]
mod node;
mod open;
mod order;
mod queens;
mod queues;
mod rabbitmq;
mod sealed;
mod witness;
