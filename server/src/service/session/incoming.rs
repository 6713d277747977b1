//! From an agent to the driver.

use super::super::status;
use crate::{
    coordinator::FromAgent,
    domain::{AttemptKey, Output, OutputBody, OutputStream, Report},
    driver::SessionSender,
    output::{OutputError, Outputs, Stored},
    wire,
};
use piecework_proto::v1 as pb;
use tonic::{Status, Streaming};

/// The agent's side of a session. Dropping it closes the session.
pub(super) struct Incoming {
    pub(super) outputs: Outputs,
    pub(super) sender: SessionSender,
    pub(super) messages: Streaming<pb::AgentMessage>,
}

impl Incoming {
    /// Passes messages on until the agent ends, or says something that can't be understood.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        loop {
            let message = match self.messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::debug!(%status, "an agent's stream broke");
                    return Ok(());
                }
            };
            let seq = message.seq;
            let mut message = wire::from_agent(message).map_err(status::wire)?;
            if let FromAgent::Reports(reports) = &mut message {
                for report in reports {
                    check_output(&self.outputs, report).await.map_err(status::output)?;
                }
            }
            self.sender.send(seq, message).await.map_err(status::driver)?;
        }
    }
}

/// A report counts only with its output: without, the attempt is lost.
async fn check_output(outputs: &Outputs, report: &mut Report) -> Result<(), OutputError> {
    let attempt = report.attempt;
    if arrived(outputs, attempt, OutputStream::Stdout, &report.stdout).await?
        && arrived(outputs, attempt, OutputStream::Stderr, &report.stderr).await?
    {
        return Ok(());
    }
    tracing::warn!(%attempt, outcome = %report.outcome, "a report came without its output");
    *report = wire::lost(attempt, "its output did not arrive".to_owned());
    Ok(())
}

async fn arrived(
    outputs: &Outputs,
    attempt: AttemptKey,
    stream: OutputStream,
    output: &Output,
) -> Result<bool, OutputError> {
    match output.body {
        OutputBody::Inline(_) => Ok(true),
        OutputBody::Stored(sha256) => {
            Ok(outputs.stored(attempt, stream).await? == Some(Stored { length: output.length, sha256 }))
        }
    }
}
