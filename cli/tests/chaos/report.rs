//! What a run says in the end: a table of its faults.

use crate::{
    account::Account,
    calm::Calm,
    charges::Charges,
    fault::{Fault, Kind},
    witness::Start,
    work::Work,
};
use comfy_table::{Table, presets::NOTHING};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

/// How many charged losses of attempts that never began are told of.
const UNBEGUN_SHOWN_MAX: usize = 5;

/// Says something past the test's own capturing: a table that only failures show is not read.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The report.
pub(crate) struct Report {
    lines: Vec<String>,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self { lines: vec![format!("chaos: seed {seed}")] }
    }

    pub(crate) fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    pub(crate) fn calm(&mut self, calm: &Calm) {
        self.line(format!(
            "with slots free: a new project's task ran {} after the coordinator's restart; {} tasks of a host that was cut off \
             ran elsewhere after {}",
            secs(calm.goes_on),
            calm.moved,
            secs(calm.elsewhere)
        ));
    }

    pub(crate) fn add(&mut self, faults: &[Fault], account: &Account, charges: &Charges, work: &Work) {
        let (projects, tasks) = (work.projects().count(), work.tasks());
        let reruns: usize = account.reruns.values().map(Vec::len).sum();
        self.line(format!(
            "{projects} projects of {tasks} tasks; {} faults hit {} running attempts; {reruns} reruns, {} retries",
            faults.len(),
            faults.iter().map(|fault| fault.running).sum::<usize>(),
            account.retries,
        ));
        let mut kinds: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        for (number, fault) in faults.iter().enumerate() {
            kinds.entry(fault.kind).or_default().push(number);
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header([
            "fault",
            "times",
            "attempts hit",
            "reruns",
            "given up",
            "first rerun",
            "well again, most",
        ]);
        for (kind, numbers) in kinds {
            let reruns: Vec<_> = numbers.iter().filter_map(|number| account.reruns.get(number)).collect();
            let first = reruns.iter().filter_map(|times| times.iter().min()).max();
            table.add_row([
                kind.words().to_owned(),
                numbers.len().to_string(),
                numbers.iter().map(|&number| faults[number].running).sum::<usize>().to_string(),
                reruns.iter().map(|times| times.len()).sum::<usize>().to_string(),
                secs(numbers.iter().filter_map(|&number| faults[number].given_up).max()),
                secs(first.copied()),
                secs(numbers.iter().filter_map(|&number| faults[number].recovery).max()),
            ]);
        }
        self.line(table.to_string());
        let unbegun = charges.unbegun.len();
        self.line(format!("charged losses: {:?}; {unbegun} of them never began", charges.of_kind));
        self.lines.extend(charges.unbegun.iter().take(UNBEGUN_SHOWN_MAX).cloned());
    }

    /// When each fault was, counted from when the first task began.
    pub(crate) fn tell(&mut self, faults: &[Fault], starts: &[Start]) {
        let Some(zero) = starts.first().map(|start| start.at) else { return };
        for fault in faults {
            let [begin, end] = [fault.begin, fault.end].map(|at| at.duration_since(zero).as_secs_f64());
            let host = fault.host.map_or_else(|| "no host".to_owned(), |host| format!("host {host}"));
            self.line(format!("{begin:6.1} to {end:6.1} s  {host}: {}", fault.kind.words()));
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = self.lines.join("\n");
        text.push('\n');
        text
    }
}

fn secs(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}
