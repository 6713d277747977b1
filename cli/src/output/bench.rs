//! What `bench` has measured: as a table for people, and as one JSON object for programs.

use super::human;
use schemars::JsonSchema;
use serde::Serialize;

/// What `bench` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Bench {
    /// The version of piecework.
    pub version: String,
    /// What it was measured on.
    pub machine: Machine,
    /// How many tasks ran at a time.
    pub slots: u32,
    /// How often each side was measured, in turn.
    pub rounds: u32,
    /// What was measured.
    pub rows: Vec<BenchRow>,
    /// What can't be measured here.
    pub left_out: Vec<BenchWhy>,
    /// What went wrong.
    pub failed: Vec<BenchWhy>,
}

/// What was measured on.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Machine {
    /// Processors that this program may use.
    pub processors: u32,
    /// The processor's name, if the kernel tells it.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
    /// The Docker engine's version and storage driver, if one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker: Option<String>,
}

/// One figure, and what it is compared to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BenchRow {
    /// The measurement.
    pub name: String,
    /// What was done.
    pub what: String,
    /// The unit of the figures.
    pub unit: String,
    /// Piecework's figure: the median of its rounds.
    pub ours: f64,
    /// Piecework's figure in each round.
    pub ours_rounds: Vec<f64>,
    /// What it is compared to, if there is such a thing.
    #[serde(flatten)]
    pub against: Option<BenchAgainst>,
    /// What it should be, if that is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<BenchGoal>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// What a figure is compared to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BenchAgainst {
    /// What did the same.
    pub against: String,
    /// Its figure: the median of its rounds.
    pub theirs: f64,
    /// Its figure in each round.
    pub theirs_rounds: Vec<f64>,
    /// Ours divided by theirs, round by round: the median.
    pub ratio: f64,
}

/// What a figure should be.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BenchGoal {
    /// Whether the ratio is meant; else our figure.
    pub of_ratio: bool,
    /// Whether less is better.
    pub at_most: bool,
    /// The bound.
    pub bound: f64,
    /// Whether it was reached.
    pub is_met: bool,
}

/// A measurement that has no figures.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BenchWhy {
    /// The measurement.
    pub name: String,
    /// Why.
    pub why: String,
}

impl BenchRow {
    /// A figure of its own, the median of the rounds.
    #[must_use]
    pub fn new(name: &str, what: impl Into<String>, unit: &str, ours: Vec<f64>) -> Self {
        Self {
            name: name.to_owned(),
            what: what.into(),
            unit: unit.to_owned(),
            ours: median(&ours),
            ours_rounds: ours,
            against: None,
            goal: None,
            notes: Vec::new(),
        }
    }

    /// With what it is compared to, which was measured in turn with it.
    #[must_use]
    pub fn against(mut self, what: impl Into<String>, theirs: Vec<f64>) -> Self {
        let ratios: Vec<f64> =
            self.ours_rounds.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        self.against = Some(BenchAgainst {
            against: what.into(),
            theirs: median(&theirs),
            theirs_rounds: theirs,
            ratio: median(&ratios),
        });
        self
    }

    /// With what it should be at least: the ratio if there is one, else the figure.
    #[must_use]
    pub fn at_least(self, bound: f64) -> Self {
        self.goal(bound, false)
    }

    /// With what it should be at most: the ratio if there is one, else the figure.
    #[must_use]
    pub fn at_most(self, bound: f64) -> Self {
        self.goal(bound, true)
    }

    fn goal(mut self, bound: f64, at_most: bool) -> Self {
        let figure = self.against.as_ref().map_or(self.ours, |against| against.ratio);
        let is_met = if at_most { figure <= bound } else { figure >= bound };
        self.goal = Some(BenchGoal { of_ratio: self.against.is_some(), at_most, bound, is_met });
        self
    }

    /// With something else to know.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl Bench {
    /// The tables, with what was left out below them.
    #[must_use]
    pub fn table(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "piecework {}, {} processors ({}), Linux {}, {}; {} slots, median of {} rounds\n\n",
            self.version,
            machine.processors,
            human::one_line(&machine.processor),
            human::one_line(&machine.kernel),
            machine.docker.as_deref().map_or("no Docker".to_owned(), human::one_line),
            self.slots,
            self.rounds,
        );
        let rows = self.rows.iter().map(row).collect();
        text.push_str(&human::table(
            &["NAME", "WHAT", "OURS", "THEIRS", "COMPARED TO", "RATIO", "GOAL", "MET"],
            rows,
        ));
        for row in &self.rows {
            for note in &row.notes {
                text.push_str(&format!("\n{}: {note}", row.name));
            }
        }
        for (what, list) in [("left out", &self.left_out), ("failed", &self.failed)] {
            for BenchWhy { name, why } in list {
                text.push_str(&format!("\n{name}: {what}: {why}"));
            }
        }
        text.trim_end().to_owned() + "\n"
    }
}

fn row(row: &BenchRow) -> Vec<String> {
    let with_unit = |value| format!("{} {}", figure(value), row.unit);
    let against = row.against.as_ref();
    let goal = row.goal.as_ref();
    vec![
        row.name.clone(),
        row.what.clone(),
        with_unit(row.ours),
        against.map_or_else(String::new, |against| with_unit(against.theirs)),
        against.map_or_else(String::new, |against| against.against.clone()),
        against.map_or_else(String::new, |against| figure(against.ratio)),
        goal.map_or_else(String::new, |goal| {
            let sign = if goal.at_most { '≤' } else { '≥' };
            let bound = if goal.of_ratio { figure(goal.bound) } else { with_unit(goal.bound) };
            format!("{sign} {bound}")
        }),
        goal.map_or("", |goal| if goal.is_met { "yes" } else { "no" }).to_owned(),
    ]
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// The middle of some figures; 0 of none.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => 0.0,
        Some(upper) if sorted.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(sorted[middle - 1], *upper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn ratios_are_of_rounds_and_goals_of_ratios() {
        let row = BenchRow::new("spawn", "", "/s", vec![10.0, 30.0, 60.0])
            .against("xargs", vec![10.0, 10.0, 30.0])
            .at_least(2.0);
        assert!(row.against.as_ref().is_some_and(|against| (against.ratio - 2.0).abs() < 1e-9));
        assert!(row.goal.is_some_and(|goal| goal.is_met && goal.of_ratio));
        let row = BenchRow::new("memory", "", "MB", vec![201.0]).at_most(200.0);
        assert!(row.goal.is_some_and(|goal| !goal.is_met && !goal.of_ratio));
    }

    #[test]
    fn the_table_has_figures_goals_and_gaps() {
        let rows = vec![
            BenchRow::new("spawn", "2 × true", "/s", vec![2412.3])
                .against("xargs", vec![2010.25])
                .at_least(1.0)
                .note("the first after 1 ms"),
            BenchRow::new("memory", "server", "MB", vec![66.04]).at_most(200.0),
        ];
        let why = |name: &str| vec![BenchWhy { name: name.into(), why: "no Docker".into() }];
        let bench = Bench {
            version: "1.0.0".into(),
            machine: Machine {
                processors: 2,
                processor: "X".into(),
                kernel: "6.1".into(),
                docker: Some("Docker 20 on overlay2".into()),
            },
            slots: 2,
            rounds: 1,
            rows,
            left_out: why("fresh"),
            failed: why("queens"),
        };
        insta::assert_snapshot!(bench.table(), @r"
        piecework 1.0.0, 2 processors (X), Linux 6.1, Docker 20 on overlay2; 2 slots, median of 1 rounds

        NAME     WHAT       OURS      THEIRS    COMPARED TO   RATIO   GOAL       MET
        spawn    2 × true   2412 /s   2010 /s   xargs         1.20    ≥ 1.00     yes
        memory   server     66.0 MB                                   ≤ 200 MB   yes

        spawn: the first after 1 ms
        fresh: left out: no Docker
        queens: failed: no Docker
        ");
    }
}
