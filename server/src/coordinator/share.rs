//! Fair share: among the projects with something to publish, the one goes first that has had the least slot time for its
//! weight (start-time fair queueing, Goyal, Vin and Cheng 1996).
//!
//! A project's tag is the slot time that its ended attempts took, and an estimate for each that is out, by its weight. So
//! many short tasks and few long ones have the same share, and within one turn projects alternate. The estimate follows what
//! ends, and grows while nothing does. Who comes, or comes back, is taken to have had what the next one has had, beside what
//! each has out now; what it had before counts no more than [`MEMORY`].
//!
//! The projects of one class stand in one line. Lines move at their own pace, as some classes have many agents, and others none
//! for long. A line that falls behind is moved on as a whole, so that the order within it stays.

use super::seats::ClassId;
use crate::domain::ProjectId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How far a project may be ahead of another, or behind, in the slot time of weight 1: it makes up for no more.
const MEMORY: Duration = Duration::from_secs(10);
/// What an attempt is taken to last before any of its project has ended.
const ESTIMATE_START: Duration = Duration::from_millis(100);
/// No attempt is taken to last less: so that projects alternate however short their tasks are.
const ESTIMATE_MIN: Duration = Duration::from_millis(1);
/// Nor more, whatever its agent says.
const ESTIMATE_MAX: Duration = Duration::from_secs(24 * 3600);
/// An ended attempt changes the estimate by this part of the difference.
const ESTIMATE_PART: i64 = 8;
/// Tags count microseconds in so many parts, so that weights divide them well.
const PARTS: i64 = 1000;

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A project's place in the fair order: the less, the sooner.
pub(super) type Tag = i64;

fn memory() -> Tag {
    micros(MEMORY) * PARTS
}

/// What a project has had.
#[derive(Debug)]
pub(super) struct Account {
    weight: i64,
    /// The slot time of what has ended, in microseconds.
    used: i64,
    /// How long an attempt lasts, in microseconds.
    estimate: i64,
    /// What brings its tag to that of the others.
    base: Tag,
    /// When an attempt began while none was out, or ended.
    progress: Duration,
}

impl Account {
    pub(super) fn new(weight: u32) -> Self {
        Self {
            weight: i64::from(weight.max(1)),
            used: 0,
            estimate: micros(ESTIMATE_START),
            base: 0,
            progress: Duration::ZERO,
        }
    }

    /// Its tag with so many attempts out.
    pub(super) fn tag(&self, out: u32) -> Tag {
        self.base.saturating_add(self.had(out))
    }

    fn had(&self, out: u32) -> Tag {
        let time = self.used.saturating_add(self.estimate.saturating_mul(i64::from(out)));
        time.saturating_mul(PARTS) / self.weight
    }

    /// By how much one more attempt raises its tag.
    pub(super) fn step(&self) -> Tag {
        (self.estimate.saturating_mul(PARTS) / self.weight).max(1)
    }

    /// It comes from a line with this shift into one with that.
    pub(super) fn change_line(&mut self, from: Tag, to: Tag) {
        self.base = self.base.saturating_add(from).saturating_sub(to);
    }

    /// It comes, or comes back, while the next one has this tag, but for what that has out.
    pub(super) fn come(&mut self, next: Tag) {
        let tag = self.tag(0).clamp(next, next.saturating_add(memory()));
        self.base = tag.saturating_sub(self.had(0));
    }

    /// Its tag is no less than this.
    pub(super) fn lift(&mut self, tag: Tag, out: u32) {
        self.base = self.base.max(tag.saturating_sub(self.had(out)));
    }

    pub(super) fn begins(&mut self, now: Duration) {
        self.progress = now;
    }

    /// An attempt ended that took so long.
    pub(super) fn ended(&mut self, wall_micros: u64, now: Duration) {
        let wall = i64::try_from(wall_micros).unwrap_or(i64::MAX).min(micros(ESTIMATE_MAX));
        self.used = self.used.saturating_add(wall);
        self.estimate = (self.estimate + (wall - self.estimate) / ESTIMATE_PART)
            .clamp(micros(ESTIMATE_MIN), micros(ESTIMATE_MAX));
        self.progress = now;
    }

    /// Nothing has ended for a while: what is out lasts that long at least. Whether this changes the estimate.
    pub(super) fn waits(&mut self, now: Duration) -> bool {
        let longer = micros(now.saturating_sub(self.progress)).min(micros(ESTIMATE_MAX));
        let grows = longer > self.estimate;
        self.estimate = self.estimate.max(longer);
        grows
    }
}

/// The projects with something to publish, in fair order within each class. Tags go in and come out as they compare with those
/// of all lines.
#[derive(Debug, Default)]
pub(super) struct Share {
    lines: BTreeMap<ClassId, Line>,
    places: BTreeMap<ProjectId, (ClassId, Tag)>,
    /// The highest tag of a project whose turn came, but for what it had out.
    reached: Tag,
}

/// The projects of one class.
#[derive(Debug, Default)]
struct Line {
    order: BTreeSet<(Tag, ProjectId)>,
    /// How far it was moved on: what is added to the tags of its projects.
    shift: Tag,
    /// The highest tag of a project whose turn came, without the shift.
    reached: Tag,
}

impl Line {
    fn first(&self, mut which: impl FnMut(ProjectId) -> bool) -> Option<(Tag, ProjectId)> {
        let &(tag, project) = self.order.iter().find(|&&(_, project)| which(project))?;
        Some((tag.saturating_add(self.shift), project))
    }
}

impl Share {
    /// The project with this tag, its account's, has something to publish, of this class.
    pub(super) fn put(&mut self, project: ProjectId, class: ClassId, tag: Tag) {
        let before = self.places.insert(project, (class, tag));
        if before == Some((class, tag)) {
            return;
        }
        if let Some((class, tag)) = before {
            self.take(project, class, tag);
        }
        self.lines.entry(class).or_default().order.insert((tag, project));
    }

    /// The project has nothing to publish.
    pub(super) fn remove(&mut self, project: ProjectId) {
        if let Some((class, tag)) = self.places.remove(&project) {
            self.take(project, class, tag);
        }
    }

    fn take(&mut self, project: ProjectId, class: ClassId, tag: Tag) {
        if let Some(line) = self.lines.get_mut(&class) {
            line.order.remove(&(tag, project));
        }
    }

    /// Nobody will stand in line for this class any more.
    pub(super) fn forget(&mut self, class: ClassId) {
        self.lines.remove(&class);
    }

    /// What is added to the tags of a class's projects.
    pub(super) fn shift(&self, class: ClassId) -> Tag {
        self.lines.get(&class).map_or(0, |line| line.shift)
    }

    /// Whose turn it is in a class.
    pub(super) fn head(&self, class: ClassId) -> Option<(Tag, ProjectId)> {
        self.lines.get(&class)?.first(|_| true)
    }

    /// Whose turn it is in a class if these let others go first.
    pub(super) fn head_but(&self, class: ClassId, passed: &BTreeSet<ProjectId>) -> Option<(Tag, ProjectId)> {
        self.lines.get(&class)?.first(|project| !passed.contains(&project))
    }

    /// How many projects stand in line for a class.
    pub(super) fn in_line(&self, class: ClassId) -> usize {
        self.lines.get(&class).map_or(0, |line| line.order.len())
    }

    /// Whose turn it is in each class.
    pub(super) fn heads(&self) -> impl Iterator<Item = (ClassId, Tag, ProjectId)> {
        self.lines.iter().filter_map(|(&class, line)| {
            let (tag, project) = line.first(|_| true)?;
            Some((class, tag, project))
        })
    }

    /// The tag at which a newcomer begins if nobody else waits.
    pub(super) fn reached(&self) -> Tag {
        self.reached
    }

    /// A project of this class publishes something: its tag, and that without what it has out.
    pub(super) fn reach(&mut self, class: ClassId, tag: Tag, without_out: Tag) {
        if let Some(line) = self.lines.get_mut(&class) {
            line.reached = line.reached.max(tag.saturating_sub(line.shift));
            self.reached = self.reached.max(without_out.saturating_add(line.shift));
        }
    }

    /// How far back a head may be that waited for agents of its own while others went on.
    pub(super) fn floor(&self) -> Tag {
        self.heads().map(|(_, tag, _)| tag).max().unwrap_or(Tag::MIN).saturating_sub(memory())
    }

    /// It is the turn of a class's head, which has this tag and is farther back than that: moves the line on. How much the
    /// account of the head has to have had at least: if it is alone so far back, the others need not wait for it.
    pub(super) fn lift(&mut self, class: ClassId, head: Tag, floor: Tag) -> Tag {
        let Some(line) = self.lines.get_mut(&class) else { return Tag::MIN };
        let others = line.reached.saturating_sub(memory()).saturating_add(line.shift);
        let behind = floor.saturating_sub(head.max(others)).max(0);
        line.shift = line.shift.saturating_add(behind);
        others.saturating_add(behind).min(floor).saturating_sub(line.shift)
    }

    pub(super) fn place(&self, project: ProjectId) -> Option<(ClassId, Tag)> {
        self.places.get(&project).copied()
    }

    /// Panics if an index is wrong.
    pub(super) fn check(&self) {
        let lines: BTreeSet<_> = self
            .lines
            .iter()
            .flat_map(|(&class, line)| line.order.iter().map(move |&(tag, project)| (project, class, tag)))
            .collect();
        let places: BTreeSet<_> =
            self.places.iter().map(|(&project, &(class, tag))| (project, class, tag)).collect();
        assert_eq!(lines, places, "lines and places");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ClassId = ClassId::PLAIN;

    /// Slots that projects take turns in: (weight, how long each task lasts). How many slot milliseconds each has had after
    /// so many tasks.
    fn shares(projects: &[(u32, u64)], tasks: u32) -> Vec<u64> {
        let mut share = Share::default();
        let mut accounts: Vec<_> = projects.iter().map(|&(weight, _)| Account::new(weight)).collect();
        for (n, account) in accounts.iter().enumerate() {
            share.put(ProjectId(n as u64), PLAIN, account.tag(0));
        }
        let mut had = vec![0; projects.len()];
        for _ in 0..tasks {
            let Some((_, ProjectId(n))) = share.head(PLAIN) else { panic!("nobody's turn") };
            let n = usize::try_from(n).unwrap_or(0);
            accounts[n].ended(projects[n].1 * 1000, Duration::ZERO);
            had[n] += projects[n].1;
            share.put(ProjectId(n as u64), PLAIN, accounts[n].tag(0));
            share.check();
        }
        had
    }

    #[test]
    fn slot_time_follows_the_weights() {
        let had = shares(&[(1, 10), (3, 10)], 400);
        assert_eq!(had, [1000, 3000]);
    }

    #[test]
    fn long_tasks_get_no_more_time_than_short_ones() {
        let had = shares(&[(1, 1000), (1, 10)], 1010);
        assert!(had[0].abs_diff(had[1]) <= 1000, "{had:?}");
    }

    #[test]
    fn who_comes_late_starts_with_the_others_and_not_before_them() {
        let mut late = Account::new(1);
        late.come(5_000_000);
        assert_eq!(late.tag(0), 5_000_000);
        assert!(late.tag(1) > 5_000_000, "what it has out counts beside");
        let mut early = Account::new(1);
        early.ended(3_600_000_000, Duration::ZERO);
        early.come(5_000_000);
        assert_eq!(early.tag(0), 5_000_000 + memory());
    }

    #[test]
    fn a_line_that_falls_behind_moves_on_as_a_whole() {
        let mut share = Share::default();
        share.put(ProjectId(1), PLAIN, 0);
        share.put(ProjectId(2), PLAIN, 5);
        let floor = 40 * memory();
        let least = share.lift(PLAIN, 0, floor);
        assert!(least <= 0, "the head is not alone: {least}");
        assert_eq!(share.head(PLAIN), Some((floor, ProjectId(1))));
        assert_eq!(share.head_but(PLAIN, &BTreeSet::from([ProjectId(1)])), Some((floor + 5, ProjectId(2))));
        // Whoever is far behind the others of its line catches up alone.
        share.reach(PLAIN, floor + 50 * memory(), 0);
        let least = share.lift(PLAIN, floor, floor + 100 * memory());
        assert_eq!(least, 49 * memory());
        assert_eq!(share.shift(PLAIN), floor + 51 * memory());
    }

    #[test]
    fn what_does_not_end_is_charged_as_it_runs() {
        let mut account = Account::new(1);
        account.begins(Duration::from_secs(1));
        assert!(!account.waits(Duration::from_secs(1)));
        let before = account.tag(2);
        assert!(account.waits(Duration::from_secs(61)));
        assert_eq!(account.tag(2) - before, 2 * PARTS * (60_000_000 - 100_000));
        account.ended(u64::MAX, Duration::from_secs(62));
        assert!(account.tag(1_000_000) > account.tag(0), "no overflow");
    }
}
