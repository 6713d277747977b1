//! What a worker's container is made of: nothing that is not needed.

use super::{AGENT_LABEL, PROJECT_LABEL, WORKER_LABEL};
use crate::runtime::{WorkerSpec, place};
use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType};
use std::{collections::HashMap, path::Path};

/// Where init and its socket are in the container.
const INIT: &str = "/.piecework/init";
const SOCKET_DIR: &str = "/.piecework/socket";

/// Whom tasks run as.
const TASK_USER: &str = "65532:65532";

/// Less than this, the engine does not accept, or no process starts in.
const MEMORY_BYTES_MIN: u64 = 8 << 20;

/// The least share of processors that the engine accepts.
const CPUS_MILLI_MIN: u32 = 10;

/// Processes and threads of a task that names no limit.
const PIDS_DEFAULT: u32 = 4096;

/// One more process: init.
const INIT_PIDS: u32 = 1;

/// `/tmp` and `/dev/shm` of a task that names no memory limit.
const TMP_BYTES_DEFAULT: u64 = 512 << 20;
const SHM_BYTES_MAX: u64 = 64 << 20;

/// The container of one worker.
pub(super) fn body(spec: &WorkerSpec, agent_id: &str, init: &Path, socket_dir: &Path) -> ContainerCreateBody {
    let run = &spec.run;
    let labels = [
        (AGENT_LABEL, agent_id.to_owned()),
        (WORKER_LABEL, spec.id.0.clone()),
        (PROJECT_LABEL, run.project_name.clone()),
    ];
    let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
    ContainerCreateBody {
        image: Some(spec.image.handle.clone()),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        hostname: Some("worker".into()),
        user: Some("0:0".into()),
        working_dir: Some("/".into()),
        entrypoint: words(&[INIT]),
        cmd: words(&["--socket", &format!("{SOCKET_DIR}/{}", place::SOCKET), "--task-user", TASK_USER]),
        // The image's own check would run in the middle of a task.
        healthcheck: Some(HealthConfig { test: words(&["NONE"]), ..HealthConfig::default() }),
        host_config: Some(host_config(spec, init, socket_dir)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &WorkerSpec, init: &Path, socket_dir: &Path) -> HostConfig {
    let run = &spec.run;
    let memory = run.memory_bytes.map(|bytes| bytes.max(MEMORY_BYTES_MIN));
    // Both together stay below the memory limit: a task that fills them sees a full disk, and is not killed.
    let tmp_bytes = memory.map_or(TMP_BYTES_DEFAULT, |bytes| bytes / 2);
    let shm_bytes = memory.map_or(SHM_BYTES_MAX, |bytes| (bytes / 4).min(SHM_BYTES_MAX));
    let mut capabilities = vec!["SETUID".to_owned(), "SETGID".into(), "KILL".into()];
    // The socket's directory is the agent's. If the agent is not root, then init can't write there by right, and gives
    // this up as soon as it listens.
    if !nix::unistd::geteuid().is_root() {
        capabilities.push("DAC_OVERRIDE".into());
    }
    HostConfig {
        mounts: Some(vec![mount(init, INIT, true), mount(socket_dir, SOCKET_DIR, false)]),
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from([(
            "/tmp".to_owned(),
            format!("rw,exec,nosuid,nodev,mode=1777,size={tmp_bytes}"),
        )])),
        shm_size: Some(signed(shm_bytes)),
        ipc_mode: Some("private".into()),
        network_mode: Some(if run.network { "bridge" } else { "none" }.into()),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(capabilities),
        security_opt: Some(vec!["no-new-privileges".into()]),
        memory: memory.map(signed),
        // As much as memory: no swap.
        memory_swap: memory.map(signed),
        nano_cpus: run.cpus_milli.map(|milli| i64::from(milli.max(CPUS_MILLI_MIN)) * 1_000_000),
        pids_limit: Some(i64::from(run.pids_max.unwrap_or(PIDS_DEFAULT).saturating_add(INIT_PIDS))),
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        init: Some(false),
        ..HostConfig::default()
    }
}

fn mount(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.into()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
