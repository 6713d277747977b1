//! Before the storm: faults while slots are free, so that what follows them can be timed. Amid the others all slots are taken.

use crate::{
    fault::{Fault, Kind},
    fleet::{Fleet, HOSTS, LEASE},
    network::Ill,
    process::wait,
    work::Work,
};
use std::time::{Duration, Instant};

/// How many tasks run, which leaves slots free, and how long each takes, so that it outlives all of this.
const TASKS: usize = 2 * HOSTS;
const TASK: Duration = Duration::from_secs(15);

/// How long after a host was cut off its tasks must have begun on another.
const ELSEWHERE_MAX: Duration = LEASE.saturating_add(Duration::from_secs(5));

/// The host that is cut off.
const HOST: usize = 0;

/// How long what is waited for may take at the most.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug)]
pub(crate) struct Calm {
    /// How long after the cut the tasks of a host had begun on others, and how many there were.
    pub(crate) elsewhere: Option<Duration>,
    pub(crate) moved: usize,
    /// How long after its start a coordinator that was killed had a new project's task running.
    pub(crate) goes_on: Option<Duration>,
    pub(crate) faults: Vec<Fault>,
}

impl Calm {
    /// Kills the coordinator, then cuts a host off, while tasks run.
    pub(crate) fn new(fleet: &mut Fleet, work: &mut Work) -> Self {
        work.submit_even(TASKS, TASK, fleet);
        fleet.wait("tasks run on all hosts", WAIT_MAX, |fleet| {
            let running = fleet.witness.running();
            running.len() == HOSTS && running.values().sum::<usize>() == TASKS
        });
        let killed = kill_the_coordinator(fleet, work);
        let (elsewhere, cut) = cut_a_host_off(fleet);
        Self { elsewhere, moved: cut.running, goes_on: killed.recovery, faults: vec![killed, cut] }
    }

    pub(crate) fn too_slow(&self) -> Option<String> {
        let late = self.elsewhere.is_none_or(|took| took > ELSEWHERE_MAX);
        late.then(|| format!("a host's tasks began elsewhere {:?} after it was cut off", self.elsewhere))
    }
}

fn kill_the_coordinator(fleet: &mut Fleet, work: &mut Work) -> Fault {
    let mut fault = Fault::new(Kind::ServerKilled, None, TASKS);
    fleet.server.take().expect("a running coordinator").kill();
    let since = Instant::now();
    fleet.start_server();
    let project = work.submit_even(1, Duration::ZERO, fleet);
    let began = || fleet.witness.starts().iter().any(|start| start.task.0 == project);
    fault.recovery = wait(WAIT_MAX, began).map(|_| since.elapsed());
    fault.end = Instant::now();
    fault
}

fn cut_a_host_off(fleet: &Fleet) -> (Option<Duration>, Fault) {
    let mut hit = fleet.witness.starts();
    hit.retain(|start| start.host == HOST && start.end.is_none());
    let mut fault = Fault::new(Kind::LinkCutLong, Some(HOST), hit.len());
    let cable = &fleet.hosts[HOST].cable;
    cable.harm(Ill::Cut);
    let mut given_up = None;
    let all_began = || {
        if given_up.is_none() && fleet.held(HOST) == Some(0) {
            given_up = Some(fault.begin.elapsed());
        }
        let starts = fleet.witness.starts();
        hit.iter().all(|hit| starts.iter().any(|start| start.task == hit.task && start.host != HOST))
    };
    let elsewhere = wait(WAIT_MAX, all_began);
    fault.given_up = given_up.or(elsewhere);
    cable.heal(Ill::Cut);
    let healed = Instant::now();
    fault.recovery = wait(WAIT_MAX, || fleet.agent_state(HOST) == "ready").map(|_| healed.elapsed());
    fault.end = Instant::now();
    (elsewhere, fault)
}
