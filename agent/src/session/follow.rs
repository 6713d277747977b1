//! Uploads of output that still grows, so that people can follow it. A courtesy: what fails here is simply not seen until
//! the attempt has ended, when its whole output is uploaded or rides in its report.

use super::{
    Bulk,
    upload::{Source, Told, Upload, UploadError},
};
use crate::attempt::output::Growing;
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};

/// How many outputs are followed at a time, in outputs. More have to wait until one ends.
const FOLLOWED_MAX: usize = 64;

/// How long bytes are gathered before they are sent, in milliseconds.
const GATHER_MILLIS: u64 = 100;

/// How long after a failure it is tried again, in seconds.
const RETRY_SECS: u64 = 5;

/// Follows all output that grows.
#[derive(Debug)]
pub struct Followers {
    bulk: Bulk,
    follows: mpsc::Receiver<Growing>,
}

impl Followers {
    /// None yet.
    #[must_use]
    pub const fn new(bulk: Bulk, follows: mpsc::Receiver<Growing>) -> Self {
        Self { bulk, follows }
    }

    /// Runs until nothing more can come.
    pub async fn run(mut self) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                growing = self.follows.recv(), if running.len() < FOLLOWED_MAX => match growing {
                    Some(growing) => {
                        running.spawn(follow(self.bulk.clone(), growing));
                    }
                    None => break,
                },
                Some(_) = running.join_next() => {}
            }
        }
    }
}

async fn follow(bulk: Bulk, mut growing: Growing) {
    // The attempt has ended when its length can't change any more.
    while growing.length.has_changed().is_ok() {
        match follow_once(&bulk, &mut growing).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(attempt = %growing.attempt, %error, "an output is not followed for now");
                tokio::time::sleep(Duration::from_secs(RETRY_SECS)).await;
            }
        }
    }
}

async fn follow_once(bulk: &Bulk, growing: &mut Growing) -> Result<(), UploadError> {
    let source = Source { attempt: growing.attempt, stream: growing.stream, path: growing.path.clone() };
    let (mut upload, told) = Upload::open(&mut bulk.client(), source).await?;
    if told != Told::Durable(upload.offset) {
        return Ok(());
    }
    loop {
        let length = *growing.length.borrow_and_update();
        if upload.send_to(length, false).await?.is_some() {
            return Ok(());
        }
        tokio::select! {
            changed = growing.length.changed() => if changed.is_err() {
                return Ok(());
            },
            told = upload.told() => match told? {
                Told::Durable(_) => {}
                Told::Complete | Told::Unwanted => return Ok(()),
            },
        }
        tokio::time::sleep(Duration::from_millis(GATHER_MILLIS)).await;
    }
}
