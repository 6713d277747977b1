//! Attempts that can share workers.

use super::LaneId;
use crate::domain::{Assignment, Isolation, RunSpec};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How much work is sent to a worker ahead of need, in microseconds of observed run time.
const AHEAD_MICROS: u64 = 60_000;

/// How much the newest run time counts, in parts of this.
const WALL_WEIGHT: u64 = 8;

/// One that waits for a lane.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The order of arrival, over all classes.
    pub(super) turn: u64,
    pub(super) since: Instant,
    pub(super) assignment: Assignment,
}

/// Those of one project that need the same of a worker.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) project: u64,
    pub(super) run: Arc<RunSpec>,
    pub(super) waiting: VecDeque<Waiting>,
    /// Lanes without a slot; the last one was used last.
    pub(super) idle: Vec<LaneId>,
    /// Lanes that have a slot.
    pub(super) busy: usize,
    /// Those of them that have not asked for work yet.
    pub(super) opening: usize,
    /// How long a run takes, smoothed; none while that is unknown.
    pub(super) wall_micros: Option<u64>,
}

impl Class {
    /// One without work and lanes.
    pub(super) const fn new(project: u64, run: Arc<RunSpec>) -> Self {
        Self {
            project,
            run,
            waiting: VecDeque::new(),
            idle: Vec::new(),
            busy: 0,
            opening: 0,
            wall_micros: None,
        }
    }

    /// How many runs a worker may hold at once.
    pub(super) fn runs_at_once(&self) -> usize {
        let ahead = match self.wall_micros {
            Some(wall) if self.run.isolation == Isolation::Sealed => AHEAD_MICROS / wall.max(1),
            _ => 0,
        };
        1 + usize::try_from(ahead).unwrap_or(usize::MAX - 1)
    }

    /// How long a run took, or has taken so far.
    pub(super) fn observe(&mut self, wall: Duration, is_over: bool) {
        let micros = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX / WALL_WEIGHT).max(1);
        self.wall_micros = Some(match self.wall_micros {
            // One that is not over counts as the least that it can become.
            Some(smooth) if !is_over => smooth.max(micros),
            Some(smooth) => smooth.saturating_mul(WALL_WEIGHT - 1).saturating_add(micros) / WALL_WEIGHT,
            None => micros,
        });
    }
}

/// Whether attempts of two specs of one project can share workers: whether a worker would be made alike for both.
pub(super) fn alike(one: &RunSpec, other: &RunSpec) -> bool {
    // All fields are named, so that a new one can't be forgotten.
    let RunSpec {
        project_name: _,
        image,
        isolation,
        env: _,
        workdir,
        timeout: _,
        cpus_milli,
        memory_bytes,
        pids_max,
        network,
        output_bytes_max: _,
        stdin: _,
    } = one;
    *isolation == other.isolation
        && *cpus_milli == other.cpus_milli
        && *memory_bytes == other.memory_bytes
        && *pids_max == other.pids_max
        && *network == other.network
        && *workdir == other.workdir
        && *image == other.image
}
