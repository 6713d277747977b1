//! Tells readers that a project has changed. Nothing is carried but the fact: readers read the store, so a slow one costs
//! nobody anything and misses nothing.

use crate::domain::ProjectId;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// Who waits for which project. Bounded by the readers: entries without one are dropped at the project's next change.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    readers: Arc<Mutex<HashMap<ProjectId, watch::Sender<u64>>>>,
    /// Who waits for any.
    any: watch::Sender<u64>,
}

impl Changes {
    pub(super) fn subscribe(&self, project: ProjectId) -> watch::Receiver<u64> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|_, sender| sender.receiver_count() > 0);
        readers.entry(project).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// For a reader of all projects.
    pub(super) fn subscribe_all(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }

    pub(super) fn notify(&self, projects: &BTreeSet<ProjectId>) {
        if projects.is_empty() {
            return;
        }
        self.any.send_modify(|version| *version += 1);
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in projects.iter().filter_map(|project| readers.get(project)) {
            sender.send_modify(|version| *version += 1);
        }
    }

    /// Everything may have changed.
    pub(super) fn notify_all(&self) {
        self.any.send_modify(|version| *version += 1);
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in readers.values() {
            sender.send_modify(|version| *version += 1);
        }
    }
}
