//! What kind of attempts the phases of a project have.

use super::{agent::Kind, capacity::Need};
use crate::domain::{Phase, ProjectSpec};
use std::collections::BTreeMap;

/// What kind of attempts each phase has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    split: Kind,
    task: Kind,
    reassemble: Kind,
}

impl Kinds {
    /// Of each phase, once its class is entered: of what it needs and the labels that it asks for.
    pub(super) fn enter(
        spec: &ProjectSpec,
        mut enter: impl FnMut(Kind, BTreeMap<String, String>) -> Kind,
    ) -> Self {
        let mut kind = |phase| {
            let task = spec.task_of(phase).unwrap_or(&spec.task);
            enter(Kind { need: Need::of(task.resources), ..Kind::default() }, task.requires.clone())
        };
        Self { split: kind(Phase::Split), task: kind(Phase::Task), reassemble: kind(Phase::Reassemble) }
    }

    pub(super) fn of(self, phase: Phase) -> Kind {
        match phase {
            Phase::Split => self.split,
            Phase::Task => self.task,
            Phase::Reassemble => self.reassemble,
        }
    }

    pub(super) fn all(self) -> [Kind; 3] {
        [self.split, self.task, self.reassemble]
    }
}
