//! The whole agent, against a coordinator that does exactly what a test says: over a real socket and real gRPC, with
//! scripted workers and with plain processes.

mod bench;
mod blobs;
mod bulk;
mod coordinator;
mod endings;
mod process;
mod restart;
mod session;
