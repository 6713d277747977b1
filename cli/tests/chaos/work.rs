//! What the fleet has to do: projects of all kinds, submitted as long as faults are to come, and what their results must be.

use crate::{
    fleet::Fleet,
    image::{IMAGE, player},
    process::{Program, run, wait},
    witness::PORT,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// With fewer tasks to do, another project is submitted.
const OPEN_TASKS_MIN: u64 = 100;
/// And with fewer projects.
const OPEN_PROJECTS_MIN: usize = 4;

/// How long all that is submitted may take to end.
const WORK_MAX: Duration = Duration::from_secs(240);

/// How long a project may take to be taken.
const SUBMIT_MAX: Duration = Duration::from_secs(60);

/// How long the file is that tasks of one kind read.
const FILE_BYTES: usize = 300_000;

/// A project that was submitted.
struct Project {
    name: String,
    /// What its tasks are to do, by index; empty if a task of its own says so.
    items: Vec<String>,
    kind: Kind,
    /// Who reads its result while it is made.
    reader: Program,
}

/// Kinds of projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Many short tasks.
    Short,
    /// Tasks of which some take longer than the lease.
    Long,
    /// Output that takes its time to be uploaded.
    Output,
    /// Each task reads its item.
    Stdin,
    /// Each task reads a file.
    File,
    /// Each task has a worker of its own.
    Fresh,
    /// Tasks fail, and are tried again.
    Failing,
    /// The items come from a task, and the result is made by one.
    Phases,
    /// Tasks that all take the same time.
    Even { tasks: usize, time: Duration },
}

impl Kind {
    /// What comes in turn.
    const ALL: [Self; 10] = [
        Self::Short,
        Self::Long,
        Self::Output,
        Self::Failing,
        Self::Long,
        Self::Stdin,
        Self::Fresh,
        Self::Phases,
        Self::Long,
        Self::File,
    ];

    /// In the names of its projects.
    const fn word(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Output => "output",
            Self::Stdin => "stdin",
            Self::File => "file",
            Self::Fresh => "fresh",
            Self::Failing => "failing",
            Self::Phases => "phases",
            Self::Even { .. } => "even",
        }
    }

    /// What the tasks are to do.
    fn items(self) -> Vec<String> {
        let many = |count: u64, item: &dyn Fn(u64) -> String| (0..count).map(item).collect();
        match self {
            Self::Short => many(160, &|n| format!("say:{}", n * 7 % 120)),
            Self::Long => many(12, &|n| format!("say:{}", 1000 + n * 1700 % 6000)),
            Self::Output => many(20, &|n| format!("print:{}:{}", 60_000 + n * 90_000, 300 + n * 100)),
            Self::Stdin => many(40, &|n| format!("copy:{}", n * 13 % 300)),
            Self::File => many(12, &|n| format!("copy:{}", n * 100)),
            Self::Fresh => many(16, &|n| format!("say:{}", 200 + n * 50)),
            Self::Failing => many(30, &|n| format!("fail:{}:{}", n % 3, 50 + n * 11 % 200)),
            Self::Phases => Vec::new(),
            Self::Even { tasks, time } => vec![format!("say:{}", time.as_millis()); tasks],
        }
    }
}

/// All that was submitted.
#[derive(Default)]
pub(crate) struct Work {
    projects: BTreeMap<u64, Project>,
}

impl Work {
    /// Sees to it that there is enough to do.
    pub(crate) fn feed(&mut self, fleet: &Fleet) {
        loop {
            let mut listed = None;
            fleet.wait("projects are listed", SUBMIT_MAX, |fleet| {
                listed = fleet.list(&["ls"], "projects");
                listed.is_some()
            });
            let open = listed.unwrap_or_default();
            let number = |project: &Value, field: &str| project[field].as_u64().unwrap_or(0);
            let left: u64 = open
                .iter()
                .map(|project| {
                    let ended = number(project, "succeeded") + number(project, "failed");
                    number(project, "tasks").saturating_sub(ended)
                })
                .sum();
            if left >= OPEN_TASKS_MIN && open.len() >= OPEN_PROJECTS_MIN {
                return;
            }
            let kind = Kind::ALL[self.projects.len() % Kind::ALL.len()];
            self.submit(kind, fleet);
        }
    }

    /// Submits so many tasks that all take the same time; tells the project's name.
    pub(crate) fn submit_even(&mut self, tasks: usize, time: Duration, fleet: &Fleet) -> String {
        self.submit(Kind::Even { tasks, time }, fleet);
        self.projects.last_key_value().expect("the project").1.name.clone()
    }

    fn submit(&mut self, kind: Kind, fleet: &Fleet) {
        fleet.wait("a project is taken", SUBMIT_MAX, |fleet| self.try_submit(kind, fleet));
    }

    /// Submits a project; tells whether it was taken.
    fn try_submit(&mut self, kind: Kind, fleet: &Fleet) -> bool {
        let ordinal = self.projects.len();
        let name = format!("p{ordinal}-{}", kind.word());
        let items = kind.items();
        let file = fleet.place.path(&format!("{name}.json"));
        fs::write(&file, project_file(&name, kind, &items).to_string()).expect("a project file");
        fs::write(fleet.place.path("contents"), contents()).expect("the file that tasks read");
        let Some(submitted) = fleet.ask(&["submit", &file.to_string_lossy()]) else { return false };
        let id = String::from_utf8_lossy(&submitted.stdout).trim().parse().expect("a project's number");
        let result = result_of(fleet, &name);
        let mut reader = fleet.client(&["results", "--to", &result.to_string_lossy(), &format!("{id}")]);
        let reader = Program::start(&mut reader, &result.with_extension("log"));
        self.projects.insert(id, Project { name, items, kind, reader });
        true
    }

    /// How many results there are so far; none if the coordinator does not say.
    pub(crate) fn done(fleet: &Fleet) -> Option<u64> {
        let projects = fleet.list(&["ls", "--all"], "projects")?;
        Some(projects.iter().filter_map(|project| project["succeeded"].as_u64()).sum())
    }

    /// Waits until all have ended, and says what is wrong with their ends and results.
    pub(crate) fn finish(&mut self, fleet: &Fleet) -> Vec<String> {
        let mut wrong = Vec::new();
        let readers = self.projects.values_mut();
        let mut readers: Vec<_> = readers.map(|project| (&project.name, &mut project.reader)).collect();
        if wait(WORK_MAX, || readers.iter_mut().all(|(_, reader)| reader.ended().is_some())).is_none() {
            let late: Vec<_> = readers
                .iter_mut()
                .filter_map(|(name, reader)| reader.ended().is_none().then_some(*name))
                .collect();
            let said = fleet.ask(&["ls"]).map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            return vec![format!("these do not end: {late:?}\n{}", said.unwrap_or_default())];
        }
        for project in self.projects.values_mut() {
            let result = result_of(fleet, &project.name);
            let status = project.reader.ended().expect("its end");
            if !status.success() {
                let why = fs::read_to_string(result.with_extension("log")).unwrap_or_default();
                wrong.push(format!("{}: {status}: {why}", project.name));
                continue;
            }
            let result = fs::read(&result).unwrap_or_default();
            let expected = project.sequential();
            if result != expected {
                let at = result.iter().zip(&expected).take_while(|(a, b)| a == b).count();
                wrong.push(format!(
                    "{}: its result of {} bytes differs from the sequential run's {} at byte {at}",
                    project.name,
                    result.len(),
                    expected.len()
                ));
            }
        }
        wrong
    }

    /// How many tasks there were, those of phases included.
    pub(crate) fn tasks(&self) -> usize {
        self.projects.values().map(|project| project.works().len()).sum()
    }

    /// The projects' numbers and names.
    pub(crate) fn projects(&self) -> impl Iterator<Item = (u64, &str)> {
        self.projects.iter().map(|(id, project)| (*id, &*project.name))
    }
}

impl Project {
    /// Everything that is run for it: the name that the witness hears, the index, and the work.
    fn works(&self) -> Vec<(String, usize, String)> {
        let of_task = |items: &[String]| -> Vec<_> {
            items.iter().enumerate().map(|(index, item)| (self.name.clone(), index, item.clone())).collect()
        };
        if self.kind != Kind::Phases {
            return of_task(&self.items);
        }
        let split = play(&format!("{}.split", self.name), 0, SPLIT, Vec::new());
        let items: Vec<_> = String::from_utf8_lossy(&split).lines().map(str::to_owned).collect();
        let mut works = vec![(format!("{}.split", self.name), 0, SPLIT.to_owned())];
        works.extend(of_task(&items));
        works.push((format!("{}.fold", self.name), 0, FOLD.to_owned()));
        works
    }

    /// The result, made by one machine that works through the list.
    fn sequential(&self) -> Vec<u8> {
        let mut result = Vec::new();
        for (name, index, work) in self.works() {
            let stdin = match self.kind {
                Kind::Stdin => work.clone().into_bytes(),
                Kind::File => contents(),
                Kind::Phases if name.ends_with(".fold") => std::mem::take(&mut result),
                _ => Vec::new(),
            };
            if !name.ends_with(".split") {
                result.extend(play(&name, index, &work, stdin));
            }
        }
        result
    }
}

/// What makes the items of a project, and what makes its result.
const SPLIT: &str = "items:30:400";
const FOLD: &str = "copy:600";

fn project_file(name: &str, kind: Kind, items: &[String]) -> Value {
    let env = json!({"WITNESS": format!("{}:{PORT}", crate::engine::GATEWAY)});
    let command = |name: &str, index: &str, work: &str| json!({"command": ["/bin/witnessed", name, index, work], "env": env, "network": "bridge"});
    let mut task = command(name, "{index}", "{item}");
    match kind {
        Kind::Stdin => task["stdin"] = json!("{item}"),
        Kind::File => task["stdin"] = json!({"file": "contents"}),
        Kind::Fresh => task["isolation"] = json!("fresh"),
        Kind::Failing => task["retries"] = json!(20),
        _ => {}
    }
    let mut project = json!({"name": name, "image": IMAGE, "task": task});
    if kind == Kind::Phases {
        project["split"] = command(&format!("{name}.split"), "0", SPLIT);
        project["reassemble"] = command(&format!("{name}.fold"), "0", FOLD);
    } else {
        project["items"] = json!(items);
    }
    project
}

/// A project that is not taken.
pub(crate) fn refused() -> Value {
    project_file("refused", Kind::Short, &Kind::Short.items())
}

fn contents() -> Vec<u8> {
    (0..FILE_BYTES).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn result_of(fleet: &Fleet, name: &str) -> PathBuf {
    fleet.place.path(&format!("{name}.result"))
}

/// Runs one task here, and gives back what it printed.
fn play(name: &str, index: usize, work: &str, stdin: Vec<u8>) -> Vec<u8> {
    if stdin.is_empty() {
        return run(Command::new(player()).args([name, &index.to_string(), work]));
    }
    let mut command = Command::new(player());
    command.args([name, &index.to_string(), work]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut task = command.spawn().expect("the tasks' program");
    let mut pipe = task.stdin.take().expect("its stdin");
    let writer = std::thread::spawn(move || pipe.write_all(&stdin));
    let output = task.wait_with_output().expect("its output");
    writer.join().expect("the writer").expect("all of its stdin");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    output.stdout
}
