//! The namespaces around the task: other processes, IPC objects, sockets, and what the kernel was told.

use crate::Report;
use std::{fs, path::Path};

pub(crate) fn observe(report: &mut Report) {
    processes(report);
    for name in ["ipc", "mnt", "net", "pid", "user", "uts", "cgroup", "time"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
        report.add("namespace", name.as_bytes(), link.display().to_string());
    }
    for kind in ["shm", "sem", "msg"] {
        lines(report, &format!("/proc/sysvipc/{kind}"), |line| Some(line.to_owned()));
    }
    sockets(report);
    for dir in ["/proc/sys/fs/mqueue", "/proc/sys/kernel", "/proc/sys/net/ipv4", "/proc/sys/vm"] {
        settings(report, Path::new(dir));
    }
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<_> = names.map(|entry| entry.file_name().display().to_string()).collect();
    names.sort();
    report.add("network", b"interfaces", names.join(" "));
}

/// All but itself, by name; their numbers only ever rise.
fn processes(report: &mut Report) {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().display().to_string();
        if name.bytes().all(|byte| byte.is_ascii_digit()) && name != own {
            found.push(fs::read_to_string(entry.path().join("comm")).unwrap_or_default());
        }
    }
    found.sort();
    report.add("processes", found.len().to_string().as_bytes(), found.concat());
}

fn sockets(report: &mut Report) {
    // Without slot numbers, queues' addresses and inodes: local and remote address, and state.
    for file in ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"] {
        lines(report, &format!("/proc/net/{file}"), |line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            Some(fields.get(1..4)?.join(" "))
        });
    }
    // Type, state and path.
    lines(report, "/proc/net/unix", |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(format!("{} {} {}", fields.get(4)?, fields.get(5)?, fields.get(7).unwrap_or(&"")))
    });
    // Protocol and groups.
    lines(report, "/proc/net/netlink", |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(format!("{} {}", fields.get(1)?, fields.get(3)?))
    });
    for file in ["packet", "route", "ipv6_route", "if_inet6", "arp", "igmp", "dev_mcast"] {
        lines(report, &format!("/proc/net/{file}"), |line| Some(line.to_owned()));
    }
    // Those of the machine as a whole are left out.
    for file in ["sockstat", "sockstat6"] {
        lines(report, &format!("/proc/net/{file}"), |line| {
            let words: Vec<&str> = line.split(' ').collect();
            let own = words.windows(2).filter(|pair| matches!(pair[0], "used" | "inuse" | "tw"));
            Some(format!("{} {}", words.first()?, own.map(|pair| pair.join(" ")).collect::<String>()))
        });
    }
}

/// The lines of a file, sorted, for some come in the order of hashes.
fn lines(report: &mut Report, file: &str, keep: impl Fn(&str) -> Option<String>) {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return report.add("lines", file.as_bytes(), error.to_string()),
    };
    let mut kept: Vec<String> = text.lines().filter_map(keep).collect();
    kept.sort();
    for line in kept {
        report.add("lines", file.as_bytes(), line);
    }
}

/// Settings that are texts; what the kernel counts there, or makes anew each time, is left out.
fn settings(report: &mut Report, dir: &Path) {
    let mut paths: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.display().to_string();
        let counts =
            ["random", "ns_last_pid", "pty/nr", "_next_id", "tcp_fastopen_key", "compact", "stat_refresh"];
        if counts.iter().any(|count| name.contains(count)) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            settings(report, &path);
        } else if let Ok(value) = fs::read(&path) {
            report.add("setting", name.as_bytes(), value);
        }
    }
}
