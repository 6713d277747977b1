//! What the coordinator has charged as lost. A loss counts towards a task's limit, so one that never began is to be handed
//! back, not lost: unless its agent was not heard for a whole lease, for then nobody can know.

use crate::{
    fault::Fault,
    fleet::Fleet,
    witness::{End, Start, Task},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// The kinds of losses, as the coordinator names them.
const LOSSES: [&str; 3] = ["worker_lost", "engine_lost", "lease_lost"];

/// Losses by kind, and what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    pub(crate) of_kind: BTreeMap<String, usize>,
    /// Certain losses of attempts that nobody saw begin. Some are to be expected: one may end before it can tell the
    /// witness, and what was sent to an agent that died is not known to its next process.
    pub(crate) unbegun: Vec<String>,
    /// What could not be found out.
    pub(crate) wrong: Vec<String>,
}

impl Charges {
    /// Asks for all tasks of these projects, by number and name, and compares them with what was seen to begin.
    pub(crate) fn new<'a>(
        fleet: &Fleet,
        projects: impl Iterator<Item = (u64, &'a str)>,
        starts: &[Start],
    ) -> Self {
        let mut began: BTreeMap<&Task, usize> = BTreeMap::new();
        for start in starts.iter().filter(|start| start.end.is_none_or(|(_, end)| end != End::Failed)) {
            *began.entry(&start.task).or_default() += 1;
        }
        let mut charges = Self::default();
        for (id, name) in projects {
            let Some(said) = fleet.ask(&["tasks", "--json", &id.to_string()]) else {
                charges.wrong.push(format!("the tasks of {name} can't be listed"));
                continue;
            };
            for line in String::from_utf8_lossy(&said.stdout).lines() {
                charges.add(name, &serde_json::from_str(line).unwrap_or_default(), &began);
            }
        }
        charges
    }

    /// Of a fault that hit something, that nobody was charged with such a loss.
    pub(crate) fn missing(&self, fault: &Fault) -> Option<String> {
        let loss = fault.kind.loss().filter(|loss| fault.running > 0 && !self.of_kind.contains_key(*loss))?;
        Some(format!("{:?} hit {} attempts, and nothing was charged as {loss}", fault.kind, fault.running))
    }

    fn add(&mut self, project: &str, task: &Value, began: &BTreeMap<&Task, usize>) {
        let name = match task["phase"].as_str() {
            Some("split") => format!("{project}.split"),
            Some("reassemble") => format!("{project}.fold"),
            _ => project.to_owned(),
        };
        let index = u32::try_from(task["index"].as_u64().unwrap_or(0)).unwrap_or(0);
        let attempts = task["attempts"].as_array().cloned().unwrap_or_default();
        let mut certain = Vec::new();
        let mut all = 0;
        for attempt in &attempts {
            let kind = attempt["outcome"]["kind"].as_str().unwrap_or_default();
            if !LOSSES.contains(&kind) {
                continue;
            }
            *self.of_kind.entry(kind.to_owned()).or_default() += 1;
            all += 1;
            if kind != "lease_lost" {
                certain
                    .push(format!("{kind}: {}", attempt["outcome"]["message"].as_str().unwrap_or_default()));
            }
        }
        // One of those that began has its result.
        let lost = began.get(&(name.clone(), index)).copied().unwrap_or(0).saturating_sub(1);
        if all > lost && !certain.is_empty() {
            self.unbegun.push(format!(
                "task {index} of {name} began {} times, and was charged with {all} losses: {certain:?}",
                lost + 1
            ));
        }
    }
}
