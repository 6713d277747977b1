//! Tests of the board alone: lanes are played by the test.

use super::*;
use crate::domain::{ImageSpec, Isolation, Phase, StdinFrom};

/// Room for as many runs as a lane likes.
const ROOM: usize = 64;

/// Room for as much of commands and variables as a lane likes.
const BYTES: usize = usize::MAX;

fn assignments(pulled: Vec<Pulled>) -> Vec<Assignment> {
    pulled.into_iter().map(|pulled| pulled.assignment).collect()
}

fn key(project: u64, index: u32) -> AttemptKey {
    AttemptKey { project, phase: Phase::Task, index, attempt: 1 }
}

fn spec() -> RunSpec {
    RunSpec {
        project_name: "test".into(),
        image: ImageSpec::Reference("any".into()),
        env: BTreeMap::new(),
        workdir: None,
        timeout: None,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        output_bytes_max: 1,
        stdin: StdinFrom::Nothing,
        isolation: Isolation::Sealed,
    }
}

fn of(spec: RunSpec, project: u64, index: u32) -> Assignment {
    Assignment { attempt: key(project, index), command: vec![], stdin: vec![].into(), spec: Arc::new(spec) }
}

fn indices(assignments: &[Assignment]) -> Vec<u32> {
    assignments.iter().map(|assignment| assignment.attempt.index).collect()
}

/// A board, and the lanes that were opened on it, in order.
struct Bench {
    board: Board,
    opened: Vec<LaneId>,
    looks: Vec<LaneId>,
}

impl Bench {
    fn new(slots: usize, idle_max: usize) -> Self {
        Self { board: Board::new(slots, idle_max), opened: Vec::new(), looks: Vec::new() }
    }

    fn with<T>(&mut self, change: impl FnOnce(&mut Board, &mut Vec<Do>) -> T) -> T {
        let mut to_do = Vec::new();
        let result = change(&mut self.board, &mut to_do);
        self.looks.clear();
        for what in to_do {
            match what {
                Do::Open(lane, _) => self.opened.push(lane),
                Do::Look(lane) => self.looks.push(lane),
            }
        }
        let busy = self.board.lanes.values().filter(|lane| lane.has_slot).count();
        assert_eq!(busy, self.board.busy, "slots are counted");
        result
    }

    fn add(&mut self, project: u64, indices: impl IntoIterator<Item = u32>) {
        let all = indices.into_iter().map(|index| of(spec(), project, index)).collect();
        self.with(|board, to_do| board.add(all, to_do));
    }

    fn pull(&mut self, lane: LaneId, held: usize) -> Vec<u32> {
        indices(&assignments(self.with(|board, _| board.pull(lane, held, ROOM, 1, BYTES))))
    }

    fn kill(&mut self, attempt: AttemptKey) -> Kill {
        self.with(|board, to_do| board.kill(attempt, to_do))
    }

    fn rest(&mut self, lane: LaneId) {
        self.with(|board, to_do| board.rest(lane, to_do));
    }

    /// All runs of its class are known to take no time.
    fn quick(&mut self, lane: LaneId) {
        self.with(|board, _| board.observe(lane, Duration::from_micros(1), true));
    }

    fn is_told_to_retire(&mut self, lane: LaneId) -> bool {
        self.board.read_mail(lane).retire
    }
}

#[test]
fn no_more_lanes_are_busy_than_there_are_slots() {
    let mut bench = Bench::new(2, 2);
    bench.add(1, 0..5);
    bench.add(2, 0..5);
    assert_eq!((bench.opened.len(), bench.board.has_free_slot()), (2, false));
    let lane = bench.opened[0];
    assert_eq!(bench.pull(lane, 0), [0], "one at a time while nobody knows how long they take");
    assert_eq!(bench.pull(lane, 1), [0; 0]);
    bench.with(|board, to_do| board.leave(lane, to_do));
    assert_eq!(bench.opened.len(), 3, "its slot went to the next");
    assert!(!bench.board.has_free_slot());
}

#[test]
fn the_class_that_waits_longer_and_has_no_slot_gets_the_next() {
    let mut bench = Bench::new(2, 2);
    bench.add(1, 0..2);
    bench.add(2, 0..1);
    bench.add(1, 2..9);
    let [first, second] = bench.opened[..] else { panic!() };
    assert_eq!((bench.pull(first, 0), bench.pull(second, 0)), (vec![0], vec![1]));
    bench.quick(first);
    assert_eq!(bench.pull(first, 0), [0; 0], "project 2 waits longer than all that is left");
    bench.rest(first);
    let [_, _, third] = bench.opened[..] else { panic!("{:?}", bench.opened) };
    let project = bench.with(|board, _| board.pull(third, 0, ROOM, 1, BYTES))[0].assignment.attempt.project;
    assert_eq!(project, 2);
    assert_eq!(bench.pull(second, 0).first(), Some(&2), "now that all have one, a lane goes on");
    bench.add(1, 9..10);
    // The idle lane is used again, and no new one is opened.
    bench.with(|board, to_do| board.leave(third, to_do));
    assert_eq!((bench.opened.len(), bench.looks.as_slice()), (3, &[first][..]));
    assert!(bench.board.read_mail(first).awake);
}

#[test]
fn workers_are_shared_within_a_project_by_what_is_alike() {
    let mut bench = Bench::new(9, 9);
    let same = RunSpec { timeout: Some(Duration::from_secs(1)), output_bytes_max: 9, ..spec() };
    let specs = [spec(), same, RunSpec { network: true, ..spec() }, RunSpec { pids_max: Some(1), ..spec() }];
    let all = specs.into_iter().zip(0..).map(|(spec, index)| of(spec, 1, index));
    let all = all.chain([of(spec(), 2, 0), of(spec(), 2, 0)]).collect();
    bench.with(|board, to_do| board.add(all, to_do));
    assert_eq!(bench.board.classes.len(), 4, "of project 1 three, and one of project 2");
    assert_eq!(bench.opened.len(), 5, "what is here already is not taken again");
}

#[test]
fn what_waits_is_divided_between_the_lanes() {
    let mut bench = Bench::new(2, 2);
    bench.add(1, 0..10);
    let [first, second] = bench.opened[..] else { panic!() };
    bench.quick(first);
    assert_eq!(bench.pull(first, 0), [0, 1, 2, 3, 4]);
    assert_eq!(bench.pull(second, 0), [5, 6, 7], "and some are left for the first");
    assert_eq!(bench.pull(first, 5), [8]);
    // Not more than some 60 ms of work, whatever there is room for.
    bench.add(1, 10..99);
    for _ in 0..200 {
        bench.with(|board, _| board.observe(second, Duration::from_millis(5), true));
    }
    assert_eq!(bench.pull(second, 0).len(), 13);
    assert_eq!(bench.pull(second, 13), [0; 0]);
    bench.with(|board, _| board.observe(second, Duration::from_secs(1), false));
    assert_eq!(bench.pull(second, 0).len(), 1, "a long one that is not over counts");
}

#[tokio::test(start_paused = true)]
async fn what_was_put_back_goes_first_and_in_order() {
    let mut bench = Bench::new(1, 1);
    bench.add(1, 0..3);
    let lane = bench.opened[0];
    bench.quick(lane);
    let taken = assignments(bench.with(|board, _| board.pull(lane, 0, ROOM, 1, BYTES)));
    bench.add(2, 0..1);
    bench.add(1, 3..4);
    bench.with(|board, to_do| board.put_back(lane, taken, false, to_do));
    assert_eq!(
        bench.pull(lane, 0),
        [0, 1, 2],
        "they had waited longer than project 2; the one behind them has not"
    );
    assert_eq!(bench.pull(lane, 3), [0; 0]);
    let back = (0..3).map(|index| of(spec(), 1, index)).collect();
    bench.with(|board, to_do| board.put_back(lane, back, false, to_do));
    assert!(bench.with(|board, _| board.take_stuck()).is_empty(), "it has not waited for long");
    tokio::time::advance(Duration::from_millis(100)).await;
    let stuck = bench.with(|board, _| board.take_stuck());
    assert_eq!(indices(&stuck), [0, 1, 2, 0, 3]);
    assert!(matches!(bench.kill(key(1, 0)), Kill::Unknown), "it is the core's now");
    bench.rest(lane);
    bench.add(1, 5..6);
    assert_eq!(bench.pull(lane, 0), [5]);
    bench.rest(lane);
    bench.with(|board, to_do| board.retire(lane, to_do));
    bench.add(1, 6..7);
    tokio::time::advance(Duration::from_millis(100)).await;
    assert!(bench.with(|board, _| board.take_stuck()).is_empty(), "the lane that is opened for it keeps it");
}

#[test]
fn what_was_lost_too_often_is_not_put_back() {
    let mut bench = Bench::new(1, 1);
    bench.add(1, 0..1);
    let lane = bench.opened[0];
    for _ in 0..3 {
        let taken = assignments(bench.with(|board, _| board.pull(lane, 0, ROOM, 1, BYTES)));
        assert_eq!(bench.with(|board, to_do| board.put_back(lane, taken, true, to_do)), []);
    }
    let taken = assignments(bench.with(|board, _| board.pull(lane, 0, ROOM, 1, BYTES)));
    assert_eq!(bench.with(|board, to_do| board.put_back(lane, taken, true, to_do)), [(key(1, 0), false)]);
    bench.add(1, 1..2);
    let taken = assignments(bench.with(|board, _| board.pull(lane, 0, ROOM, 1, BYTES)));
    assert!(matches!(bench.kill(key(1, 1)), Kill::Told));
    assert_eq!(bench.with(|board, to_do| board.put_back(lane, taken, false, to_do)), [(key(1, 1), true)]);
}

#[test]
fn a_kill_finds_what_waits_and_what_was_taken() {
    let mut bench = Bench::new(1, 1);
    bench.add(1, 0..3);
    let lane = bench.opened[0];
    assert_eq!(bench.pull(lane, 0), [0]);
    assert!(matches!(bench.kill(key(1, 1)), Kill::Waited));
    assert!(matches!(bench.kill(key(1, 1)), Kill::Unknown), "it is gone");
    assert!(matches!(bench.kill(key(1, 0)), Kill::Told));
    assert_eq!(bench.board.read_mail(lane).kill, [key(1, 0)]);
    assert_eq!(bench.board.read_mail(lane).kill, [], "told once");
    assert_eq!(bench.pull(lane, 0), [2]);
}

#[test]
fn a_release_is_told_to_the_lane_and_stays_known() {
    let mut bench = Bench::new(1, 1);
    bench.add(1, 0..2);
    let lane = bench.opened[0];
    bench.quick(lane);
    assert_eq!(bench.pull(lane, 0), [0, 1]);
    assert_eq!(bench.board.unreleased_lanes(), 1);
    assert_eq!(bench.board.release(key(1, 0)), Some(lane));
    assert_eq!(bench.board.read_mail(lane).released, 1);
    assert_eq!(bench.board.release(key(1, 0)), None);
    assert_eq!(bench.board.release(key(1, 1)), Some(lane));
    assert_eq!(bench.board.unreleased_lanes(), 0);
    assert_eq!((bench.board.read_mail(lane).released, bench.board.read_mail(lane).released), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_idle_lane_that_was_used_least_recently_goes_when_there_are_too_many() {
    let mut bench = Bench::new(3, 2);
    for project in 1..=3 {
        bench.add(project, 0..1);
    }
    let lanes = bench.opened.clone();
    for lane in &lanes {
        assert_eq!(bench.pull(*lane, 0).len(), 1);
    }
    for lane in [lanes[1], lanes[0], lanes[2]] {
        assert!(!lanes.iter().any(|lane| bench.is_told_to_retire(*lane)), "two may be idle");
        tokio::time::advance(Duration::from_secs(1)).await;
        bench.rest(lane);
    }
    assert_eq!(bench.looks, [lanes[1]]);
    assert_eq!(
        lanes.iter().map(|lane| bench.is_told_to_retire(*lane)).collect::<Vec<_>>(),
        [false, true, false]
    );
    bench.with(|board, to_do| board.leave(lanes[1], to_do));
    // Its work goes to a new lane; that of another to the one that is there.
    bench.add(2, 1..2);
    bench.add(1, 1..2);
    assert_eq!(bench.opened.len(), 4);
    assert_eq!(bench.looks, [lanes[0]]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_with_a_slot_is_not_retired() {
    let mut bench = Bench::new(1, 1);
    bench.add(1, 0..1);
    let lane = bench.opened[0];
    bench.with(|board, to_do| board.retire(lane, to_do));
    assert!(!bench.is_told_to_retire(lane));
    bench.pull(lane, 0);
    bench.rest(lane);
    bench.with(|board, to_do| board.retire(lane, to_do));
    assert!(bench.is_told_to_retire(lane));
    bench.add(1, 1..2);
    assert_eq!(bench.opened.len(), 2, "a lane that ends gets no work");
}

#[test]
fn an_adopted_lane_has_a_slot_and_shares_its_worker_with_nothing() {
    let mut bench = Bench::new(1, 1);
    let (lane, kills) =
        bench.with(|board, _| board.adopt(&[(7, key(1, 0)), (8, key(1, 1))], Arc::new(spec())));
    bench.add(1, 2..4);
    assert_eq!((bench.opened.len(), bench.board.has_free_slot()), (0, false));
    assert!(matches!(bench.kill(key(1, 1)), Kill::Told));
    assert!(kills[1].is_cancelled() && !kills[0].is_cancelled());
    assert_eq!(bench.pull(lane, 0), [0; 0], "what is new is not for it");
    assert_eq!(bench.board.release(key(1, 0)), Some(lane));
    assert_eq!(bench.board.read_mail(lane).released, 7);
    bench.with(|board, to_do| board.leave(lane, to_do));
    assert_eq!(bench.opened.len(), 1, "its slot is free");
}

#[test]
fn a_closed_board_gives_no_more_work() {
    let mut bench = Bench::new(2, 2);
    bench.add(1, 0..5);
    let lanes = bench.opened.clone();
    let told = bench.board.close();
    assert_eq!(told.len(), 2);
    for lane in lanes {
        assert!(bench.is_told_to_retire(lane));
        assert_eq!(bench.pull(lane, 0), [0; 0]);
        bench.with(|board, to_do| board.leave(lane, to_do));
    }
    assert_eq!(bench.opened.len(), 2, "no lane is opened");
}
