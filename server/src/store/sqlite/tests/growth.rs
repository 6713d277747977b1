//! Open projects in the store: what is staged, what is known, and when they take no more.

use super::*;
use crate::domain::{AddedTask, ClientKey, ITEMS_MAX, NewTask};

/// A bench whose project is open.
fn open() -> Bench {
    let mut writer = Writer::in_memory().unwrap();
    let epoch = writer.open_epoch().unwrap();
    let project = begin(&mut writer, "");
    let mut bench = Bench { writer, epoch, project };
    let spec = ProjectSpec { items: ItemSource::Open { idle_millis: None }, ..concat() };
    bench.made([create(project, spec, 0), session(AGENT, "alpha", 1)]);
    bench
}

fn tasks(keys: &[&str]) -> Vec<NewTask> {
    let one = |key: &&str| NewTask {
        key: ClientKey::new((*key).to_owned()).unwrap(),
        item: Item { text: format!("item {key}"), ..Item::default() },
    };
    keys.iter().map(one).collect()
}

fn places(places: &[(u32, bool)]) -> Vec<AddedTask> {
    places.iter().map(|&(index, existed)| AddedTask { index, existed }).collect()
}

impl Bench {
    fn stage(&mut self, keys: &[&str]) -> Staging {
        self.writer.stage_tasks(self.project, &tasks(keys)).unwrap()
    }

    #[track_caller]
    fn staged(&mut self, keys: &[&str], expected: &[(u32, bool)], total: u32) {
        assert_eq!(self.stage(keys), Staging::Staged { tasks: places(expected), total });
    }

    fn add(&self, tasks: u32) -> Write {
        Write::AddTasks { project: self.project, tasks }
    }

    fn close(&self) -> Write {
        Write::Close { project: self.project }
    }

    /// How many tasks the project has, and whether more can be added, for readers and for the coordinator.
    fn length(&mut self) -> (u32, bool) {
        let project = self.writer.reads().project(self.project).unwrap().unwrap();
        let folded = self.writer.load().unwrap().projects.remove(0);
        let seen = (project.counts.total, project.open);
        assert_eq!((folded.counts.total, folded.is_open), seen);
        seen
    }

    fn item(&mut self, index: u32) -> String {
        let attempt = self.attempt(index, 1);
        let claim = Write::Claim { attempt, agent: AGENT, stored_item: true };
        self.commit([claim]).unwrap().items.remove(0).1.text
    }
}

#[test]
fn tasks_are_staged_in_order_and_become_tasks_with_the_commit() {
    let mut bench = open();
    bench.staged(&["a", "b"], &[(0, false), (1, false)], 2);
    assert_eq!(bench.length(), (0, true));
    bench.refused(bench.add(3));
    bench.made([bench.add(2)]);
    assert_eq!(bench.length(), (2, true));
    bench.staged(&["c"], &[(2, false)], 3);
    bench.made([bench.add(3), bench.close()]);
    assert_eq!(bench.length(), (3, false));
    assert_eq!([bench.item(0), bench.item(1), bench.item(2)], ["item a", "item b", "item c"]);
}

#[test]
fn a_known_key_is_not_added_again() {
    let mut bench = open();
    bench.staged(&["a", "b", "a"], &[(0, false), (1, false), (0, true)], 2);
    bench.staged(&["a", "c"], &[(0, false), (2, false)], 3);
    bench.made([bench.add(3)]);
    assert_eq!(bench.stage(&["c", "a"]), Staging::Known(places(&[(2, true), (0, true)])));
    bench.staged(&["c", "d"], &[(2, true), (3, false)], 4);
    assert_eq!(bench.stage(&[]), Staging::Known(Vec::new()));
    // Keys are a project's own.
    let other = begin(&mut bench.writer, "");
    let spec = ProjectSpec { items: ItemSource::Open { idle_millis: None }, ..concat() };
    bench.made([create(other, spec, 0)]);
    let staged = bench.writer.stage_tasks(other, &tasks(&["a"])).unwrap();
    assert_eq!(staged, Staging::Staged { tasks: places(&[(0, false)]), total: 1 });
}

#[test]
fn what_was_staged_and_not_added_comes_in_with_the_next_addition() {
    let mut bench = open();
    bench.staged(&["lost"], &[(0, false)], 1);
    bench.writer.open_epoch().unwrap();
    bench.epoch = bench.writer.open_epoch().unwrap();
    bench.staged(&["next"], &[(1, false)], 2);
    bench.made([bench.add(2)]);
    assert_eq!(bench.stage(&["lost", "next"]), Staging::Known(places(&[(0, true), (1, true)])));
    assert_eq!(bench.item(0), "item lost");
}

#[test]
fn a_closed_project_takes_no_more_and_still_knows_its_keys() {
    let mut bench = open();
    bench.staged(&["a"], &[(0, false)], 1);
    bench.made([bench.add(1)]);
    bench.staged(&["too late"], &[(1, false)], 2);
    bench.made([bench.close()]);
    for _ in 0..2 {
        assert_eq!(bench.stage(&["a"]), Staging::Known(places(&[(0, true)])));
        assert_eq!(bench.stage(&["too late"]), Staging::NotOpen);
        assert_eq!(bench.stage(&["a", "new"]), Staging::NotOpen);
        bench.refused(bench.add(2));
        bench.refused(bench.close());
    }
    assert_eq!(bench.length(), (1, false));
    let items = "SELECT count(*) FROM items";
    let left: u32 = bench
        .writer
        .transaction(|connection| Ok(connection.query_row(items, [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(left, 1, "what was staged too late is gone");
}

#[test]
fn a_project_that_ends_or_never_was_open_takes_nothing() {
    for ended in [ProjectState::Cancelled, ProjectState::Failed] {
        let mut bench = open();
        bench.staged(&["a", "b"], &[(0, false), (1, false)], 2);
        bench.made([bench.add(2), move_to(bench.project, ended, 2)]);
        bench.refused(bench.add(2));
        assert_eq!(bench.stage(&["c"]), Staging::NotOpen);
        assert_eq!(bench.stage(&["b"]), Staging::Known(places(&[(1, true)])));
    }
    let mut bench = Bench::new();
    assert_eq!(bench.stage(&["a"]), Staging::NotOpen);
    bench.refused(bench.add(11));
    bench.refused(bench.close());
    bench.project = ProjectId(99);
    assert_eq!(bench.stage(&[]), Staging::NotOpen);
}

#[test]
fn a_project_has_a_limit_of_tasks() {
    let mut bench = open();
    bench.writer.raw(&format!("UPDATE open_projects SET tasks = {0}, next = {0}", ITEMS_MAX - 1));
    assert_eq!(bench.stage(&["a", "b"]), Staging::TooMany);
    bench.staged(&["a"], &[(ITEMS_MAX - 1, false)], ITEMS_MAX);
    assert_eq!(bench.stage(&["b"]), Staging::TooMany);
}
