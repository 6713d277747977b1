//! Fair share: projects with something to publish take turns, each as many tasks a turn as its weight (deficit round
//! robin, Shreedhar and Varghese 1995, with every task of cost 1).

use crate::domain::ProjectId;
use std::collections::{BTreeSet, VecDeque};

/// The order of turns.
#[derive(Debug, Default)]
pub(super) struct Share {
    turns: VecDeque<ProjectId>,
    members: BTreeSet<ProjectId>,
    /// What the project at the front may still publish in its turn; 0 if its turn has not begun.
    left: u32,
}

impl Share {
    /// The project has something to publish.
    pub(super) fn add(&mut self, project: ProjectId) {
        if self.members.insert(project) {
            self.turns.push_back(project);
        }
    }

    /// The project has ended.
    pub(super) fn remove(&mut self, project: ProjectId) {
        if self.members.remove(&project) {
            if self.turns.front() == Some(&project) {
                self.left = 0;
            }
            self.turns.retain(|&other| other != project);
        }
    }

    /// Whose turn it is.
    pub(super) fn front(&self) -> Option<ProjectId> {
        self.turns.front().copied()
    }

    /// The project at the front published one task; its turn ends with its weight, or when it has nothing more.
    pub(super) fn took_one(&mut self, weight: u32, hungry: bool) {
        if self.left == 0 {
            self.left = weight.max(1);
        }
        self.left -= 1;
        if !hungry {
            self.drop_front();
        } else if self.left == 0
            && let Some(front) = self.turns.pop_front()
        {
            self.turns.push_back(front);
        }
    }

    /// The project at the front has nothing to publish.
    pub(super) fn drop_front(&mut self) {
        self.left = 0;
        if let Some(front) = self.turns.pop_front() {
            self.members.remove(&front);
        }
    }

    pub(super) fn contains(&self, project: ProjectId) -> bool {
        self.members.contains(&project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_weights() {
        let mut share = Share::default();
        let (light, heavy) = (ProjectId(1), ProjectId(2));
        share.add(light);
        share.add(heavy);
        let mut order = Vec::new();
        for _ in 0..8 {
            let Some(front) = share.front() else { panic!("nobody's turn") };
            order.push(front.0);
            share.took_one(if front == heavy { 3 } else { 1 }, true);
        }
        assert_eq!(order, [1, 2, 2, 2, 1, 2, 2, 2]);
    }

    #[test]
    fn a_project_that_has_nothing_more_loses_its_turn_and_comes_back_last() {
        let mut share = Share::default();
        share.add(ProjectId(1));
        share.add(ProjectId(2));
        share.took_one(5, false);
        assert_eq!(share.front(), Some(ProjectId(2)));
        share.add(ProjectId(1));
        share.add(ProjectId(1));
        share.took_one(1, true);
        assert_eq!(share.front(), Some(ProjectId(1)));
        share.remove(ProjectId(1));
        assert_eq!(share.front(), Some(ProjectId(2)));
        assert!(!share.contains(ProjectId(1)));
    }
}
