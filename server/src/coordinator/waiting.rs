//! Why tasks wait, in words for people.

use super::{
    Coordinator,
    agent::Agent,
    project::Active,
    seats::{Class, Requirement},
};
use crate::domain::{AgentId, ProjectId};

/// The most labels and agents that are named.
const NAMED_MAX: usize = 3;

impl Coordinator {
    /// What the project's tasks wait for, if any do and there is more to say than that its own attempts come first.
    pub(super) fn waiting(&self, id: ProjectId) -> Option<String> {
        let project = self.projects.get(&id)?;
        if !project.has_more() {
            let growth = project.growth.filter(|_| project.out() == 0);
            return growth.map(|growth| growth.in_words(self.now));
        }
        if !project.is_hungry() {
            let most = project.parallel_max;
            return Some(format!("its own attempts: max_parallel is {most}, and so many are out"));
        }
        let class = self.agents.class(project.kind().class)?;
        if class.seats() > 0 {
            return None;
        }
        self.lacks(class, project)
    }

    fn lacks(&self, class: &Class, project: &Active) -> Option<String> {
        let connected: Vec<_> = self.agents.iter().filter(|(_, agent)| agent.session.is_some()).collect();
        if connected.is_empty() {
            return Some(match self.agents.iter().next() {
                None => "an agent: none has ever connected".to_owned(),
                Some(_) => "an agent: none is connected".to_owned(),
            });
        }
        let asks = &class.asks;
        let labelled: Vec<_> =
            connected.iter().filter(|(_, agent)| asks.matches(&agent.about.labels)).copied().collect();
        if labelled.is_empty() {
            return Some(lacking_labels(asks, &connected));
        }
        let large: Vec<_> = labelled
            .iter()
            .filter(|(_, agent)| agent.standing().levels.could_run(asks.need))
            .copied()
            .collect();
        if large.is_empty() {
            return Some(too_large(asks, &labelled));
        }
        let ready: Vec<_> = large.iter().filter(|(_, agent)| agent.wants() > 0).copied().collect();
        if ready.is_empty() {
            let why: Vec<_> = large.iter().take(NAMED_MAX).map(|(_, agent)| self.not_ready(agent)).collect();
            return Some(format!("an agent that takes attempts: {}{}", why.join(", "), more(large.len())));
        }
        if let Some(agent) = class.reserved.first().and_then(|&agent| self.agents.get(agent)) {
            return Some(format!("room on agent {}, which is kept free for it", agent.name));
        }
        let kept = |agent: &Agent| agent.reserved.is_some();
        if ready.iter().all(|(_, agent)| kept(agent)) {
            return Some(
                "an agent: all that fit are kept free for larger tasks of other projects".to_owned(),
            );
        }
        // Then its own attempts are a part of what it waits for.
        if project.with_agents() > 0 {
            return None;
        }
        let has_slot = ready.iter().any(|(_, agent)| agent.standing().slots_left > 0 && !kept(agent));
        Some(if has_slot {
            "processors or memory: on all agents that fit they are taken".to_owned()
        } else {
            "a free slot: all agents that fit are busy".to_owned()
        })
    }

    fn not_ready(&self, agent: &Agent) -> String {
        let name = &agent.name;
        if agent.draining {
            return format!("{name} is drained");
        }
        if agent.health.is_out() {
            return format!("{name} is quarantined {}", agent.health.in_words(self.now));
        }
        if agent.not_ready.is_empty() {
            return format!("{name} wants none now");
        }
        format!("{name} is not ready ({})", agent.not_ready)
    }
}

fn more(count: usize) -> String {
    if count > NAMED_MAX { format!(" and {} more", count - NAMED_MAX) } else { String::new() }
}

fn lacking_labels(asks: &Requirement, agents: &[(AgentId, &Agent)]) -> String {
    let has = |name: &String, value: &String| {
        agents.iter().any(|(_, agent)| agent.about.labels.get(name) == Some(value))
    };
    let in_words = |labels: Vec<(&String, &String)>| {
        let words: Vec<_> =
            labels.iter().take(NAMED_MAX).map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}{}", words.join(", "), more(labels.len()))
    };
    let missing: Vec<_> = asks.labels.iter().filter(|(name, value)| !has(name, value)).collect();
    if missing.is_empty() {
        return format!("an agent that has all of its labels: {}", in_words(asks.labels.iter().collect()));
    }
    let noun = if missing.len() == 1 { "label" } else { "labels" };
    format!("an agent with the {noun} {}: no connected agent has it", in_words(missing))
}

fn too_large(asks: &Requirement, agents: &[(AgentId, &Agent)]) -> String {
    let need = asks.need;
    let cpus = agents.iter().map(|(_, agent)| agent.about.cpus_milli.unwrap_or(u32::MAX)).max().unwrap_or(0);
    let memory =
        agents.iter().map(|(_, agent)| agent.about.memory_bytes.unwrap_or(u64::MAX)).max().unwrap_or(0);
    if need.cpus_milli > cpus {
        return format!(
            "a larger agent: the largest that fits has {} cpus, and {} are asked for",
            thousandths(cpus),
            thousandths(need.cpus_milli)
        );
    }
    if need.memory_bytes > memory {
        return format!(
            "a larger agent: the largest that fits has {} of memory, and {} are asked for",
            mebibytes(memory),
            mebibytes(need.memory_bytes)
        );
    }
    format!(
        "a larger agent: none has both {} cpus and {} of memory",
        thousandths(need.cpus_milli),
        mebibytes(need.memory_bytes)
    )
}

fn thousandths(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1 << 20))
}
