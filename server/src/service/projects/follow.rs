//! Follows one task's output: waits for the attempt, passes on what is printed meanwhile, and ends with it.

use super::{
    super::{Context, limits, status},
    logs::{
        Chunks, End, Wanted, handed_back, never_ran, no_attempt, no_output, send, send_recorded, task_row,
    },
};
use crate::{
    domain::{AttemptKey, Output, OutputStream},
    output::Bytestream,
};
use futures_util::{StreamExt, stream};
use tokio::{sync::watch, time::sleep};
use tonic::Status;

/// A reader that follows.
pub(super) struct Follow {
    context: Context,
    wanted: Wanted,
    changes: watch::Receiver<u64>,
}

impl Follow {
    pub(super) fn new(context: Context, wanted: Wanted) -> Self {
        let changes = context.driver.changes(wanted.task.project);
        Self { context, wanted, changes }
    }

    pub(super) async fn run(mut self, sender: &Chunks) -> Result<(), End> {
        let highest = task_row(&self.context, self.wanted.task).await?.map_or(0, |row| row.attempt);
        // Without a number: the highest now, and not whichever is the highest once the task has begun.
        let mut number = self.wanted.attempt.unwrap_or(highest.max(1));
        loop {
            let attempt = self.wanted.task.attempt(number);
            self.started(attempt).await?;
            let mut sent = [0, 0];
            match self.tail(attempt, sender, &mut sent).await? {
                Some(outputs) => {
                    return send_recorded(
                        &self.context,
                        sender,
                        attempt,
                        outputs,
                        &self.wanted.streams,
                        sent,
                    )
                    .await;
                }
                // Handed back before it printed anything that was sent: the next attempt will do.
                None if self.wanted.attempt.is_none() && sent == [0, 0] => number += 1,
                None => return Err(handed_back(attempt).into()),
            }
        }
    }

    /// Waits until the attempt has been given to an agent.
    async fn started(&mut self, attempt: AttemptKey) -> Result<(), Status> {
        loop {
            self.changes.borrow_and_update();
            let project = self.context.known_project(attempt.task.project).await?;
            let row = task_row(&self.context, attempt.task).await?;
            let highest = row.map_or(0, |row| row.attempt);
            if attempt.attempt <= highest {
                return Ok(());
            }
            if project.state.is_ended() {
                return Err(match highest {
                    0 => never_ran(attempt.task, project.state),
                    _ => no_attempt(attempt, highest),
                });
            }
            self.changes.changed().await.map_err(|_| status::stopping())?;
            sleep(limits::FOLLOW_PAUSE).await;
        }
    }

    /// Passes on what an attempt prints until it has ended; then gives its recorded output, or none if it was handed
    /// back.
    async fn tail(
        &mut self,
        attempt: AttemptKey,
        sender: &Chunks,
        sent: &mut [u64; 2],
    ) -> Result<Option<(Output, Output)>, End> {
        let live = |stream: OutputStream| -> Bytestream {
            if self.wanted.streams.contains(&stream) {
                // A live tail that breaks is no loss: what it left out is in the recorded output.
                let follow = self.context.outputs.follow(attempt, stream, 0);
                follow.take_while(|chunk| std::future::ready(chunk.is_ok())).chain(stream::pending()).boxed()
            } else {
                stream::pending().boxed()
            }
        };
        let (mut stdout, mut stderr) = (live(OutputStream::Stdout), live(OutputStream::Stderr));
        loop {
            self.changes.borrow_and_update();
            // The outputs last: if nothing is recorded once the project or the task has moved on, then nothing will be.
            let project = self.context.known_project(attempt.task.project).await?;
            let row = task_row(&self.context, attempt.task).await?;
            if let Some(outputs) = self.context.store.outputs(attempt).await.map_err(status::store)? {
                return Ok(Some(outputs));
            }
            if row.is_none_or(|row| row.attempt != attempt.attempt) {
                return Ok(None);
            }
            if project.state.is_ended() {
                return Err(End::Error(no_output(attempt, project.state)));
            }
            loop {
                let (stream, chunk) = tokio::select! {
                    changed = self.changes.changed() => {
                        changed.map_err(|_| status::stopping())?;
                        sleep(limits::FOLLOW_PAUSE).await;
                        break;
                    }
                    Some(chunk) = stdout.next() => (OutputStream::Stdout, chunk),
                    Some(chunk) = stderr.next() => (OutputStream::Stderr, chunk),
                };
                let chunk = chunk.map_err(status::output)?;
                sent[stream as usize] += chunk.len() as u64;
                send(sender, stream, chunk).await?;
            }
        }
    }
}
