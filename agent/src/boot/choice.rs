//! Which runtime it is to be.

use super::{RuntimeChoice, StartError};
use crate::runtime::Runtime;
use std::{path::Path, sync::Arc};

/// A runtime that can be used.
pub(super) struct Chosen {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) why_not_docker: Option<String>,
}

pub(super) async fn choose(choice: RuntimeChoice, data: &Path, id: &str) -> Result<Chosen, StartError> {
    let _ = (choice, data, id);
    Err(StartError::Runtime("stub".into()))
}
