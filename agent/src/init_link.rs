//! STUB until the branch that owns it is merged.
#![allow(missing_docs, unused, clippy::all)]
use crate::{domain::*, runtime::Connection};
use bytes::Bytes;
use std::{path::PathBuf, time::Duration};
pub struct RunCommand {
    pub attempt: AttemptKey,
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    pub workdir: Option<PathBuf>,
    pub timeout: Option<Duration>,
    pub output_bytes_max: u64,
    pub has_stdin: bool,
}
#[derive(Debug)]
pub enum InitState {
    Idle,
    Running { attempt: String },
    Ended { attempt: String },
}
#[derive(Debug)]
pub enum InitEvent {
    Started,
    Output { stream: OutputStream, offset: u64, bytes: Bytes },
    StdinWritten { bytes: u64 },
    Exited(InitExit),
}
#[derive(Debug)]
pub struct InitExit {
    pub outcome: Outcome,
    pub usage: Usage,
    pub stdout_length: u64,
    pub stderr_length: u64,
}
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("closed")]
    Closed,
    #[error("{0}")]
    Frame(String),
}
pub struct InitSender;
pub struct InitReceiver;
pub async fn open(
    connection: Box<dyn Connection>,
) -> Result<(InitSender, InitReceiver, InitState), LinkError> {
    Err(LinkError::Closed)
}
impl InitSender {
    pub async fn run(&mut self, command: &RunCommand) -> Result<(), LinkError> {
        Ok(())
    }
    pub async fn resume(&mut self, stdout_offset: u64, stderr_offset: u64) -> Result<(), LinkError> {
        Ok(())
    }
    pub async fn ack(&mut self, stream: OutputStream, offset: u64) -> Result<(), LinkError> {
        Ok(())
    }
    pub fn stdin_sent(&self) -> u64 {
        0
    }
    pub fn stdin_room(&self) -> u64 {
        0
    }
    pub async fn stdin(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        Ok(())
    }
    pub async fn close_stdin(&mut self) -> Result<(), LinkError> {
        Ok(())
    }
    pub async fn kill(&mut self, grace: Duration) -> Result<(), LinkError> {
        Ok(())
    }
    pub async fn release(&mut self) -> Result<(), LinkError> {
        Ok(())
    }
}
impl InitReceiver {
    pub async fn next(&mut self) -> Result<InitEvent, LinkError> {
        Err(LinkError::Closed)
    }
}
