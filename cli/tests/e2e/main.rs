//! The real thing, end to end: the programs as users start them, worker containers on the machine's own Docker engine,
//! and plain processes.
//!
//! A Docker test on a machine without Docker fails; it does not pass unseen.

mod bad_input;
mod crashes;
mod home;
mod order;
mod queens;
mod witness;
