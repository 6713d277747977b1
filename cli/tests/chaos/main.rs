//! Chaos: a coordinator and three agents on three Docker hosts, all real, and faults at random while projects of all kinds run.
//! In the end every result must be what one machine would have printed, no task may have begun more often than faults
//! explain, and nothing may be left over.
//!
//! A second run has RabbitMQ between the parts, a cluster of three nodes, which suffers from faults of its own.
//!
//! `PIECEWORK_CHAOS_SEED` chooses the faults and where they hit, `PIECEWORK_CHAOS_FAULTS` how many there are; by default
//! each kind comes once. The seed does not choose when tasks run: the same seed can go another way. It needs root, an
//! engine and the tools of iproute2; without them it says so and passes, or with PIECEWORK_TEST_REQUIRE_DOCKER it fails.
//! PIECEWORK_CHAOS_KEEP keeps the directory of the run with all logs.

mod account;
mod calm;
mod charges;
mod cluster;
mod disk;
mod engine;
mod fault;
mod fleet;
mod image;
mod left_over;
mod network;
mod place;
mod process;
mod report;
mod witness;
mod work;

use account::Account;
use calm::Calm;
use charges::Charges;
use fault::{Fault, Kind};
use fleet::Fleet;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use report::{Report, say};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};
use work::Work;

/// For how long work goes on undisturbed before the first fault: what is used then is what is usual.
const CALM: Duration = Duration::from_secs(3);

/// How long everything may take to be well again after a fault.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// Why it can't run here, if it can't.
fn missing() -> Option<String> {
    let works = |program: &str, args: &[&str]| process::succeeds(Command::new(program).args(args));
    let uid = Command::new("id").arg("-u").output();
    if !uid.is_ok_and(|output| output.stdout == b"0\n") {
        return Some("it needs to be root".to_owned());
    }
    if !works("docker", &["version"]) {
        return Some("no Docker engine answers".to_owned());
    }
    let tools = [("ip", "-V"), ("tc", "-V"), ("iptables", "-V"), ("nsenter", "-V"), ("dockerd", "-v")];
    let tool = tools.iter().find(|(tool, version)| !works(tool, &[version]));
    tool.map(|(tool, _)| format!("there is no {tool}"))
}

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, wanted a number")))
}

/// So many kinds of faults: each kind comes once before any comes again.
fn kinds(of: &[Kind], faults: Option<u64>, chance: &mut StdRng) -> Vec<Kind> {
    let faults = faults.map_or(of.len(), |faults| usize::try_from(faults).expect("a number of faults"));
    let mut kinds = Vec::new();
    while kinds.len() < faults {
        let mut all = of.to_vec();
        all.shuffle(chance);
        kinds.extend(all);
    }
    kinds.truncate(faults);
    kinds
}

#[test]
fn nothing_is_lost_and_nothing_runs_again_without_cause() {
    storm(&Kind::ALL, false);
}

#[test]
fn nothing_is_lost_with_rabbitmq_between_the_parts() {
    storm(&Kind::WITH_RABBITMQ, true);
}

/// Faults of these kinds.
fn storm(of: &[Kind], with_rabbitmq: bool) {
    // One at a time: they share this machine's processors, and the names of what they make.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let no_rabbitmq =
        (with_rabbitmq && cluster::is_missing()).then(|| "there is no rabbitmq-server".to_owned());
    let missing = missing().map(|why| (why, "PIECEWORK_TEST_REQUIRE_DOCKER"));
    let missing = missing.or_else(|| Some((no_rabbitmq?, "PIECEWORK_TEST_REQUIRE_RABBITMQ")));
    if let Some((why, variable)) = missing {
        assert!(std::env::var_os(variable).is_none(), "a test that must run here can't: {why}");
        say(&format!("chaos: not run: {why}\n"));
        return;
    }
    let seed = number("PIECEWORK_CHAOS_SEED").unwrap_or(0);
    let mut chance = StdRng::seed_from_u64(seed);
    let kinds = kinds(of, number("PIECEWORK_CHAOS_FAULTS"), &mut chance);
    let mut fleet = Fleet::new(with_rabbitmq);
    let ran = catch_unwind(AssertUnwindSafe(|| run(&mut fleet, &kinds, seed, &mut chance)));
    match ran {
        Ok(wrong) if wrong.is_empty() => {}
        Ok(wrong) => {
            say(&format!("{}\n", fleet.logs()));
            panic!("seed {seed}:\n{}", wrong.join("\n"));
        }
        Err(panic) => {
            say(&format!("chaos: seed {seed} went wrong\n{}\n", fleet.logs()));
            resume_unwind(panic);
        }
    }
}

/// Does the work under these faults; says what is wrong in the end.
fn run(fleet: &mut Fleet, kinds: &[Kind], seed: u64, chance: &mut StdRng) -> Vec<String> {
    let mut report = Report::new(seed);
    let mut work = Work::default();
    let calm = Calm::new(fleet, &mut work);
    report.calm(&calm);
    let mut faults = calm.faults.clone();
    work.feed(fleet);
    fleet.wait("work has begun", RECOVERY_MAX, |fleet| fleet.witness.count() > 20);
    thread::sleep(CALM);
    let memory = left_over::memory(fleet);
    for kind in kinds {
        work.feed(fleet);
        faults.push(fault::strike(*kind, fleet, chance));
        settle(fleet);
    }
    let mut wrong = work.finish(fleet);
    let starts = fleet.witness.starts();
    let account = Account::new(&starts, &faults);
    let charges = Charges::new(fleet, work.projects(), &starts);
    report.add(&faults, &account, &charges, &work);
    wrong.extend(account.wrong);
    wrong.extend(faults.iter().filter_map(|fault| charges.missing(fault)));
    wrong.extend(charges.wrong);
    wrong.extend(calm.too_slow());
    wrong.extend(faults.iter().flat_map(Fault::too_slow));
    if wrong.is_empty() {
        wrong.extend(left_over::check(fleet, &memory, &mut report));
    }
    if !wrong.is_empty() {
        report.tell(&faults, &starts);
    }
    say(&report.text());
    wrong
}

/// Waits until everything is well again: all agents are ready, and results come.
fn settle(fleet: &Fleet) {
    fleet.wait("all agents are ready again", RECOVERY_MAX, |fleet| fleet.ready() == fleet::HOSTS);
    let before = Work::done(fleet);
    let goes_on = |fleet: &Fleet| {
        let done = Work::done(fleet);
        done.is_some() && (before.is_none() || done > before || fleet.witness.running().is_empty())
    };
    fleet.wait("results come again", RECOVERY_MAX, goes_on);
}
