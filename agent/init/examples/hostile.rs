//! Tasks that do what they can to outlive themselves, or to get at their init. Each is named by the one argument; what
//! it is refused it passes over, and it always ends by itself, with exit code 0, unless its name says otherwise. `probe`
//! becomes the program beside it that tells what a task sees; `list` tells the names.

use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask},
        socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, bind, listen, socket},
        stat::{Mode, umask},
    },
    unistd::{ForkResult, Pid, fork, pause, setsid},
};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt, symlink},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

/// More than any sane number of tries at one thing.
const TRIES_MAX: usize = 20_000;

/// Where init listens, as a task may guess.
const INIT_SOCKET: &str = "/.piecework/socket/init.sock";

/// All of them, by name.
const TASKS: [(&str, fn()); 21] = [
    ("writes-everywhere", writes_everywhere),
    ("fills-every-disk", fills_every_disk),
    ("uses-up-inodes", uses_up_inodes),
    ("deep-and-closed-directories", deep_and_closed_directories),
    ("changes-what-is-there", changes_what_is_there),
    ("daemon", one_daemon),
    ("many-daemons", many_daemons),
    ("fork-bomb", fork_bomb),
    ("system-v-ipc", system_v_ipc),
    ("posix-ipc", posix_ipc),
    ("bound-ports", bound_ports),
    ("own-limits", own_limits),
    ("limits-of-init", limits_of_init),
    ("signals-to-init", signals_to_init),
    ("memory-of-init", memory_of_init),
    ("fake-socket", fake_socket),
    ("socket-flood", socket_flood),
    ("holds-its-stdout", holds_its_stdout),
    ("timers", timers),
    ("open-files", open_files),
    ("kills-everyone", kills_everyone),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        let _ = TASKS.iter().try_for_each(|(name, _)| writeln!(std::io::stdout(), "{name}"));
        return ExitCode::SUCCESS;
    }
    if name == "probe" {
        // Nothing of this program is left in it, not even a word of its command line.
        let _ = nix::unistd::execv(c"/bin/probe", &[c"probe"]);
        return ExitCode::from(65);
    }
    match TASKS.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => {
            run();
            ExitCode::SUCCESS
        }
        None => ExitCode::from(64),
    }
}

/// Every directory that can be reached, kernel interfaces left out.
fn directories() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        next += 1;
        if found.len() > TRIES_MAX {
            break;
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let kernel = ["/proc", "/sys"].iter().any(|kernel| path == Path::new(kernel));
            if !kernel && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(path);
            }
        }
    }
    found
}

/// Those in which a file can be made.
fn writable() -> Vec<PathBuf> {
    directories()
        .into_iter()
        .filter(|dir| {
            let file = dir.join("can-this-be-written");
            let made = File::create(&file).is_ok();
            let _ = fs::remove_file(file);
            made
        })
        .collect()
}

/// Runs something in a process that nobody waits for, and that ignores every signal.
fn in_background(run: impl Fn()) {
    // SAFETY: this program has one thread.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        let _ = setsid();
        // SAFETY: as above.
        if let Ok(ForkResult::Child) = unsafe { fork() } {
            ignore_signals();
            run();
            loop {
                pause();
            }
        }
        // SAFETY: ends the child without running anything that belongs to its parent.
        unsafe { libc::_exit(0) }
    }
}

fn ignore_signals() {
    for ignored in Signal::iterator() {
        // SAFETY: ignoring runs no code of ours.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
}

fn writes_everywhere() {
    for dir in directories() {
        let at = |name: &str| dir.join(name);
        let _ = fs::write(at(".hidden"), "left behind");
        let _ = fs::write(at("with\nnewline \u{1f980}"), [0; 5000]);
        let _ = fs::create_dir_all(at("a/b/c"));
        let _ = fs::write(at("a/b/c/file"), "deep");
        let _ = fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o000));
        let _ = symlink("/etc", at("link"));
        let _ = symlink("/", at("loop"));
        let _ = UnixListener::bind(at("socket"));
        let _ = nix::unistd::mkfifo(&at("fifo"), Mode::empty());
        let mut options = OpenOptions::new();
        let _ = options.write(true).create(true).mode(0o4755).open(at("set-uid"));
        let _ = fs::hard_link(at(".hidden"), at("hard"));
        let _ = fs::rename(at("hard"), at("renamed"));
    }
    for device in ["/dev/null", "/dev/zero", "/dev/full"] {
        let _ = fs::remove_file(device);
        let _ = fs::write(device, "not kept");
    }
}

fn fills_every_disk() {
    let chunk = vec![0x55; 1 << 20];
    for dir in writable() {
        let Ok(mut file) = File::create(dir.join("full")) else { continue };
        for _ in 0..TRIES_MAX {
            if file.write_all(&chunk).is_err() {
                break;
            }
        }
    }
}

fn uses_up_inodes() {
    for dir in writable() {
        for number in 0..TRIES_MAX {
            if File::create(dir.join(number.to_string())).is_err() {
                break;
            }
        }
    }
}

fn deep_and_closed_directories() {
    for dir in writable() {
        let name = "d".repeat(200);
        if std::env::set_current_dir(&dir).is_err() {
            continue;
        }
        // Deeper than any path may be long.
        for _ in 0..60 {
            if fs::create_dir(&name).is_err() || std::env::set_current_dir(&name).is_err() {
                break;
            }
            let _ = fs::write("file", "x");
            let _ = fs::set_permissions(".", fs::Permissions::from_mode(0o000));
        }
        let closed = dir.join("closed");
        let _ = fs::create_dir(&closed);
        let _ = fs::write(closed.join("file"), "x");
        let _ = fs::set_permissions(closed.join("file"), fs::Permissions::from_mode(0o000));
        let _ = fs::set_permissions(&closed, fs::Permissions::from_mode(0o000));
    }
}

fn changes_what_is_there() {
    for dir in directories() {
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o777));
        let _ = std::os::unix::fs::chown(&dir, Some(65532), Some(65532));
        if let Ok(path) = CString::new(dir.as_os_str().as_encoded_bytes()) {
            for name in [c"user.left", c"trusted.left", c"security.left", c"system.posix_acl_access"] {
                // SAFETY: all pointers are to live strings, and the length is theirs.
                unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), c"x".as_ptr().cast(), 1, 0) };
            }
            let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }; 2];
            // SAFETY: the path and the two times are live.
            unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) };
            // SAFETY: all pointers are to live strings.
            unsafe { libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()) };
            // SAFETY: as above.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = OpenOptions::new()
                .append(true)
                .open(entry.path())
                .filter_regular()
                .map(|mut file| file.write_all(b"x"));
            let _ = fs::rename(entry.path(), dir.join("renamed-away"));
        }
    }
    let _ = nix::unistd::sethostname("hostile");
    let _ = fs::write("/proc/sys/kernel/shmmax", "1");
    let _ = fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    // SAFETY: none of these flags takes a pointer.
    unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
}

/// Devices are not written to: that would only be their use.
trait FilterRegular {
    fn filter_regular(self) -> Option<File>;
}

impl FilterRegular for std::io::Result<File> {
    fn filter_regular(self) -> Option<File> {
        self.ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
    }
}

fn one_daemon() {
    in_background(|| {
        // Nothing of its own is open, and it stands elsewhere.
        // SAFETY: nothing is used after this that needs a file.
        unsafe { libc::close_range(0, u32::MAX, 0) };
        let _ = std::env::set_current_dir("/tmp");
    });
}

fn many_daemons() {
    for _ in 0..100 {
        in_background(|| {});
    }
}

/// Until the limit refuses it; none of them ends by itself.
fn fork_bomb() {
    for _ in 0..TRIES_MAX {
        // SAFETY: this program has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                ignore_signals();
                let _ = setsid();
                loop {
                    // SAFETY: as above.
                    if unsafe { fork() }.is_err_and(|errno| errno == Errno::EAGAIN) {
                        pause();
                    }
                }
            }
            Ok(ForkResult::Parent { .. }) => {}
            Err(_) => return,
        }
    }
}

fn system_v_ipc() {
    for key in [libc::IPC_PRIVATE, 1, 2, 3] {
        let flags = libc::IPC_CREAT | if key == 3 { 0 } else { 0o600 };
        // SAFETY: takes numbers only.
        let memory = unsafe { libc::shmget(key, 100_000, flags) };
        // SAFETY: the kernel chooses the address; nothing is done with it.
        unsafe { libc::shmat(memory, std::ptr::null(), 0) };
        // SAFETY: takes numbers only.
        unsafe { libc::semget(key, 100, flags) };
        // SAFETY: takes numbers only.
        let queue = unsafe { libc::msgget(key, flags) };
        let message = [1_i64, 2, 3, 4];
        // SAFETY: the message is live, and longer than is said.
        unsafe { libc::msgsnd(queue, message.as_ptr().cast(), 16, libc::IPC_NOWAIT) };
    }
    in_background(|| {
        // SAFETY: takes numbers only; the address is the kernel's to choose.
        unsafe { libc::shmat(libc::shmget(libc::IPC_PRIVATE, 5000, 0o600), std::ptr::null(), 0) };
    });
}

fn posix_ipc() {
    for number in 0..5 {
        if let Ok(name) = CString::new(format!("/left-{number}")) {
            let mode = if number == 0 { 0 } else { 0o600 };
            // SAFETY: the name is a live string; no attributes are given.
            unsafe {
                libc::mq_open(name.as_ptr(), libc::O_CREAT | libc::O_RDWR, mode, std::ptr::null::<u8>())
            };
            // SAFETY: the name is a live string.
            let memory = unsafe { libc::shm_open(name.as_ptr(), libc::O_CREAT | libc::O_RDWR, mode) };
            // SAFETY: takes numbers only.
            unsafe { libc::ftruncate(memory, 100_000) };
        }
    }
    let _ = fs::create_dir("/dev/mqueue/dir");
    let _ = fs::write("/dev/mqueue/file", "x");
}

fn bound_ports() {
    in_background(|| {
        for port in [80, 8080, 5000, 65535] {
            for kind in [SockType::Stream, SockType::Datagram] {
                let Ok(made) = socket(AddressFamily::Inet, kind, SockFlag::empty(), None) else { continue };
                let _ = bind(made.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port));
                let _ = listen(&made, Backlog::MAXCONN);
                let _ = made.into_raw_fd();
            }
        }
        if let (Ok(made), Ok(name)) = (
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None),
            UnixAddr::new_abstract(b"init.sock"),
        ) {
            let _ = bind(made.as_raw_fd(), &name);
            let _ = listen(&made, Backlog::MAXCONN);
            let _ = made.into_raw_fd();
        }
    });
}

fn own_limits() {
    umask(Mode::empty());
    // SAFETY: these take numbers only.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::setpriority(libc::PRIO_USER, 0, 19);
        libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_000_000);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13);
        let parameters = std::mem::zeroed::<libc::sched_param>();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters);
        let mut first = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(0, &mut first);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const first);
    }
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let _ = fs::write("/proc/self/coredump_filter", "0");
    let _ = fs::write("/proc/self/autogroup", "19");
    ignore_signals();
    for limit in [
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_MSGQUEUE,
        Resource::RLIMIT_SIGPENDING,
    ] {
        let _ = setrlimit(limit, 1, 1);
    }
}

fn limits_of_init() {
    let small = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: the limit is live; the other calls take numbers and live sets only.
    unsafe {
        for limit in
            [libc::RLIMIT_NOFILE, libc::RLIMIT_NPROC, libc::RLIMIT_FSIZE, libc::RLIMIT_AS, libc::RLIMIT_CPU]
        {
            libc::prlimit(1, limit, &raw const small, std::ptr::null_mut());
        }
        libc::setpriority(libc::PRIO_PROCESS, 1, 19);
        libc::setpriority(libc::PRIO_PGRP, 1, 19);
        let mut first = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(0, &mut first);
        libc::sched_setaffinity(1, size_of::<libc::cpu_set_t>(), &raw const first);
        let parameters = std::mem::zeroed::<libc::sched_param>();
        libc::sched_setscheduler(1, libc::SCHED_IDLE, &raw const parameters);
        libc::syscall(libc::SYS_ioprio_set, 1, 1, 3 << 13);
    }
    for (name, value) in [
        ("oom_score_adj", "1000"),
        ("autogroup", "19"),
        ("comm", "x"),
        ("timerslack_ns", "1000000"),
        ("clear_refs", "1"),
    ] {
        let _ = fs::write(format!("/proc/1/{name}"), value);
    }
    let _ = getrlimit(Resource::RLIMIT_NOFILE);
}

fn signals_to_init() {
    for sent in Signal::iterator() {
        let _ = kill(Pid::from_raw(1), sent);
    }
    // SAFETY: no information is given with the signal.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, 1, 1, libc::SIGTERM, std::ptr::null::<u8>()) };
}

fn memory_of_init() {
    let one = Pid::from_raw(1);
    let _ = nix::sys::ptrace::attach(one);
    let _ = nix::sys::ptrace::seize(one, nix::sys::ptrace::Options::empty());
    for name in ["mem", "maps", "environ", "auxv", "stack", "syscall", "pagemap"] {
        let path = format!("/proc/1/{name}");
        let _ = fs::read(&path).is_err() && fs::write(&path, [0; 8]).is_err();
    }
    for entry in ["root", "cwd", "exe", "fd/0", "fd/3", "fd/4", "fd/5", "map_files"] {
        let path = Path::new("/proc/1").join(entry);
        let _ = (fs::read_link(&path), File::open(&path), fs::read_dir(&path));
    }
    let mut byte = [0_u8; 8];
    let own = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 8 };
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x40_0000), iov_len: 8 };
    // SAFETY: our buffer is live; the other address is only used in the other process, and refused.
    unsafe {
        libc::process_vm_readv(1, &raw const own, 1, &raw const theirs, 1, 0);
        libc::process_vm_writev(1, &raw const own, 1, &raw const theirs, 1, 0);
        let init = libc::syscall(libc::SYS_pidfd_open, 1, 0);
        libc::syscall(libc::SYS_pidfd_getfd, init, 3, 0);
        libc::syscall(libc::SYS_pidfd_send_signal, init, libc::SIGKILL, 0, 0);
        libc::syscall(libc::SYS_kcmp, 1, std::process::id(), 0, 0, 0);
    }
}

fn fake_socket() {
    let dir = Path::new("/.piecework/socket");
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o777));
    let _ = fs::remove_file(INIT_SOCKET);
    let _ = fs::rename(INIT_SOCKET, "/tmp/init.sock");
    let _ = fs::rename(dir, "/.piecework/away");
    let _ = fs::create_dir_all(dir);
    let _ = fs::write(dir.join("begun"), [0xff; 8]);
    let _ = fs::write("/.piecework/init", "#!/bin/sh\n");
    let _ = UnixListener::bind(INIT_SOCKET);
    in_background(|| {
        let listener = UnixListener::bind("/tmp/init.sock");
        while let Ok((mut peer, _)) =
            listener.as_ref().map_or(Err(std::io::ErrorKind::Other.into()), UnixListener::accept)
        {
            let _ = peer.write_all(&[0xff; 1000]);
        }
    });
}

/// Connects again and again, and talks nonsense where it is let in.
fn socket_flood() {
    for _ in 0..2_000 {
        for path in [
            INIT_SOCKET,
            "/.piecework/socket",
            "/proc/1/root/.piecework/socket/init.sock",
            "/proc/1/cwd/init.sock",
        ] {
            if let Ok(mut stream) = UnixStream::connect(path) {
                let _ = stream.write_all(&[0xff; 4096]);
                let _ = stream.into_raw_fd();
            }
        }
    }
}

/// Somebody goes on to print after the task has ended.
fn holds_its_stdout() {
    in_background(|| {
        loop {
            let _ = std::io::stdout().write_all(b"after the end\n");
        }
    });
}

fn timers() {
    in_background(|| {
        let soon = libc::timeval { tv_sec: 0, tv_usec: 1000 };
        let value = libc::itimerval { it_interval: soon, it_value: soon };
        // SAFETY: the value is live; the descriptor is a number.
        unsafe {
            libc::setitimer(libc::ITIMER_REAL, &raw const value, std::ptr::null_mut());
            libc::timerfd_create(libc::CLOCK_MONOTONIC, 0);
            libc::alarm(1);
        }
    });
}

fn open_files() {
    in_background(|| {
        for dir in ["/tmp", "/dev/shm", "/run"] {
            let path = Path::new(dir).join("deleted");
            if let Ok(mut file) = File::create(&path) {
                let _ = file.write_all(&vec![1; 1 << 20]);
                let _ = fs::remove_file(&path);
                let _ = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND));
                let _ = file.into_raw_fd();
            }
        }
        for _ in 0..TRIES_MAX {
            // SAFETY: the name is a live string.
            if unsafe { libc::memfd_create(c"left".as_ptr(), 0) } < 0 {
                break;
            }
        }
        // SAFETY: both take numbers only.
        unsafe { libc::inotify_init1(0) };
        // SAFETY: as above.
        unsafe { libc::epoll_create1(0) };
    });
}

/// Ends by SIGKILL, its own.
fn kills_everyone() {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let _ = kill(Pid::from_raw(0), Signal::SIGKILL);
}
