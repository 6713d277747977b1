//! The project file as it is written: its fields, before anything is made of their values. The JSON Schema comes from
//! these types.
//!
//! Scalars stay texts, just as they are written, with the place where they stand: so `007` stays `007`, and whatever is
//! wrong with a value is told by [`super::convert`] with the place and a remedy.

use super::shape::{Ordered, Shaped, shaped};
use schemars::JsonSchema;
use serde::{
    Deserialize,
    de::{
        MapAccess, SeqAccess,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_saphyr::Spanned;

/// A text, number or truth value, as it is written, and its place.
pub(super) type Scalar = Spanned<String>;

/// A Piecework project: one command to run over many items.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Piecework project file", rename = "ProjectFile")]
pub(super) struct Document {
    /// A name for people: letters, digits, `.`, `_` and `-`, at most 63. The file's name without its ending if it is left out.
    #[schemars(with = "Option<String>", regex(pattern = "^[A-Za-z0-9._-]{1,63}$"))]
    pub(super) name: Option<Scalar>,
    /// The image that all tasks run in, as `docker run` takes it. Either this or `build`.
    #[schemars(with = "Option<String>")]
    pub(super) image: Option<Scalar>,
    /// An image that is made for this project. Either this or `image`.
    #[schemars(with = "Option<Build>")]
    pub(super) build: Option<Spanned<Build>>,
    /// Where the items come from. Either this or `split`.
    #[schemars(with = "Option<Items>")]
    pub(super) items: Option<Spanned<Items>>,
    /// One task whose output lines become the items. Either this or `items`.
    #[schemars(with = "Option<Task>")]
    pub(super) split: Option<Spanned<Task>>,
    /// What runs for every item.
    #[schemars(with = "Task")]
    pub(super) task: Spanned<Task>,
    /// What becomes of the tasks' output: `concat` (the default: all output in task order), `sum` (of all integers printed),
    /// `json` (an array with an element for each task), `none`, or one more task that reads all output on its stdin.
    #[schemars(with = "Option<Reassemble>")]
    pub(super) reassemble: Option<Spanned<Reassemble>>,
    /// What a failed task does: `continue` (the default: the others still run, and the project fails at the end), `stop` (the
    /// project fails at once) or `ignore` (the project succeeds all the same).
    #[schemars(with = "Option<OnFailure>")]
    pub(super) on_failure: Option<Scalar>,
    /// Share of the slots relative to other projects, 1 to 1000; 1 if it is left out.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1000))]
    pub(super) weight: Option<Scalar>,
    /// At most so many attempts of the project are with agents at a time; without limit if it is left out.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1_000_000))]
    pub(super) max_parallel: Option<Scalar>,
    /// Which of the agents that fit gets an attempt: `spread` (the default: the one with the largest free share) or `pack` (the
    /// one with the smallest, so that others stay free for what is large).
    #[schemars(with = "Option<Placement>")]
    pub(super) placement: Option<Scalar>,
    /// What becomes of a task whose agent was not heard from for a whole lease, and may still run it: `rerun` (the default: it
    /// runs again elsewhere, and one result is recorded) or `stop` (it has failed).
    #[schemars(with = "Option<OnLeaseLoss>")]
    pub(super) on_lease_loss: Option<Scalar>,
}

/// An image that the agent builds: a base, files copied in, and commands run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Build {
    /// The base image; `scratch` is the empty one.
    #[schemars(with = "String")]
    pub(super) from: Scalar,
    /// Files to copy in: from a path beside the project file, to an absolute path in the image. A directory is copied with
    /// all that is in it; a destination that ends in `/` is the directory to copy into.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub(super) copy: Ordered<Scalar>,
    /// Shell commands to run while building, in order.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) run: Vec<Scalar>,
}

/// How one task runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    /// Program and arguments. `{item}`, `{index}` and a matrix axis' `{name}` are replaced within one argument; `{{` and
    /// `}}` are literal braces. No shell is involved.
    #[schemars(with = "Vec<ScalarSchema>", length(min = 1))]
    pub(super) command: Spanned<Command>,
    /// Environment variables, over those of the image.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, ScalarSchema>")]
    pub(super) env: Ordered<Scalar>,
    /// Working directory; the image's if it is left out.
    #[schemars(with = "Option<String>")]
    pub(super) workdir: Option<Scalar>,
    /// Longest run of one attempt, such as `90s`, `10m` or `1h 30m`; without limit if it is left out.
    #[schemars(with = "Option<String>")]
    pub(super) timeout: Option<Scalar>,
    /// How many more attempts a failed one gets; none if it is left out.
    #[schemars(with = "Option<u32>", range(max = 1000))]
    pub(super) retries: Option<Scalar>,
    /// Which endings are retried; all if it is left out.
    #[schemars(with = "Option<Vec<RetryOn>>")]
    pub(super) retry_on: Option<Vec<Scalar>>,
    /// What one attempt may use.
    pub(super) resources: Option<Resources>,
    /// Labels that an agent must have to get it, all of them with these values, such as `{gpu: "true"}`.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, ScalarSchema>")]
    pub(super) requires: Ordered<Scalar>,
    /// The network of the worker: `none` (the default: loopback only) or `bridge`.
    #[schemars(with = "Option<Network>")]
    pub(super) network: Option<Scalar>,
    /// How far the worker is shut off: `sealed` (the default: a read-only root and a user without rights; the worker is
    /// reused) or `fresh` (a writable root and user 0, in a new worker for every attempt).
    #[schemars(with = "Option<Isolation>")]
    pub(super) isolation: Option<Scalar>,
    /// What it reads on its stdin; nothing if it is left out. Not in `reassemble`, which reads the ordered output.
    #[schemars(with = "Option<Stdin>")]
    pub(super) stdin: Option<Spanned<Stdin>>,
    /// Most that one attempt may print on stdout and stderr together, such as `10MiB`.
    #[schemars(with = "Option<SizeSchema>")]
    pub(super) output_limit: Option<Scalar>,
}

/// What one attempt may use. The agent's default holds for what is left out. An agent is given no more attempts at a time than
/// the processors and memory that it offers suffice for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    /// Processors, such as `2` or `0.5`.
    #[schemars(with = "Option<f64>", range(min = 0.01, max = 1024))]
    pub(super) cpus: Option<Scalar>,
    /// Memory, such as `256MiB`.
    #[schemars(with = "Option<SizeSchema>")]
    pub(super) memory: Option<Scalar>,
    /// Processes and threads.
    #[schemars(with = "Option<u32>", range(min = 1))]
    pub(super) pids: Option<Scalar>,
}

/// A command: a list, or (to be refused with a hint) a line for a shell.
#[derive(Debug)]
pub(super) enum Command {
    List(Vec<Scalar>),
    Line(String),
}

/// What a task reads on its stdin.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum Stdin {
    /// A text with placeholders as in the command: these bytes and no others, at most 128 KiB once they are replaced.
    Text(String),
    /// A file.
    File(Box<StdinFile>),
    /// To be refused with a hint.
    #[schemars(skip)]
    Value(String),
}

/// A file that is read on stdin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StdinFile {
    /// Its path beside the project file.
    #[schemars(with = "String")]
    pub(super) file: Scalar,
}

/// Where items come from.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum Items {
    /// The items themselves.
    List(#[schemars(with = "Vec<ScalarSchema>", length(min = 1))] Vec<String>),
    /// Made from something shorter.
    From(Box<ItemsFrom>),
    /// To be refused with a hint.
    #[schemars(skip)]
    Line(String),
}

/// Items made from something shorter: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(super) struct ItemsFrom {
    /// Integers, both ends included.
    #[schemars(with = "Option<Range>")]
    pub(super) range: Option<Spanned<Range>>,
    /// A text file beside the project file, one item a line. Empty lines are left out.
    #[schemars(with = "Option<String>")]
    pub(super) file: Option<Scalar>,
    /// Every combination of several lists, the last varying fastest. Each list's name is a placeholder.
    #[schemars(with = "Option<std::collections::BTreeMap<String, Vec<ScalarSchema>>>")]
    pub(super) matrix: Option<Spanned<Ordered<Spanned<Vec<String>>>>>,
    /// They are added while the project runs, by `piecework add`.
    pub(super) open: Option<Open>,
}

/// Items that are added while the project runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Open {
    /// After how long without a new one no more are taken, such as `10m`; without an end of its own if it is left out.
    #[schemars(with = "Option<String>")]
    pub(super) idle: Option<Scalar>,
}

/// Integers, both ends included.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum Range {
    /// Such as `1..=100`.
    Line(#[schemars(regex(pattern = r"^\s*-?[0-9]+\s*\.\.=\s*-?[0-9]+\s*$"))] String),
    /// With a step.
    Steps(Box<RangeSteps>),
}

/// Integers from `first` to `last`, both included.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RangeSteps {
    /// The first item.
    #[schemars(with = "i64")]
    pub(super) first: Scalar,
    /// The last item, if `step` reaches it.
    #[schemars(with = "i64")]
    pub(super) last: Scalar,
    /// The distance between items, not 0; negative to count down; 1 if it is left out.
    #[schemars(with = "Option<i64>")]
    pub(super) step: Option<Scalar>,
}

/// What becomes of the tasks' output.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum Reassemble {
    /// A built-in way.
    Named(#[schemars(with = "BuiltIn")] String),
    /// One more task, whose stdin is the ordered output and whose stdout is the result.
    Command(Box<Task>),
}

/// A value that is taken as it is written.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Scalar")]
#[expect(dead_code, reason = "only its schema is used")]
enum ScalarSchema {
    /// Text.
    Text(String),
    /// A number, passed on as it is written.
    Number(f64),
    /// A truth value, passed on as it is written.
    Truth(bool),
}

/// A number of bytes: alone, or with a unit such as `KiB`, `MiB`, `GiB` (of 1024) or `kB`, `MB`, `GB` (of 1000).
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Size")]
#[expect(dead_code, reason = "only its schema is used")]
enum SizeSchema {
    /// Bytes.
    Bytes(u64),
    /// With a unit.
    Text(#[schemars(regex(pattern = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKMGT]i?)?B?\s*$"))] String),
}

/// Names that a value may have, for the schema and for the check of what was written.
macro_rules! names {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
        pub(super) enum $name { $($(#[$doc])* #[schemars(rename = $text)] $variant),* }

        impl $name {
            /// Every value with its name.
            pub(super) const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),*];
        }
    };
}

names! {
    /// A built-in way to reassemble.
    BuiltIn {
        /// The output of every task that succeeded, in task order.
        Concat = "concat",
        /// The sum of all integers printed.
        Sum = "sum",
        /// An array with an element for each task.
        Json = "json",
        /// No result.
        None = "none",
    }
}

names! {
    /// What a failed task does to the project.
    OnFailure {
        /// The others still run; the project fails at the end.
        Continue = "continue",
        /// The project fails at once.
        Stop = "stop",
        /// The project succeeds all the same.
        Ignore = "ignore",
    }
}

names! {
    /// Which of the agents that fit gets an attempt.
    Placement {
        /// The one with the largest free share.
        Spread = "spread",
        /// The one with the smallest free share.
        Pack = "pack",
    }
}

names! {
    /// What becomes of a task whose agent was not heard from for a whole lease.
    OnLeaseLoss {
        /// It runs again elsewhere.
        Rerun = "rerun",
        /// It has failed.
        Stop = "stop",
    }
}

names! {
    /// An ending that is retried.
    RetryOn {
        /// An exit code other than 0, or a signal.
        Exit = "exit",
        /// The timeout.
        Timeout = "timeout",
        /// Out of memory.
        Oom = "oom",
        /// Too many processes and threads.
        Pids = "pids",
    }
}

names! {
    /// The network of a worker.
    Network {
        /// Loopback only.
        None = "none",
        /// The engine's default bridge.
        Bridge = "bridge",
    }
}

names! {
    /// How far a worker is shut off from what its attempts may change.
    Isolation {
        /// A read-only root and a user without rights; the worker is reused.
        Sealed = "sealed",
        /// A writable root and user 0, in a new worker for every attempt.
        Fresh = "fresh",
    }
}

impl Shaped for Command {
    const EXPECTING: &'static str = "a list of program and arguments";

    fn line(line: String) -> Self {
        Self::Line(line)
    }

    fn list<'de, A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Self::List)
    }
}

impl Shaped for Stdin {
    const EXPECTING: &'static str = "a text, or `file` with the path of one";

    fn line(line: String) -> Self {
        Self::Text(line)
    }

    fn value(value: String) -> Self {
        Self::Value(value)
    }

    fn map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        StdinFile::deserialize(MapAccessDeserializer::new(map)).map(|file| Self::File(Box::new(file)))
    }
}

impl Shaped for Items {
    const EXPECTING: &'static str = "a list of items, or one of `range`, `file`, `matrix` and `open`";

    fn line(line: String) -> Self {
        Self::Line(line)
    }

    fn list<'de, A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Self::List)
    }

    fn map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        ItemsFrom::deserialize(MapAccessDeserializer::new(map)).map(|from| Self::From(Box::new(from)))
    }
}

impl Shaped for Range {
    const EXPECTING: &'static str = "a range such as `1..=100`, or `first`, `last` and `step`";

    fn line(line: String) -> Self {
        Self::Line(line)
    }

    fn map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        RangeSteps::deserialize(MapAccessDeserializer::new(map)).map(|steps| Self::Steps(Box::new(steps)))
    }
}

impl Shaped for Reassemble {
    const EXPECTING: &'static str = "`concat`, `sum`, `json`, `none`, or a task";

    fn line(line: String) -> Self {
        Self::Named(line)
    }

    fn map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        Task::deserialize(MapAccessDeserializer::new(map)).map(|task| Self::Command(Box::new(task)))
    }
}

shaped!(Command, Items, Range, Reassemble, Stdin);
