//! The exit codes. They are part of the interface: scripts may rely on them.

/// All went well; of `run`, `watch` and `results`: the project succeeded.
pub const OK: u8 = 0;
/// The project failed.
pub const PROJECT_FAILED: u8 = 1;
/// The command line or an input file is wrong.
pub const BAD_INPUT: u8 = 2;
/// What is named is not there: a project, task, attempt, agent, queue or receipt.
pub const NOT_FOUND: u8 = 3;
/// No coordinator can be reached, or it was lost for too long.
pub const NO_COORDINATOR: u8 = 4;
/// The coordinator refused, or failed.
pub const REFUSED: u8 = 5;
/// The project was cancelled.
pub const CANCELLED: u8 = 6;
/// Something on this machine failed, such as writing a file or starting a coordinator.
pub const LOCAL_FAILURE: u8 = 7;
/// Interrupted by Ctrl-C or SIGTERM (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;
/// Nobody reads stdout any more (128 + SIGPIPE). Nothing is said then.
pub const STDOUT_CLOSED: u8 = 141;

/// Every code with its meaning, for help and manual.
pub const ALL: &[(u8, &str)] = &[
    (OK, "all went well; of `run`, `watch` and `results`: the project succeeded"),
    (PROJECT_FAILED, "the project failed"),
    (BAD_INPUT, "the command line or an input file is wrong"),
    (NOT_FOUND, "what is named is not there: a project, task, attempt, agent, queue or receipt"),
    (NO_COORDINATOR, "no coordinator can be reached, or it was lost for too long"),
    (REFUSED, "the coordinator refused, or failed"),
    (CANCELLED, "the project was cancelled"),
    (LOCAL_FAILURE, "something on this machine failed, such as writing a file or starting a coordinator"),
    (INTERRUPTED, "interrupted by Ctrl-C or SIGTERM"),
    (STDOUT_CLOSED, "nobody reads stdout any more"),
];
