//! The core's invariants.

use super::{Coordinator, project::Active};
use std::collections::BTreeMap;

impl Coordinator {
    /// Cross-checks every index. For tests, after each step.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check(&self) {
        self.agents.check();
        self.projects.values().for_each(Active::check);
        let published: u32 = self.projects.values().map(Active::published).sum();
        assert_eq!(self.published, published, "count of published tasks");
        let running: BTreeMap<_, _> = self.projects.values().flat_map(Active::running).collect();
        let held: BTreeMap<_, _> = self
            .agents
            .iter()
            .flat_map(|(id, agent)| agent.held.keys().map(move |&attempt| (attempt, id)))
            .collect();
        assert_eq!(held, running, "what agents hold and what projects have running");
        self.share.check();
        self.check_reservations();
        let mut published = BTreeMap::new();
        for project in self.projects.values() {
            let class = project.kind().class;
            *published.entry(class).or_default() += project.published();
            let place = project.is_hungry().then(|| (class, project.tag()));
            assert_eq!(self.share.place(project.id), place, "the turn of project {}", project.id);
        }
        for class in self.agents.class_ids() {
            let counted = self.agents.class(class).map(|class| class.published);
            let expected = published.get(&class).copied().unwrap_or(0);
            assert_eq!(counted, Some(expected), "published tasks of {class:?}");
        }
    }

    /// Whether nothing is active.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.projects.is_empty()
    }
}
