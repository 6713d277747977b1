//! Whether the runtime can make workers, as the core was told last. Whoever finds out tells it: who looks again and again, and
//! who was refused a worker.

use crate::supervisor::Input;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// Tells the core each change. Clones share what was told.
#[derive(Clone, Debug)]
pub struct Readiness {
    told: Arc<Mutex<String>>,
    inputs: mpsc::Sender<Input>,
}

impl Readiness {
    /// The core takes the runtime for ready.
    #[must_use]
    pub fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { told: Arc::default(), inputs }
    }

    /// Why it is not ready; empty if it is. The core has it before whatever it is told next. Tells whether anybody listens.
    pub async fn tell(&self, not_ready: String) -> bool {
        let mut told = self.told.lock().await;
        if *told == not_ready {
            return !self.inputs.is_closed();
        }
        if not_ready.is_empty() {
            tracing::info!("ready again");
        } else {
            tracing::warn!("not ready: {not_ready}");
        }
        told.clone_from(&not_ready);
        self.inputs.send(Input::Runtime { not_ready }).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_changes_are_told() {
        let (sender, mut inputs) = mpsc::channel(8);
        let readiness = Readiness::new(sender);
        for not_ready in ["", "gone", "gone", "", ""] {
            assert!(readiness.tell(not_ready.to_owned()).await);
        }
        drop(readiness);
        let mut told = Vec::new();
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Runtime { not_ready } => told.push(not_ready),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, ["gone", ""]);
    }
}
