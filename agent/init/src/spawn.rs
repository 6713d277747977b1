//! Starts a command in a session of its own. What goes wrong between fork and exec comes back through a pipe that exec
//! closes, as text for people.

use crate::{
    frame::Run,
    lookup,
    privileges::{self, TaskUser},
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open},
    sys::{
        prctl,
        signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
        stat::{Mode, fchmod},
    },
    unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, setsid},
};
use std::{
    collections::BTreeMap,
    ffi::{CString, OsString},
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// What does not change from task to task.
#[derive(Debug, Default)]
pub(crate) struct Setting {
    /// Stands in for an image's root.
    pub(crate) root: Option<PathBuf>,
    /// Whom tasks run as; none means as init.
    pub(crate) user: Option<TaskUser>,
}

/// A command that was forked, though perhaps not executed yet.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) leader: Pid,
    /// Ends without a byte when the command is executed; else says why it was not.
    pub(crate) failure: OwnedFd,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// How often, and how far apart, a file that someone still writes is tried.
const BUSY_TRIES_MAX: u32 = 10;
const BUSY_WAIT_MILLIS: u64 = 10;

/// How much sooner than others a task is chosen when memory runs out: init outlives it, and so does the host.
const OOM_SCORE: &str = "500";

/// Everything exec needs, made before the fork.
struct Plan {
    files: Vec<CString>,
    words: Vec<CString>,
    env: Vec<CString>,
    workdir: Option<PathBuf>,
    user: Option<TaskUser>,
}

/// Starts a command.
///
/// # Errors
/// If it can't even be forked; why, for people.
pub(crate) fn spawn(run: &Run, setting: &Setting) -> Result<Spawned, String> {
    let plan = plan(run, setting)?;
    let pipes = |what: &str| {
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| format!("no pipe for the command's {what}: {}", errno.desc()))
    };
    let (failure, failure_in_child) = pipes("start")?;
    let (stdout, stdout_in_child) = pipes("stdout")?;
    let (stderr, stderr_in_child) = pipes("stderr")?;
    let (stdin_in_child, stdin) = if run.has_stdin {
        let (read, write) = pipes("stdin")?;
        (read, Some(write))
    } else {
        let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        (null.map_err(|errno| format!("/dev/null can't be opened: {}", errno.desc()))?, None)
    };
    // A task under another user could otherwise not open /dev/stdout, which leads to a pipe of init's.
    for pipe in [&stdout_in_child, &stderr_in_child] {
        let _ = fchmod(pipe, Mode::from_bits_truncate(0o666));
    }
    for pipe in [Some(&failure), Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| format!("a pipe can't be made non-blocking: {}", errno.desc()))?;
    }

    // SAFETY: init has one thread, so the child may do whatever init may.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Spawned { leader: child, failure, stdin, stdout, stderr }),
        Ok(ForkResult::Child) => {
            let why = execute(&plan, &stdin_in_child, &stdout_in_child, &stderr_in_child);
            let _ = File::from(failure_in_child).write_all(why.as_bytes());
            // SAFETY: ends the child without running anything that belongs to init.
            unsafe { libc::_exit(127) }
        }
        Err(errno) => Err(format!("no process can be started: {}", errno.desc())),
    }
}

fn plan(run: &Run, setting: &Setting) -> Result<Plan, String> {
    let Some(command) = run.command.first() else { return Err("the command is empty".into()) };
    let root = setting.root.as_deref();
    let mut env: BTreeMap<&str, OsString> =
        run.env.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
    let path = lookup::search_path(env.get("PATH").and_then(|path| path.to_str()), root);
    env.entry("HOME").or_insert_with(|| "/tmp".into());
    env.insert("PATH", path.clone());
    let workdir = run.workdir.as_ref().map(|dir| {
        let own = root.zip(dir.strip_prefix("/").ok()).map(|(root, inner)| root.join(inner));
        own.filter(|own| own.is_dir()).unwrap_or_else(|| dir.clone())
    });
    let files = lookup::candidates(command, &path, root, workdir.as_deref())?;
    Ok(Plan {
        files: files.into_iter().map(|file| text(file.into(), "command")).collect::<Result<_, _>>()?,
        words: run.command.iter().map(|word| text(word.into(), "command")).collect::<Result<_, _>>()?,
        env: env
            .into_iter()
            .map(|(name, value)| {
                let mut pair = OsString::from(name);
                pair.push("=");
                pair.push(value);
                text(pair, "environment")
            })
            .collect::<Result<_, _>>()?,
        workdir,
        user: setting.user,
    })
}

fn text(text: OsString, whose: &str) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|_| format!("the {whose} has a zero byte in it"))
}

/// Runs in the child. Returns only if the command can't be executed, and says why.
fn execute(plan: &Plan, stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> String {
    if let Err(why) = detach(stdin, stdout, stderr) {
        return format!("the command's process can't be set up: {}", why.desc());
    }
    if plan.user.is_some() {
        // Without /proc it stays as it is; that is no reason to fail.
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    }
    if let Err(why) = privileges::become_task(plan.user) {
        return format!("the command's user can't be changed: {why}");
    }
    // After the change of user, which would undo it.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if let Some(dir) = &plan.workdir
        && let Err(errno) = chdir(dir)
    {
        return bad_workdir(dir, errno);
    }
    let mut why = String::new();
    for file in &plan.files {
        let mut errno = Errno::UnknownErrno;
        for _ in 0..BUSY_TRIES_MAX {
            let Err(error) = execve(file, &plan.words, &plan.env);
            errno = error;
            if errno != Errno::ETXTBSY {
                break;
            }
            thread::sleep(Duration::from_millis(BUSY_WAIT_MILLIS));
        }
        why = bad_file(Path::new(std::ffi::OsStr::from_bytes(file.as_bytes())), errno);
        if errno != Errno::EACCES && errno != Errno::ENOENT {
            break;
        }
    }
    why
}

/// A session and process group of its own, signals as a fresh process has them, and no file but the three.
fn detach(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> nix::Result<()> {
    setsid()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    dup2_stdin(stdin.as_fd())?;
    dup2_stdout(stdout.as_fd())?;
    dup2_stderr(stderr.as_fd())?;
    // All of init's own are close-on-exec; whatever it was started with may not be. Old kernels lack the call.
    // SAFETY: only marks descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

fn bad_workdir(dir: &Path, errno: Errno) -> String {
    let dir = dir.display();
    match errno {
        Errno::ENOENT => format!("the working directory `{dir}` does not exist"),
        Errno::ENOTDIR => format!("the working directory `{dir}` is not a directory"),
        _ => format!("the working directory `{dir}` can't be entered: {}", errno.desc()),
    }
}

fn bad_file(file: &Path, errno: Errno) -> String {
    let name = file.display();
    match errno {
        Errno::ENOENT if file.exists() => format!(
            "the command `{name}` is there, but the interpreter or dynamic loader that it names is not: \
             a script needs its `#!` program, and a program needs its libraries, or to be linked statically"
        ),
        Errno::ENOENT | Errno::ENOTDIR => format!("the command `{name}` does not exist"),
        Errno::EACCES if file.is_dir() => format!("the command `{name}` is a directory"),
        Errno::EACCES => {
            format!("{} for the task's user, or its file system forbids it", lookup::not_executable(file))
        }
        Errno::ENOEXEC => format!(
            "the command `{name}` is no program for this machine: neither a binary for its processor, nor a script \
             that starts with `#!`"
        ),
        Errno::E2BIG => {
            format!("the command `{name}` can't be started: its arguments and environment are too long")
        }
        _ => format!("the command `{name}` can't be executed: {}", errno.desc()),
    }
}
