//! The program and its client, from the outside.

mod client;
mod commands;
mod fake;
mod files;
mod interrupt;
mod program;
