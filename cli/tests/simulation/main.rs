//! A seeded, deterministic simulation of the whole protocol: the coordinator's core on the real store, the agents' cores,
//! and between and under them everything that can go wrong. After each step the invariants are checked; at the end,
//! when all has healed, every project must have ended with exactly one true result a task.
//!
//! `PIECEWORK_SIMULATION_SEEDS=FIRST..LAST` chooses the seeds; a failing run prints its seed and the way it went, and the
//! same seed goes the same way again.

mod additions;
mod coordinator;
mod host;
mod lanes;
mod network;
mod translate;
mod witness;
mod world;

use piecework_agent::supervisor::PlantedBug;
use piecework_server::coordinator::Planted;
use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use witness::Counts;
use world::{Bugs, ShellBug, World};

/// How many seeds a run without planted bugs takes, unless the environment says otherwise.
const SEEDS: Range<u64> = 0..400;
/// Within how many seeds a planted bug must be caught. The rarest shows in one of two hundred.
const SEEDS_TO_CATCH: Range<u64> = 0..1200;

/// Runs one seed; gives back what went wrong.
fn run(seed: u64, bugs: Bugs) -> Result<(), String> {
    let mut world = World::new(seed, bugs);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    ran.map_err(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned());
        format!("seed {seed}: {what}\n{}", world.story())
    })
}

/// The first failure among these seeds, if any. Uses all processors.
fn first_failure(seeds: Range<u64>, bugs: Bugs) -> Option<String> {
    let next = AtomicU64::new(seeds.start);
    let failure = Mutex::new(None);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let found = |why| *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    if seed >= seeds.end || failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                        return;
                    }
                    if let Err(why) = run(seed, bugs) {
                        found(why);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("PIECEWORK_SIMULATION_SEEDS") else { return SEEDS };
    let parsed =
        text.split_once("..").and_then(|(first, last)| Some(first.parse().ok()?..last.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("PIECEWORK_SIMULATION_SEEDS is `{text}`, wanted FIRST..LAST"))
}

#[test]
fn nothing_is_lost_or_doubled() {
    if let Some(why) = first_failure(seeds(), Bugs::default()) {
        panic!("{why}");
    }
}

#[test]
fn a_seed_goes_the_same_way_again() {
    let story = |seed| {
        let mut world = World::new(seed, Bugs::default());
        world.run();
        world.story()
    };
    for seed in 0..10 {
        assert_eq!(story(seed), story(seed), "seed {seed}");
    }
}

/// What can go wrong with a backlog, a quarantine or an addition is only tried if there are some.
#[test]
fn backlogs_quarantines_and_additions_are_tried() {
    let mut all = Counts::default();
    for seed in 0..100 {
        let mut world = World::new(seed, Bugs::default());
        world.run();
        let counts = world.witness.counts;
        all.beyond_slots += counts.beyond_slots;
        all.given_back += counts.given_back;
        all.recalled_and_returned += counts.recalled_and_returned;
        all.quarantines += counts.quarantines;
        all.known += counts.known;
        all.refused += counts.refused;
        all.idle += counts.idle;
    }
    assert!(all.beyond_slots > 1_000, "some attempts are to be claimed for a backlog: {all:?}");
    assert!(all.given_back > 20, "some attempts are to be given back to an agent's core: {all:?}");
    assert!(all.recalled_and_returned > 2, "some recalled attempts are to be handed back: {all:?}");
    assert!(all.quarantines > 5, "some hosts are to be quarantined: {all:?}");
    assert!(all.known > 20, "some tasks are to be added twice: {all:?}");
    assert!(all.refused > 5, "some additions are to come too late: {all:?}");
    assert!(all.idle > 5, "some projects are to be closed because nothing comes: {all:?}");
}

fn caught(bugs: Bugs) {
    // The panics of caught bugs are no news.
    let failure = first_failure(SEEDS_TO_CATCH, bugs);
    assert!(failure.is_some(), "the simulation did not catch {bugs:?}");
}

macro_rules! catches {
    ($($name:ident: $field:ident = $bug:expr;)*) => {
        /// Each bug, planted on purpose, must be caught.
        mod catches {
            use super::*;
            $(
                #[test]
                fn $name() {
                    caught(Bugs { $field: Some($bug), ..Bugs::default() });
                }
            )*
        }
    };
}

catches! {
    attempt_number_not_raised: coordinator = Planted::AttemptNumberNotRaised;
    stale_report_counts: coordinator = Planted::StaleReportCounts;
    requeue_on_disconnect: coordinator = Planted::RequeueOnDisconnect;
    hello_not_reconciled: coordinator = Planted::HelloNotReconciled;
    old_attempt_readopted: coordinator = Planted::OldAttemptReadopted;
    lease_never_ends: coordinator = Planted::LeaseNeverEnds;
    gaps_forgotten: coordinator = Planted::GapsForgotten;
    message_gap_ignored: coordinator = Planted::MessageGapIgnored;
    recall_taken_for_returned: coordinator = Planted::RecallTakenForReturned;
    labels_ignored: coordinator = Planted::LabelsIgnored;
    capacity_ignored: coordinator = Planted::CapacityIgnored;
    parallel_ignored: coordinator = Planted::ParallelIgnored;
    lease_stop_ignored: coordinator = Planted::LeaseStopIgnored;
    reservation_forgotten: coordinator = Planted::ReservationForgotten;
    reservation_out_of_turn: coordinator = Planted::ReservationOutOfTurn;
    broker_loss_ignored: coordinator = Planted::BrokerLossIgnored;
    quarantine_never_ends: coordinator = Planted::QuarantineNeverEnds;
    ends_while_open: coordinator = Planted::EndsWhileOpen;
    open_forgotten: coordinator = Planted::OpenForgotten;
    idle_never_ends: coordinator = Planted::IdleNeverEnds;
    effects_before_commit: shell = ShellBug::EffectsBeforeCommit;
    not_folded_back: shell = ShellBug::NotFoldedBack;
    keys_ignored: shell = ShellBug::KeysIgnored;
    release_before_persist: agent = PlantedBug::ReleaseBeforePersist;
    forget_at_disconnect: agent = PlantedBug::ForgetAtDisconnect;
    forget_on_send: agent = PlantedBug::ForgetOnSend;
    hello_omits_unrecorded: agent = PlantedBug::HelloOmitsUnrecorded;
    hello_omits_live: agent = PlantedBug::HelloOmitsLive;
    agent_message_gap_ignored: agent = PlantedBug::SeqGapIgnored;
    recall_hands_back_running: agent = PlantedBug::RecallHandsBackRunning;
    recall_keeps_queued: agent = PlantedBug::RecallKeepsQueued;
    not_begun_forgotten: agent = PlantedBug::NotBegunForgotten;
}
