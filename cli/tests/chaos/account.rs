//! The account of everything that began: each attempt at a task that follows another one needs a cause.

use crate::{
    fault::Fault,
    witness::{End, Start, Task},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// An attempt that ended so shortly before a fault may not have been known to have ended.
const UNREPORTED: Duration = Duration::from_millis(1000);
/// How long an agent may wait before it tries again to report or to upload, after a fault that kept it from doing so.
const TRIED_AGAIN: Duration = Duration::from_secs(5);

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Attempts that followed another one because of a fault; by its place in the list of faults.
    pub(crate) reruns: BTreeMap<usize, Vec<Duration>>,
    /// Attempts that followed one that failed because it was to.
    pub(crate) retries: usize,
    /// What no fault explains.
    pub(crate) wrong: Vec<String>,
}

impl Account {
    /// Goes through all that began, in order.
    pub(crate) fn new(starts: &[Start], faults: &[Fault]) -> Self {
        let mut account = Self::default();
        let mut of_tasks: BTreeMap<&Task, Vec<&Start>> = BTreeMap::new();
        for start in starts {
            of_tasks.entry(&start.task).or_default().push(start);
        }
        let zero = starts.first().map_or_else(Instant::now, |start| start.at);
        let mut explained = Vec::new();
        for (task, starts) in of_tasks {
            for pair in starts.windows(2) {
                let [first, next] = pair else { continue };
                if first.end.is_some_and(|(_, end)| end == End::Failed) {
                    account.retries += 1;
                    continue;
                }
                let causes = causes(faults, first, next);
                if causes.is_empty() {
                    account.wrong.push(format!(
                        "task {} of {} began at {:?} on host {} ({:?}) and again at {:?} on host {}: no fault explains it",
                        task.1,
                        task.0,
                        first.at - zero,
                        first.host,
                        first.end.map(|(at, end)| (at - zero, end)),
                        next.at - zero,
                        next.host,
                    ));
                } else {
                    explained.push((causes, next.at));
                }
            }
        }
        account.attribute(explained, faults);
        account
    }

    /// Gives each rerun to one of its causes that can have lost that many; those with the fewest causes choose first.
    fn attribute(&mut self, mut explained: Vec<(Vec<usize>, Instant)>, faults: &[Fault]) {
        explained.sort_by_key(|(causes, at)| (causes.len(), *at));
        for (causes, at) in explained {
            let has_room =
                |cause: &&usize| self.reruns.get(*cause).map_or(0, Vec::len) < faults[**cause].losses_max;
            let Some(&cause) = causes.iter().find(has_room) else {
                let kinds: Vec<_> = causes.iter().map(|&cause| faults[cause].kind).collect();
                self.wrong.push(format!("{kinds:?} can't have lost as many attempts as ran again"));
                continue;
            };
            self.reruns.entry(cause).or_default().push(at.duration_since(faults[cause].begin));
        }
    }
}

/// The faults that may have made a task run again, the most likely one first.
fn causes(faults: &[Fault], first: &Start, next: &Start) -> Vec<usize> {
    let known = known_by(faults, first);
    let of = |is_cause: &dyn Fn(&Fault) -> bool| {
        let numbers = faults.iter().enumerate().rev().filter(|(_, fault)| is_cause(fault));
        numbers.map(|(number, _)| number).collect::<Vec<_>>()
    };
    // The last one: had an earlier one lost it, it would mostly not have been there any more.
    let mut causes = of(&|fault| has_lost(fault, first, known, next));
    causes.extend(of(&|fault| is_late(fault, next)));
    causes
}

/// Until when the coordinator may not have known that it had ended; none if nobody saw it end. What ends in the middle of a
/// fault may be known only after that.
fn known_by(faults: &[Fault], start: &Start) -> Option<Instant> {
    let (end, _) = start.end?;
    let hinders = |fault: &&Fault| {
        fault.host.is_none_or(|host| host == start.host)
            && fault.begin <= end + UNREPORTED
            && end <= fault.end
    };
    let tried_again = faults.iter().filter(hinders).map(|fault| fault.end + TRIED_AGAIN);
    Some(tried_again.fold(end + UNREPORTED, Instant::max))
}

/// The fault may have lost the first, which was known to have ended by then, and the next came after that.
fn has_lost(fault: &Fault, first: &Start, known: Option<Instant>, next: &Start) -> bool {
    let was_there = first.at <= fault.end && known.is_none_or(|known| known >= fault.begin);
    fault.losses_max > 0 && fault.host == Some(first.host) && was_there && next.at >= fault.begin
}

/// The next was there before, not begun yet, on a host that was silent for longer than its lease, so that the first took
/// its place.
fn is_late(fault: &Fault, next: &Start) -> bool {
    fault.losses_max > 0
        && fault.kind.is_silence()
        && fault.host == Some(next.host)
        && (fault.begin..=fault.end).contains(&next.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Kind;

    const HOST: usize = 1;

    fn start(zero: Instant, host: usize, secs: [u64; 2], end: End) -> Start {
        let at = |secs| zero + Duration::from_secs(secs);
        Start { task: ("p".to_owned(), 0), host, at: at(secs[0]), end: Some((at(secs[1]), end)) }
    }

    fn check(first: (usize, [u64; 2], End), fault: Option<([u64; 2], usize)>, wrong: usize) {
        check_on(HOST, first, fault, wrong);
    }

    fn check_on(on: usize, first: (usize, [u64; 2], End), fault: Option<([u64; 2], usize)>, wrong: usize) {
        let zero = Instant::now() + Duration::from_secs(60);
        let (host, secs, end) = first;
        let starts = [start(zero, host, secs, end), start(zero, 2, [20, 21], End::Done)];
        let at = |secs| zero + Duration::from_secs(secs);
        let faults = fault.map(|([begin, end], losses_max)| Fault {
            kind: Kind::AgentPausedLong,
            host: Some(on),
            begin: at(begin),
            end: at(end),
            running: 1,
            losses_max,
            given_up: None,
            recovery: None,
        });
        let account = Account::new(&starts, faults.as_slice());
        assert_eq!(account.wrong.len(), wrong, "{account:?}");
    }

    #[test]
    fn a_task_that_ran_again_without_a_fault_is_wrong() {
        check((HOST, [1, 2], End::Done), None, 1);
        check((HOST, [1, 2], End::Vanished), None, 1);
    }

    #[test]
    fn a_failure_that_was_to_be_is_tried_again() {
        check((HOST, [1, 2], End::Failed), None, 0);
    }

    #[test]
    fn a_fault_explains_what_ran_on_its_host_at_its_time() {
        check((HOST, [1, 9], End::Vanished), Some(([5, 12], 4)), 0);
        check((HOST, [1, 4], End::Done), Some(([5, 12], 4)), 0);
        check((HOST, [1, 3], End::Done), Some(([5, 12], 4)), 1);
        check((HOST, [14, 15], End::Vanished), Some(([5, 12], 4)), 1);
        check((HOST, [1, 9], End::Vanished), Some(([21, 22], 4)), 1);
        check((2, [1, 9], End::Vanished), Some(([5, 12], 4)), 1);
        // The second is the older one, and began late on the host that was silent.
        check_on(2, (HOST, [16, 17], End::Done), Some(([10, 25], 4)), 0);
        check_on(2, (HOST, [16, 17], End::Done), Some(([10, 19], 4)), 1);
    }

    #[test]
    fn what_ends_amid_a_fault_is_known_later() {
        let zero = Instant::now() + Duration::from_secs(60);
        let starts = [start(zero, HOST, [1, 4], End::Done), start(zero, 2, [20, 21], End::Done)];
        let lost = |hinders: [u64; 2]| {
            let mut faults =
                [Kind::ServerDiskFull, Kind::AgentPausedLong].map(|kind| Fault::new(kind, None, 1));
            faults[1].host = Some(HOST);
            for (fault, secs) in faults.iter_mut().zip([hinders, [10, 15]]) {
                [fault.begin, fault.end] = secs.map(|secs| zero + Duration::from_secs(secs));
            }
            Account::new(&starts, &faults).wrong.is_empty()
        };
        assert!(lost([3, 5]));
        assert!(!lost([2, 4]));
        assert!(!lost([6, 9]));
    }

    #[test]
    fn a_fault_explains_no_more_than_it_can_have_lost() {
        let zero = Instant::now() + Duration::from_secs(60);
        let again = |host, task| {
            let of = |start: Start| Start { task: ("p".to_owned(), task), ..start };
            [of(start(zero, host, [1, 9], End::Vanished)), of(start(zero, 2, [20, 21], End::Done))]
        };
        let starts = [again(HOST, 0), again(HOST, 1), again(HOST, 2)].concat();
        let wrong = |losses: [usize; 2]| {
            let faults = losses.map(|losses_max| Fault {
                begin: zero + Duration::from_secs(8),
                end: zero + Duration::from_secs(9),
                losses_max,
                ..Fault::new(Kind::InitKilled, Some(HOST), 1)
            });
            Account::new(&starts, &faults).wrong.len()
        };
        assert_eq!(wrong([1, 2]), 0);
        assert_eq!(wrong([2, 1]), 0);
        assert_eq!(wrong([1, 1]), 1);
    }

    #[test]
    fn a_fault_that_loses_nothing_explains_nothing() {
        check((HOST, [1, 9], End::Vanished), Some(([5, 12], 0)), 1);
    }
}
