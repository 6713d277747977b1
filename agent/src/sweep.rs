//! STUB until the branch that owns it is merged.
#![allow(missing_docs)]
use crate::runtime::{Runtime, WorkerError, WorkerId};
use std::collections::BTreeSet;
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub removed: usize,
    pub failed: usize,
}
pub async fn sweep(runtime: &dyn Runtime, adopted: &BTreeSet<WorkerId>) -> Result<Swept, WorkerError> {
    let _ = (runtime, adopted);
    Ok(Swept::default())
}
