//! Starts a command in a session of its own. The child shares init's memory up to exec, see [`child`]; so when the birth
//! returns, the command has been executed, or it is known why not.

mod child;

use crate::{
    frame::Run,
    lookup,
    oom_score::OomScore,
    privileges::{self, TaskUser},
};
use child::{Failure, Orders, Stack, Step};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        stat::{Mode, fchmod},
        wait::waitpid,
    },
    unistd::{Pid, pipe2},
};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr, OsString, c_char},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    ptr, thread,
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

/// Starts one command after another.
#[derive(Debug)]
pub(crate) struct Spawner {
    setting: Setting,
    stack: Stack,
    oom_score: Option<OomScore>,
    found: Option<Found>,
}

/// What the last lookup of a command found. It holds for the next one if tasks can't change the image, and what they could
/// change is as it was.
#[derive(Debug)]
struct Found {
    command: String,
    path: OsString,
    workdir: Option<PathBuf>,
    files: Vec<PathBuf>,
}

/// A command that is being executed.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) leader: Pid,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// How often, and how far apart, a file that someone still writes is tried. init waits, as this hardly ever happens.
const BUSY_TRIES_MAX: u32 = 10;
const BUSY_WAIT_MILLIS: u64 = 10;

/// Everything exec needs, made before.
struct Plan {
    files: Vec<CString>,
    words: Vec<CString>,
    env: Vec<CString>,
    workdir: Option<CString>,
}

impl Spawner {
    /// Makes what children inherit what it has to be: signals are caught or left alone, as exec then resets them;
    /// descriptors close at exec; no groups, no way to more rights.
    ///
    /// # Errors
    /// If the kernel refuses that.
    pub(crate) fn new(setting: Setting) -> io::Result<Self> {
        reset_ignored_signals()?;
        // Old kernels lack the call.
        // SAFETY: only marks descriptors.
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        privileges::limit_heirs(setting.user)?;
        let oom_score = setting.user.and_then(|_| OomScore::open());
        Ok(Self { setting, stack: Stack::new(), oom_score, found: None })
    }

    /// Starts a command.
    ///
    /// # Errors
    /// If it can't be executed; why, for people.
    pub(crate) fn spawn(&mut self, run: &Run) -> Result<Spawned, String> {
        let plan = self.plan(run)?;
        let (stdout, stdout_in_child) = pipe("stdout")?;
        let (stderr, stderr_in_child) = pipe("stderr")?;
        let (stdin_in_child, stdin) = if run.has_stdin { Some(pipe("stdin")?) } else { None }.unzip();
        if self.setting.user.is_some() {
            // A task under another user could otherwise not open /dev/stdout, which leads to a pipe of init's.
            for pipe in [Some(&stdout_in_child), Some(&stderr_in_child), stdin_in_child.as_ref()]
                .into_iter()
                .flatten()
            {
                let _ = fchmod(pipe, Mode::from_bits_truncate(0o666));
            }
        }
        for pipe in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|errno| format!("a pipe can't be made non-blocking: {}", errno.desc()))?;
        }
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
        };
        let (words, env) = (pointers(&plan.words), pointers(&plan.env));
        let files: Vec<_> = plan.files.iter().map(|file| file.as_ptr()).collect();
        let orders = || Orders {
            stdin: stdin_in_child.as_ref().map(AsRawFd::as_raw_fd),
            stdout: stdout_in_child.as_raw_fd(),
            stderr: stderr_in_child.as_raw_fd(),
            user: self.setting.user,
            workdir: plan.workdir.as_deref().map_or(ptr::null(), CStr::as_ptr),
            files: &files,
            words: &words,
            env: &env,
            failure: Failure::default(),
        };
        let raised = self.oom_score.as_ref().map(OomScore::raise);
        let mut born = bear(&orders(), &mut self.stack);
        for _ in 1..BUSY_TRIES_MAX {
            let Ok(Err((Step::Exec(_), Errno::ETXTBSY))) = born else { break };
            thread::sleep(Duration::from_millis(BUSY_WAIT_MILLIS));
            born = bear(&orders(), &mut self.stack);
        }
        drop(raised);
        match born {
            Ok(Ok(leader)) => Ok(Spawned { leader, stdin, stdout, stderr }),
            Ok(Err((step, errno))) => {
                self.found = None;
                Err(explain(step, errno, &plan))
            }
            Err(errno) => Err(format!("no process can be started: {}", errno.desc())),
        }
    }

    fn plan(&mut self, run: &Run) -> Result<Plan, String> {
        let Some(command) = run.command.first() else { return Err("the command is empty".into()) };
        let root = self.setting.root.as_deref();
        let mut env: BTreeMap<&str, OsString> =
            run.env.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
        let path = lookup::search_path(env.get("PATH").and_then(|path| path.to_str()), root);
        env.entry("HOME").or_insert_with(|| "/tmp".into());
        env.insert("PATH", path.clone());
        let workdir = run.workdir.as_ref().map(|dir| {
            let own = root.zip(dir.strip_prefix("/").ok()).map(|(root, inner)| root.join(inner));
            own.filter(|own| own.is_dir()).unwrap_or_else(|| dir.clone())
        });
        let words = run.command.iter().map(|word| text(word.into(), "command")).collect::<Result<_, _>>()?;
        let files = self.files(command, path, workdir.as_deref())?;
        let files = files.iter().map(|file| text(file.into(), "command")).collect::<Result<_, _>>()?;
        let variable = |(name, value)| {
            let mut pair = OsString::from(name);
            pair.push("=");
            pair.push(value);
            text(pair, "environment")
        };
        let env = env.into_iter().map(variable).collect::<Result<_, _>>()?;
        let workdir = workdir.map(|dir| text(dir.into(), "working directory")).transpose()?;
        Ok(Plan { files, words, env, workdir })
    }

    fn files(&mut self, command: &str, path: OsString, workdir: Option<&Path>) -> Result<&[PathBuf], String> {
        let holds = self.setting.user.is_some()
            && self.found.as_ref().is_some_and(|found| {
                found.command == command && found.path == path && found.workdir.as_deref() == workdir
            });
        if !holds {
            let files = lookup::candidates(command, &path, self.setting.root.as_deref(), workdir)?;
            let workdir = workdir.map(Path::to_path_buf);
            self.found = Some(Found { command: command.into(), path, workdir, files });
        }
        Ok(self.found.as_ref().map_or(&[], |found| &found.files))
    }
}

/// The child, or where and why it failed.
fn bear(orders: &Orders<'_>, stack: &mut Stack) -> nix::Result<Result<Pid, (Step, Errno)>> {
    let child = Pid::from_raw(child::start(orders, stack)?);
    let Some(failed) = orders.failure.get() else { return Ok(Ok(child)) };
    // It has nothing more to do than to end.
    while waitpid(child, None) == Err(Errno::EINTR) {}
    Ok(Err(failed))
}

fn pipe(what: &str) -> Result<(OwnedFd, OwnedFd), String> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| format!("no pipe for the command's {what}: {}", errno.desc()))
}

/// exec keeps ignored signals ignored, but resets caught ones. So those that init was started with, and SIGPIPE, are
/// caught to no effect instead, and no child has to care.
fn reset_ignored_signals() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // glibc keeps two signals for itself, and refuses to speak of them; the kernel does not. In its own form of an action,
    // all zeroes mean the default too.
    for signal in 32..libc::SIGRTMIN() {
        let default = [0_u64; 4];
        // SAFETY: the action is a live value of the length that the kernel reads.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u8>(), 8_usize)
        };
    }
    for signal in (1..32).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        // SAFETY: both actions are live values, for which all zeroes means the default; the handler does nothing, so it
        // may run at any time, also in a child that shares init's memory.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            Errno::result(libc::sigaction(signal, ptr::null(), &raw mut action))?;
            if action.sa_sigaction != libc::SIG_IGN {
                continue;
            }
            action = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            Errno::result(libc::sigaction(signal, &raw const action, ptr::null_mut()))?;
        }
    }
    Ok(())
}

fn text(text: OsString, whose: &str) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|_| format!("the {whose} has a zero byte in it"))
}

fn explain(step: Step, errno: Errno, plan: &Plan) -> String {
    let path = |string: &CString| PathBuf::from(OsStr::from_bytes(string.as_bytes()));
    match step {
        Step::Setup => format!("the command's process can't be set up: {}", errno.desc()),
        Step::User => format!("the command's user can't be changed: {}", errno.desc()),
        Step::Workdir => bad_workdir(&plan.workdir.as_ref().map(path).unwrap_or_default(), errno),
        Step::Exec(file) => bad_file(&plan.files.get(file).map(path).unwrap_or_default(), errno),
    }
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
