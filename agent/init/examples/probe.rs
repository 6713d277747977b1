//! Writes down everything that a task can observe of its worker, one fact a line, in a stable order.
//!
//! Run in a new worker and again after other tasks, its two outputs must be equal. Left out are clocks and counters,
//! as docs/workers.md names them: times of files, numbers of inodes and processes, packets, usage of processor and memory.

use nix::{
    libc,
    sys::{resource, stat::umask, statvfs::statvfs},
    unistd::{getegid, geteuid, getgid, getgroups, getpgrp, getpid, getppid, getsid, getuid},
};
use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fmt::Display,
    fs,
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Files beyond this are told by their size alone.
const CONTENT_BYTES_MAX: u64 = 1 << 20;

/// Kernel interfaces, whose files are told by name below, if at all.
const KERNEL_FILE_SYSTEMS: [&str; 6] = ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "securityfs"];

fn main() {
    let mut facts = Facts(Vec::new());
    process(&mut facts);
    limits(&mut facts);
    init(&mut facts);
    processes(&mut facts);
    let mounts = mounts(&mut facts);
    for mount in &mounts {
        if !KERNEL_FILE_SYSTEMS.contains(&mount.kind.as_str()) {
            tree(&mut facts, mount, &mounts);
        }
    }
    ipc(&mut facts);
    network(&mut facts);
    // One that can't be written to has nobody to tell.
    let _ = io::stdout().write_all(facts.0.join("\n").as_bytes());
}

struct Facts(Vec<String>);

impl Facts {
    fn add(&mut self, what: &str, value: impl Display) {
        self.0.push(format!("{what}: {}", value.to_string().replace('\n', "\\n")));
    }

    /// A file's lines, as they are.
    fn file(&mut self, path: &str) {
        self.filtered(path, |line| Some(line.to_owned()));
    }

    /// What is left of a file's lines.
    fn filtered(&mut self, path: &str, keep: impl Fn(&str) -> Option<String>) {
        match fs::read(path) {
            Ok(bytes) => {
                for line in String::from_utf8_lossy(&bytes).lines().filter_map(keep) {
                    self.add(path, line);
                }
            }
            Err(error) => self.add(path, error.kind()),
        }
    }
}

fn process(facts: &mut Facts) {
    let mut variables: Vec<_> = std::env::vars_os().collect();
    variables.sort();
    for (name, value) in variables {
        facts.add("env", format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    }
    facts.add("arguments", format!("{:?}", std::env::args_os().collect::<Vec<_>>()));
    facts.add("cwd", fs::read_link("/proc/self/cwd").unwrap_or_default().display());
    facts.add("root", fs::read_link("/proc/self/root").unwrap_or_default().display());
    facts.add("users", format!("{} {} {} {}", getuid(), geteuid(), getgid(), getegid()));
    facts.add("groups", format!("{:?}", getgroups()));
    facts.add("parent", getppid());
    facts.add("leads its session", getsid(None).is_ok_and(|session| session == getpid()));
    facts.add("leads its group", getpgrp() == getpid());
    facts.add("umask", format!("{:?}", umask(nix::sys::stat::Mode::empty())));
    facts.add("terminal", fs::File::open("/dev/tty").is_ok());
    for (what, option) in [
        ("dumpable", libc::PR_GET_DUMPABLE),
        ("no new privileges", libc::PR_GET_NO_NEW_PRIVS),
        ("timer slack", libc::PR_GET_TIMERSLACK),
        ("keep capabilities", libc::PR_GET_KEEPCAPS),
        ("secure bits", libc::PR_GET_SECUREBITS),
    ] {
        // SAFETY: none of these takes a pointer.
        facts.add(what, unsafe { libc::prctl(option, 0, 0, 0, 0) });
    }
    // SAFETY: asks only.
    facts.add("personality", unsafe { libc::personality(0xffff_ffff) });
    let kept =
        ["Cap", "NoNewPrivs", "Seccomp", "Sig", "Shd", "Cpus_allowed", "Mems_allowed", "Threads", "Groups"];
    facts.filtered("/proc/self/status", |line| {
        let fits = kept.iter().any(|name| line.starts_with(name)) && !line.starts_with("SigQ");
        fits.then(|| line.to_owned())
    });
    for name in [
        "cgroup",
        "oom_score_adj",
        "coredump_filter",
        "autogroup",
        "uid_map",
        "gid_map",
        "timers",
        "loginuid",
    ] {
        facts.filtered(&format!("/proc/self/{name}"), |line| {
            // An autogroup has a number of its own in front.
            Some(line.split_once("nice").map_or_else(|| line.to_owned(), |(_, nice)| format!("nice{nice}")))
        });
    }
    let mut open: Vec<_> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name(), fs::read_link(entry.path()).ok()?)))
        .map(|(number, target)| format!("{} {}", number.to_string_lossy(), without_number(&target)))
        // The directory that is being read.
        .filter(|line| !line.contains("/proc/"))
        .collect();
    open.sort();
    for line in open {
        facts.add("open", line);
    }
    facts.file("/proc/sys/kernel/hostname");
    facts.file("/proc/sys/kernel/domainname");
}

/// `pipe:[1234]` without its number.
fn without_number(target: &Path) -> String {
    let target = target.to_string_lossy();
    target.split_once(":[").map_or_else(|| target.to_string(), |(kind, _)| kind.to_owned())
}

fn limits(facts: &mut Facts) {
    facts.file("/proc/self/limits");
    // SAFETY: neither takes a pointer.
    facts.add("nice", unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) });
    // SAFETY: as above.
    facts.add("nice of the user", unsafe { libc::getpriority(libc::PRIO_USER, 0) });
    // SAFETY: as above.
    facts.add("scheduler", unsafe { libc::sched_getscheduler(0) });
    // SAFETY: ioprio_get takes two numbers.
    facts.add("input and output priority", unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) });
    facts.add("processors", std::thread::available_parallelism().map_or(0, usize::from));
    let used = resource::getrusage(resource::UsageWho::RUSAGE_CHILDREN);
    facts.add("signals of children", used.map_or(-1, |used| used.signals()));
    for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: plain numbers, for which all zeroes is a value.
        let mut value: libc::itimerval = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live value of the right type.
        unsafe { libc::getitimer(timer, &raw mut value) };
        facts.add("timer", format!("{timer} {} {}", value.it_value.tv_sec, value.it_interval.tv_sec));
    }
}

/// What shows of PID 1.
fn init(facts: &mut Facts) {
    for name in ["limits", "oom_score_adj", "cgroup", "comm", "loginuid", "timerslack_ns", "coredump_filter"]
    {
        facts.file(&format!("/proc/1/{name}"));
    }
    for name in ["mem", "maps", "environ", "cwd", "root", "exe", "fd", "io", "syscall"] {
        let path = format!("/proc/1/{name}");
        let seen = fs::read(&path).map(|_| ()).or_else(|_| fs::read_link(&path).map(|_| ()));
        facts.add(&path, seen.is_ok());
    }
    facts.filtered("/proc/1/status", |line| {
        let kept = [
            "Cap",
            "Uid",
            "Gid",
            "NoNewPrivs",
            "Seccomp",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "Threads",
            "Cpus_allowed",
        ];
        kept.iter().any(|name| line.starts_with(name)).then(|| line.to_owned())
    });
    // SAFETY: takes no pointer.
    facts.add("nice of init", unsafe { libc::getpriority(libc::PRIO_PROCESS, 1) });
    let stat = fs::read_to_string("/proc/1/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = after_name.split_ascii_whitespace().collect();
    // Priority, nice, threads, real-time priority, policy.
    for index in [15, 16, 17, 37, 38] {
        facts.add("init's stat", format!("{index} {}", fields.get(index).unwrap_or(&"")));
    }
}

/// Everyone but this process.
fn processes(facts: &mut Facts) {
    let own = getpid().to_string();
    let mut seen = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let uid = entry.metadata().map_or(u32::MAX, |meta| meta.uid());
        seen.push(format!("{} of {uid}", comm.trim_end()));
    }
    seen.sort();
    for process in seen {
        facts.add("process", process);
    }
}

struct Mount {
    at: PathBuf,
    kind: String,
}

fn mounts(facts: &mut Facts) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        facts.add("mount", line);
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(at), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else { continue };
        mounts.push(Mount { at: at.into(), kind: kind.to_owned() });
        if matches!(kind, "tmpfs" | "mqueue")
            && let Ok(space) = statvfs(at)
        {
            let sizes = [space.blocks(), space.blocks_free(), space.files(), space.files_free()];
            facts.add("space", format!("{at} {sizes:?} {:?}", space.flags()));
        }
    }
    mounts
}

/// All that is in one mount, without what is mounted further down.
fn tree(facts: &mut Facts, mount: &Mount, mounts: &[Mount]) {
    let mut waiting = vec![mount.at.clone()];
    while let Some(path) = waiting.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            facts.add("tree", format!("{} can't be looked at", path.display()));
            continue;
        };
        let kind = meta.file_type();
        let detail = if kind.is_file() {
            format!("file {} {} {}", meta.nlink(), meta.len(), content(&path, meta.len()))
        } else if kind.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap_or_default().display())
        } else if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {}", meta.rdev())
        } else {
            "other".to_owned()
        };
        let owner = format!("{:o} {}:{}", meta.permissions().mode(), meta.uid(), meta.gid());
        facts.add("tree", format!("{} {owner} {detail} {}", path.display(), attributes(&path)));
        let beneath_another = path != mount.at && mounts.iter().any(|other| other.at == path);
        if kind.is_dir() && !beneath_another {
            match fs::read_dir(&path) {
                Ok(entries) => {
                    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                    entries.sort();
                    waiting.extend(entries);
                }
                Err(error) => facts.add("tree", format!("{} {}", path.display(), error.kind())),
            }
        }
    }
}

/// FNV-1a of a file's contents: enough to tell two apart by accident.
fn content(path: &Path, length: u64) -> String {
    if length > CONTENT_BYTES_MAX {
        return "long".to_owned();
    }
    fs::read(path).map_or_else(
        |error| error.kind().to_string(),
        |bytes| {
            let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            format!("{:x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
        },
    )
}

/// The names of a file's extended attributes.
fn attributes(path: &Path) -> String {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return String::new() };
    let mut names = vec![0_u8; 4096];
    // SAFETY: the buffer is live and as long as is said.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(length).unwrap_or(0));
    OsStr::from_bytes(&names).to_string_lossy().replace('\0', " ")
}

fn ipc(facts: &mut Facts) {
    for name in ["shm", "sem", "msg"] {
        facts.file(&format!("/proc/sysvipc/{name}"));
    }
    for dir in ["/proc/sys/fs/mqueue", "/proc/sys/kernel"] {
        let named: BTreeMap<_, _> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .filter(|(name, _)| {
                dir.ends_with("mqueue") || ["shm", "sem", "msg"].iter().any(|kind| name.starts_with(kind))
            })
            .collect();
        for path in named.values() {
            facts.file(&path.to_string_lossy());
        }
    }
}

fn network(facts: &mut Facts) {
    for name in [
        "tcp",
        "tcp6",
        "udp",
        "udp6",
        "raw",
        "raw6",
        "udplite",
        "packet",
        "netlink",
        "route",
        "ipv6_route",
        "arp",
        "if_inet6",
    ] {
        facts.file(&format!("/proc/net/{name}"));
    }
    // Memory is counted in pages that are freed late.
    for name in ["sockstat", "sockstat6"] {
        facts.filtered(&format!("/proc/net/{name}"), |line| {
            Some(line.split_once(" mem ").map_or(line, |(before, _)| before).to_owned())
        });
    }
    // Without the addresses and numbers of its inodes.
    facts.filtered("/proc/net/unix", |line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        Some([3, 4, 5, 7].map(|field| *fields.get(field).unwrap_or(&"")).join(" "))
    });
    facts.filtered("/proc/net/dev", |line| line.split_once(':').map(|(name, _)| name.trim().to_owned()));
}
