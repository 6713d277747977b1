//! Plain types that every other module speaks in. Imports nothing of ours, does no I/O, and knows no wire format.

mod access;
mod addition;
mod ids;
mod outcome;
mod project;
mod report;
mod spec;

pub use access::{
    Certificate, Certified, ENROLLED, EnrolRefusal, Enrolment, Grant, Sha256, Standing, Token, TokenId,
};
pub use addition::{AddedTask, CLIENT_KEY_BYTES_MAX, ClientKey, ClientKeyError, NewTask};
pub use ids::{
    AgentId, AttemptKey, AttemptNo, CoordinatorEpoch, Generation, Phase, ProjectId, SessionEpoch, TaskKey,
};
pub use outcome::{Outcome, OutcomeClass, Usage};
pub use project::{Project, ProjectState, TaskCounts};
pub use report::{Output, OutputBody, OutputStream, Report};
pub use spec::{
    BuiltIn, FailurePolicy, ITEMS_MAX, ImageFile, ImageSpec, Isolation, Item, ItemSource, LeaseLossPolicy,
    MatrixAxis, Network, Placement, ProjectSpec, Reassemble, Resources, RetryOn, SPLIT_ITEM_BYTES_MAX, Stdin,
    TaskSpec,
};
