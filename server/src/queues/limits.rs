//! The bounds of everything that somebody can make queues hold or wait for.

use std::time::Duration;

/// Longest name of a queue.
pub const NAME_BYTES_MAX: usize = 128;

/// Longest body of a message.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Longest content type of a message.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Most headers of a message.
pub const HEADERS_MAX: usize = 32;

/// Longest key of a header.
pub const HEADER_KEY_BYTES_MAX: usize = 128;

/// Longest value of a header.
pub const HEADER_VALUE_BYTES_MAX: usize = 1024;

/// Most messages or receipts in one call.
pub const BATCH_MAX: usize = 1000;

/// Most bytes of messages in one call, as [`NewMessage::size`](super::NewMessage::size) counts them: an answer with them fits into
/// a gRPC message.
pub const BATCH_BYTES_MAX: usize = 4_000_000;

/// What a message counts for beside what is in it, and what a header does.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 128;
pub(super) const HEADER_OVERHEAD_BYTES: usize = 16;

/// Longest wait for messages.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// For how long messages are kept from others until they are acknowledged, if nothing else is said.
pub const VISIBILITY_DEFAULT: Duration = Duration::from_secs(30);

/// Shortest such time.
pub const VISIBILITY_MIN: Duration = Duration::from_millis(100);

/// Longest such time.
pub const VISIBILITY_MAX: Duration = Duration::from_secs(20 * 60);

/// For how long a message may be kept from others in all, however often that is prolonged. RabbitMQ itself ends it after 30
/// minutes.
pub const HELD_MAX: Duration = Duration::from_secs(25 * 60);

/// Longest receipt that is looked at.
pub const RECEIPT_BYTES_MAX: usize = 64;

/// Most queues on one page of a list.
pub const LIST_MAX: usize = 1000;

/// Bounds that an installation may want otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most queues.
    pub queues_max: usize,
    /// Most messages in one queue.
    pub queue_messages_max: u64,
    /// Most bytes in one queue. The embedded broker alone counts them: of RabbitMQ they can't be asked.
    pub queue_bytes_max: u64,
    /// Most messages that are delivered and not yet acknowledged, of all queues.
    pub held_max: usize,
    /// Most calls that wait for messages at a time.
    pub waits_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            queues_max: 10_000,
            queue_messages_max: 1_000_000,
            queue_bytes_max: 4 * 1024 * 1024 * 1024,
            held_max: 20_000,
            waits_max: 512,
        }
    }
}
