//! Which runtime it is to be, and what becomes of workers that another one left.

use super::{DISCARD_SECS, RuntimeChoice, StartError};
use crate::{
    runtime::{
        Runtime, RuntimeKind,
        docker::{DockerConfig, DockerRuntime},
        left_workers,
        process::ProcessRuntime,
        scripted::ScriptedRuntime,
    },
    sweep::{Swept, sweep},
};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long an engine may take to answer before plain processes are chosen instead, in seconds.
const AUTO_SECS: u64 = 3;

/// How long it may take if an earlier start left containers, in seconds.
const AUTO_LEFT_OVER_SECS: u64 = 30;

/// A runtime that can be used.
pub(super) struct Chosen {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) why_not_docker: Option<String>,
}

/// Makes the runtime that was asked for. What another one left is removed: nobody would adopt it, and its attempts are
/// run again.
pub(super) async fn choose(choice: RuntimeChoice, data: &Path, id: &str) -> Result<Chosen, StartError> {
    let (runtime, why_not_docker): (Arc<dyn Runtime>, _) = match choice {
        RuntimeChoice::Docker => (docker(data, id).await.map_err(StartError::Runtime)?, None),
        RuntimeChoice::Process => (process(data).await?, None),
        RuntimeChoice::Scripted => (Arc::new(ScriptedRuntime::new()), None),
        RuntimeChoice::Auto => auto(data, id).await?,
    };
    if runtime.kind() == RuntimeKind::Docker && left_workers(data, RuntimeKind::Process) {
        sweep_processes(data).await?;
    }
    if runtime.kind() == RuntimeKind::Process && left_workers(data, RuntimeKind::Docker) {
        sweep_containers(data, id).await;
    }
    Ok(Chosen { runtime, why_not_docker })
}

/// The runtime of the workers that live; else Docker, if it answers.
async fn auto(data: &Path, id: &str) -> Result<(Arc<dyn Runtime>, Option<String>), StartError> {
    if left_workers(data, RuntimeKind::Process) {
        let processes = process(data).await?;
        if processes.has_running_worker() {
            let why = "processes of an earlier start are still running";
            tracing::info!("tasks go on as processes: {why}");
            return Ok((processes, Some(why.into())));
        }
    }
    let left = left_workers(data, RuntimeKind::Docker);
    let secs = if left { AUTO_LEFT_OVER_SECS } else { AUTO_SECS };
    let why = match timeout(Duration::from_secs(secs), docker(data, id)).await {
        Ok(Ok(runtime)) => return Ok((runtime, None)),
        Ok(Err(why)) => why,
        Err(_) => format!("no Docker engine answered within {secs} s"),
    };
    Ok((process(data).await?, Some(why)))
}

/// Ends and removes all processes of an earlier start.
async fn sweep_processes(data: &Path) -> Result<(), StartError> {
    tracing::info!("an earlier start left workers that are processes: they are removed");
    let swept = sweep(&*process(data).await?, &BTreeSet::new()).await;
    match swept {
        Ok(Swept { failed: 0, .. }) => Ok(()),
        Ok(Swept { failed, .. }) => Err(StartError::Runtime(format!(
            "{failed} workers of an earlier start are still running as processes; end them, or choose the process runtime"
        ))),
        Err(error) => {
            Err(StartError::Runtime(format!("processes of an earlier start can't be listed: {error}")))
        }
    }
}

/// Removes all containers of an earlier start, if an engine answers. Without one, the next start with Docker does it.
async fn sweep_containers(data: &Path, id: &str) {
    tracing::info!("an earlier start left workers that are containers: they are removed");
    let swept = async {
        let docker = docker(data, id).await?;
        sweep(&*docker, &BTreeSet::new()).await.map_err(|error| error.to_string())
    };
    let why = match timeout(Duration::from_secs(DISCARD_SECS), swept).await {
        Ok(Ok(Swept { failed: 0, .. })) => return,
        Ok(Ok(Swept { failed, .. })) => format!("{failed} can't be removed"),
        Ok(Err(why)) => why,
        Err(_) => format!("the engine took longer than {DISCARD_SECS} s"),
    };
    tracing::warn!("containers of an earlier start may be left over until the next start with Docker: {why}");
}

/// One that is ready, or why there is none.
async fn docker(data: &Path, id: &str) -> Result<Arc<dyn Runtime>, String> {
    let config = DockerConfig { data: data.to_owned(), agent_id: id.to_owned(), socket: None };
    let runtime = DockerRuntime::connect(config).await.map_err(|error| error.to_string())?;
    runtime.ready().await?;
    Ok(Arc::new(runtime))
}

async fn process(data: &Path) -> Result<Arc<ProcessRuntime>, StartError> {
    let runtime = ProcessRuntime::new(data).await;
    Ok(Arc::new(runtime.map_err(super::identity::failed(data))?))
}
