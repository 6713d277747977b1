//! The whole coordinator over its socket: real store, real driver, real gRPC clients, and an agent made of plain calls.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by its panic")]

mod access;
mod agent;
mod bench;
mod boot;
mod broker;
mod broker_tls;
mod foreign;
mod http;
mod logs;
mod open;
mod queue_calls;
mod queue_messages;
mod queues;
mod queues_rabbitmq;
#[path = "../rabbitmq/mod.rs"]
mod rabbitmq;
mod running;
mod session;
mod submit;
mod tcp;
mod upload;
