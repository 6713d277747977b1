//! Between protobuf and the agent's own types. What comes in is parsed here, once: inside, nothing can be missing.

mod error;
mod image;
mod incoming;
mod outgoing;
mod report;
mod task;

pub use error::WireError;
pub use incoming::Incoming;
pub use outgoing::{HelloFacts, outgoing, stream_to_proto};
pub use report::{report_from_proto, report_to_proto};
pub use task::{attempt_from_proto, attempt_to_proto};
