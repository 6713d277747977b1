//! Which runtime it is to be.

use super::{RuntimeChoice, StartError};
use crate::runtime::{
    Runtime,
    docker::{DockerConfig, DockerRuntime},
    process::ProcessRuntime,
    scripted::ScriptedRuntime,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long an engine may take to answer before plain processes are chosen instead, in seconds.
const AUTO_SECS: u64 = 3;

/// A runtime that can be used.
pub(super) struct Chosen {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) why_not_docker: Option<String>,
}

/// Makes the runtime that was asked for.
pub(super) async fn choose(choice: RuntimeChoice, data: &Path, id: &str) -> Result<Chosen, StartError> {
    let runtime: Arc<dyn Runtime> = match choice {
        RuntimeChoice::Docker => docker(data, id).await.map_err(StartError::Runtime)?,
        RuntimeChoice::Process => process(data).await?,
        RuntimeChoice::Scripted => Arc::new(ScriptedRuntime::new()),
        RuntimeChoice::Auto => {
            let why = match timeout(Duration::from_secs(AUTO_SECS), docker(data, id)).await {
                Ok(Ok(runtime)) => return Ok(Chosen { runtime, why_not_docker: None }),
                Ok(Err(why)) => why,
                Err(_) => format!("no Docker engine answered within {AUTO_SECS} s"),
            };
            return Ok(Chosen { runtime: process(data).await?, why_not_docker: Some(why) });
        }
    };
    Ok(Chosen { runtime, why_not_docker: None })
}

/// One that is ready, or why there is none.
async fn docker(data: &Path, id: &str) -> Result<Arc<dyn Runtime>, String> {
    let config = DockerConfig { data: data.to_owned(), agent_id: id.to_owned(), socket: None };
    let runtime = DockerRuntime::connect(config).await.map_err(|error| error.to_string())?;
    runtime.ready().await?;
    Ok(Arc::new(runtime))
}

async fn process(data: &Path) -> Result<Arc<dyn Runtime>, StartError> {
    let runtime = ProcessRuntime::new(data).await;
    Ok(Arc::new(runtime.map_err(super::identity::failed(data))?))
}
