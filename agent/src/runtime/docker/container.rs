//! What a worker's container is made of: nothing that is not needed.

use super::{AGENT_LABEL, WORKER_LABEL};
use crate::{
    domain::Isolation,
    runtime::{WorkerShape, WorkerSpec, place},
};
use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType};
use std::{
    collections::{BTreeSet, HashMap},
    path::{Component, Path, PathBuf},
};

/// Where init and its socket are in the container.
const INIT: &str = "/.piecework/init";
const SOCKET_DIR: &str = "/.piecework/socket";

/// Whom tasks run as in a sealed worker: nobody that an agent is. The second is for an agent that is the first.
const TASK_USERS: [u32; 2] = [65532, 65533];

/// What init needs there: to change a task's user, and to kill it.
const SEALED_CAPABILITIES: [&str; 3] = ["SETUID", "SETGID", "KILL"];

/// What tasks, and init with them, may do as uid 0 in a fresh one.
const FRESH_CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
];

/// The writable places of a sealed worker, beside the volumes of its image. The first is where tasks start if nobody says
/// otherwise, and gets the largest share.
const WRITABLE: [&str; 3] = ["/tmp", "/var/tmp", "/run"];

/// Places that are no use, or not allowed, to mount something over.
const NOT_MOUNTED: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/.piecework"];

/// Less than this, the engine does not accept, or no process starts in.
const MEMORY_BYTES_MIN: u64 = 8 << 20;

/// The least share of processors that the engine accepts.
const CPUS_MILLI_MIN: u32 = 10;

/// Processes and threads of a task that names no limit.
const PIDS_DEFAULT: u32 = 4096;

/// One more process: init.
const INIT_PIDS: u32 = 1;

/// All writable places together, in a worker that has no memory limit.
const WRITABLE_BYTES_DEFAULT: u64 = 1 << 30;

/// The kernel is to keep nothing of connections that have ended: the next task would find it. So there is no TIME_WAIT, no
/// measure of the way to a peer, and no cookie.
const SEALED_SYSCTLS: [(&str, &str); 3] = [
    ("net.ipv4.tcp_max_tw_buckets", "0"),
    ("net.ipv4.tcp_no_metrics_save", "1"),
    ("net.ipv4.tcp_fastopen", "0"),
];

/// The largest `/dev/shm`.
const SHM_BYTES_MAX: u64 = 64 << 20;

/// The files of the host that every container gets.
#[derive(Debug)]
pub(super) struct Files {
    /// The program.
    pub(super) init: PathBuf,
    /// What `/etc/hosts` is.
    pub(super) hosts: PathBuf,
}

/// Where an agent's containers have what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) agent_id: &'a str,
    pub(super) files: &'a Files,
    pub(super) socket_dir: &'a Path,
    /// The working directory gets a file system of its own, because the image has nothing there.
    pub(super) mounts_workdir: bool,
}

/// The working directory of a worker that may get a file system of its own: not one that is below another, or has another
/// below it.
pub(super) fn workdir(shape: &WorkerShape) -> Option<&Path> {
    let dir = shape.workdir.as_deref().filter(|_| shape.isolation == Isolation::Sealed)?;
    let is_near = |place: &Path| dir.starts_with(place) || place.starts_with(dir);
    let taken = volumes(shape).chain(WRITABLE.iter().map(Path::new));
    let mut other = taken.chain(NOT_MOUNTED[1..].iter().map(Path::new));
    let is_plain = dir.components().all(|part| !matches!(part, Component::ParentDir));
    (dir.is_absolute() && is_plain && !other.any(is_near)).then_some(dir)
}

/// The container of one worker.
pub(super) fn body(spec: &WorkerSpec, setting: Setting<'_>) -> ContainerCreateBody {
    let Setting { agent_id, files, socket_dir, mounts_workdir } = setting;
    let shape = &*spec.shape;
    let labels = [(AGENT_LABEL, agent_id.to_owned()), (WORKER_LABEL, spec.id.0.clone())];
    let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
    let socket = format!("{SOCKET_DIR}/{}", place::SOCKET);
    let places = writable(shape, mounts_workdir);
    let mut cmd = vec!["--socket", &socket];
    let is_agent =
        |user: u32| [nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()].contains(&user);
    let task_user = TASK_USERS.into_iter().find(|user| !is_agent(*user)).unwrap_or(TASK_USERS[0]);
    let task_user = format!("{task_user}:{task_user}");
    if shape.isolation == Isolation::Sealed {
        cmd.extend(["--task-user", &task_user, "--workdir", WRITABLE[0]]);
        // An engine may give a file system the mode of the directory that it is mounted over.
        cmd.extend(places.iter().flat_map(|place| ["--writable", place]));
    }
    ContainerCreateBody {
        image: Some(shape.image.handle.clone()),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        hostname: Some("worker".into()),
        user: Some("0:0".into()),
        working_dir: Some("/".into()),
        entrypoint: words(&[INIT]),
        cmd: words(&cmd),
        // The image's own check would run in the middle of a task.
        healthcheck: Some(HealthConfig { test: words(&["NONE"]), ..HealthConfig::default() }),
        // With the network disabled, rather than `none`, there is the same loopback, and the engine need not start one
        // more copy of itself to set it up: that is 40 % of the cost of a container.
        network_disabled: Some(!shape.network),
        host_config: Some(host_config(shape, files, socket_dir, &places)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(
    shape: &WorkerShape,
    files: &Files,
    socket_dir: &Path,
    places: &BTreeSet<String>,
) -> HostConfig {
    let memory = shape.memory_bytes.map(|bytes| bytes.max(MEMORY_BYTES_MIN));
    let sealed = shape.isolation == Isolation::Sealed;
    // All writable places together stay below the memory limit: a task that fills them sees a full disk, and is not killed.
    let writable_bytes = memory.map_or(WRITABLE_BYTES_DEFAULT, |bytes| bytes / 4 * 3);
    let shm_bytes = (writable_bytes / 4).min(SHM_BYTES_MAX);
    let capabilities = if sealed { SEALED_CAPABILITIES.as_slice() } else { &FRESH_CAPABILITIES };
    let mut capabilities: BTreeSet<_> = capabilities.iter().map(ToString::to_string).collect();
    // The socket's directory is the agent's. If the agent is not root, then init can't write there by right, and gives
    // this up as soon as it listens.
    if !nix::unistd::geteuid().is_root() {
        capabilities.insert("DAC_OVERRIDE".into());
    }
    let mut mounts = vec![mount(&files.init, INIT, true), mount(socket_dir, SOCKET_DIR, false)];
    if !shape.network {
        mounts.push(mount(&files.hosts, "/etc/hosts", true));
    }
    HostConfig {
        mounts: Some(mounts),
        readonly_rootfs: Some(sealed),
        tmpfs: sealed.then(|| tmpfs(places, writable_bytes - shm_bytes)),
        shm_size: Some(signed(shm_bytes)),
        ipc_mode: Some("private".into()),
        sysctls: sealed.then(|| SEALED_SYSCTLS.map(|(name, value)| (name.into(), value.into())).into()),
        network_mode: Some(if shape.network { "bridge" } else { "none" }.into()),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(capabilities.into_iter().collect()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        memory: memory.map(signed),
        // As much as memory: no swap.
        memory_swap: memory.map(signed),
        nano_cpus: shape.cpus_milli.map(|milli| i64::from(milli.max(CPUS_MILLI_MIN)) * 1_000_000),
        pids_limit: Some(i64::from(shape.pids_max.unwrap_or(PIDS_DEFAULT).saturating_add(INIT_PIDS))),
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        init: Some(false),
        ..HostConfig::default()
    }
}

/// The volumes of a worker's image that get a file system of their own.
fn volumes(shape: &WorkerShape) -> impl Iterator<Item = &Path> {
    shape.image.volumes.iter().map(PathBuf::as_path).filter(|volume| {
        let reserved = NOT_MOUNTED.iter().any(|other| *volume == Path::new(other));
        volume.is_absolute() && !reserved && !volume.starts_with("/dev")
    })
}

/// The places of a sealed worker that get a file system of their own: the usual ones, the volumes of its image, and where
/// it works if nothing is there.
fn writable(shape: &WorkerShape, mounts_workdir: bool) -> BTreeSet<String> {
    let workdir = workdir(shape).filter(|_| mounts_workdir);
    let places = volumes(shape).chain(workdir).map(|place| place.to_string_lossy().into_owned());
    places.chain(WRITABLE.iter().map(ToString::to_string)).collect()
}

/// An empty file system in memory over each of them: half of the room for the first, equal shares for the others.
fn tmpfs(places: &BTreeSet<String>, bytes: u64) -> HashMap<String, String> {
    let each = bytes / 2 / (places.len() - 1).max(1) as u64;
    let options = |place: &str| {
        let bytes = if place == WRITABLE[0] { bytes / 2 } else { each };
        format!("rw,exec,nosuid,nodev,mode=1777,size={bytes}")
    };
    places.iter().map(|place| (place.clone(), options(place))).collect()
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
