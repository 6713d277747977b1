//! The bounds of everything that a peer can make the services hold or wait for.

use std::time::Duration;

/// Most calls at a time over one connection.
pub(super) const STREAMS_MAX: u32 = 1024;

/// How many calls of those who are nobody, by token or certificate, are served at a time.
pub const STRANGERS_MAX: usize = 64;

/// The longest message of such a caller.
pub(super) const STRANGER_BYTES_MAX: usize = 16 * 1024;

/// How often a silent connection is asked whether it still lives.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long it may take to answer that.
pub(super) const KEEP_ALIVE_WAIT: Duration = Duration::from_secs(20);

/// The longest body of an HTTP call: messages of a call, with what JSON and base64 add to them.
pub(super) const HTTP_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest wait for the next bytes of such a body.
pub(super) const HTTP_BODY_IDLE: Duration = Duration::from_secs(30);

/// Longest wait for the next message of a submission.
pub(super) const SUBMIT_IDLE: Duration = Duration::from_secs(300);

/// Longest idempotency key.
pub(super) const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Longest specification, as it came in: it travels in every answer that names its project, and to agents.
pub(super) const SPEC_BYTES_MAX: usize = 1024 * 1024;

/// Most items that are put into the store at once.
pub(super) const ITEM_GROUP_MAX: usize = 10_000;

/// About how many bytes of items are put into the store at once.
pub(super) const ITEM_GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most rows in one answer.
pub(super) const LIST_MAX: u32 = 1000;

/// Rows in one answer if the client does not say.
pub(super) const LIST_DEFAULT: u32 = 100;

/// Most attempts that are listed with a task: the newest ones.
pub(super) const ATTEMPTS_SHOWN_MAX: usize = 100;

/// About how long one answer or message becomes at the most; one more row or attempt still fits under the limit for
/// messages.
pub(super) const MESSAGE_BYTES_GOAL: usize = 3 * 1024 * 1024;

/// How often a failed removal of an abandoned submission is tried again. The next start removes it in any case.
pub(super) const ABANDON_TRIES_MAX: u32 = 6;

/// The wait after the first failed removal; doubled each time.
pub(super) const ABANDON_PAUSE: Duration = Duration::from_secs(1);

/// How many chunks of a task's output wait for a slow reader.
pub(super) const LOGS_CHUNKS_MAX: usize = 2;

/// Shortest pause between two looks for the end of a followed attempt.
pub(super) const FOLLOW_PAUSE: Duration = Duration::from_millis(10);

/// How many acknowledgements of an upload wait for a slow agent.
pub(super) const ACKS_MAX: usize = 4;

/// Longest wait for an agent's Hello.
pub(super) const HELLO_WAIT: Duration = Duration::from_secs(10);

/// How many heartbeats fit into a lease.
pub(super) const HEARTBEATS_PER_LEASE: u32 = 5;

/// Longest pause between heartbeats.
pub(super) const HEARTBEAT_MAX: Duration = Duration::from_secs(5);

/// Shortest pause between heartbeats.
pub(super) const HEARTBEAT_MIN: Duration = Duration::from_millis(20);

/// How many parsed commands a session keeps.
pub(super) const TEMPLATES_MAX: usize = 256;

const _: () = assert!(crate::plan::IMAGE_FILE_BYTES_MAX == crate::output::BLOB_BYTES_MAX);
const _: () = assert!(
    SPEC_BYTES_MAX + crate::plan::COMMAND_BYTES_MAX + 64 * 1024 < piecework_proto::MESSAGE_BYTES_MAX,
    "a message with one RunSpec and one assignment must always fit"
);
