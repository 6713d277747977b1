//! The whole coordinator over its socket: real store, real driver, real gRPC clients, and an agent made of plain calls.

mod agent;
mod bench;
mod boot;
mod foreign;
mod running;
mod session;
mod submit;
mod upload;
