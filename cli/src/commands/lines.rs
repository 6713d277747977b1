//! Texts from the command line and the lines of a file, read ahead of the coordinator in the parts that one call takes.

use crate::project_file::{self, ProjectFileError};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Most texts in one call.
const CALL_TEXTS_MAX: usize = 1000;
/// Most bytes of texts in one call, but for the last one.
const CALL_BYTES_MAX: usize = 1 << 20;

/// The texts, in their order. At most as many as one call takes are read ahead.
#[derive(Debug)]
pub(super) struct Lines {
    texts: mpsc::Receiver<Result<String, ProjectFileError>>,
    /// Those that were there at once, for this call and those that follow, the last first.
    ready: Vec<Result<String, ProjectFileError>>,
}

impl Lines {
    /// Reads the texts that were given, and then the lines of the file, `-` for standard input. After an error nothing follows.
    pub(super) fn read(given: Vec<String>, file: Option<PathBuf>) -> Self {
        let (sender, texts) = mpsc::channel(CALL_TEXTS_MAX);
        tokio::task::spawn_blocking(move || {
            let given = given.into_iter().map(Ok);
            if !given.into_iter().all(|text| sender.blocking_send(text).is_ok()) {
                return;
            }
            match file.map(|file| project_file::item_lines(&file)) {
                Some(Ok(read)) => {
                    for line in read {
                        if sender.blocking_send(line).is_err() {
                            return;
                        }
                    }
                }
                Some(Err(error)) => drop(sender.blocking_send(Err(error))),
                None => {}
            }
        });
        Self { texts, ready: Vec::with_capacity(CALL_TEXTS_MAX) }
    }

    /// What the next call takes, once there is something: what has come by then, within the bounds of a call. Each text counts for
    /// `overhead` bytes more. Empty at the end.
    ///
    /// # Errors
    /// If the file can't be read. What was read before it was returned.
    pub(super) async fn next_call(&mut self, overhead: usize) -> Result<Vec<String>, ProjectFileError> {
        if self.ready.is_empty() {
            self.texts.recv_many(&mut self.ready, CALL_TEXTS_MAX).await;
            self.ready.reverse();
        }
        let mut call = Vec::new();
        let mut bytes = 0;
        while bytes < CALL_BYTES_MAX {
            match self.ready.pop() {
                Some(Ok(text)) => {
                    bytes += text.len() + overhead;
                    call.push(text);
                }
                // For the next call.
                Some(Err(error)) if !call.is_empty() => {
                    self.ready.push(Err(error));
                    break;
                }
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(call)
    }
}
