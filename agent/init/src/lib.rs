//! The init of a worker: a small static Linux program that runs attempts one after another for the agent outside.
//!
//! It listens on a Unix socket and serves one connection; a newer one replaces it. It spawns the command, feeds and
//! drains it, holds it to its limits, collects every process, and keeps output and exit until the agent has them. It
//! needs nothing of the image, and nobody but the agent. One thread does all that and never waits for one thing alone.
//!
//! The agent uses [`frame`] to speak to it, and [`identity`] and friends to find it again.

mod args;
mod attempt;
mod buffer;
mod counters;
mod daemon;
pub mod frame;
mod guard;
mod link;
mod lookup;
mod mounts;
mod oom_score;
mod output;
mod privileges;
mod reap;
mod runs;
mod server;
mod spawn;
mod stdin;
mod warm;

pub use daemon::{identity, running};
pub use reap::descendants;

use crate::{
    args::Args,
    attempt::Host,
    counters::Counters,
    daemon::Launched,
    guard::Guard,
    server::Server,
    spawn::{Setting, Spawner},
};
use nix::{
    sys::{
        prctl,
        stat::{Mode, umask},
    },
    unistd::{Pid, chdir},
};
use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
};

/// Runs init with the words of its command line, without the program's name.
///
/// # Errors
/// If it can't listen, or the kernel refuses what it can't do without.
pub fn run(words: impl Iterator<Item = OsString>) -> io::Result<()> {
    let args = Args::parse(words).map_err(io::Error::other)?;
    if args.probe {
        return daemon::probe();
    }
    if let Some(pid_file) = &args.pid_file
        && let Launched::Launcher = daemon::launch(pid_file, args.isolate)?
    {
        return Ok(());
    }
    let is_pid_1 = Pid::this().as_raw() == 1;
    if !is_pid_1 {
        prctl::set_child_subreaper(true)?;
    }
    umask(Mode::from_bits_truncate(0o022));
    let listener = listen(&args.socket)?;
    // In the socket's directory, which is the current one now; later init might not be allowed to.
    let begun = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(frame::BEGUN)?;
    // Some engines give a tmpfs the mode of the directory that it is mounted on, and not the one they were told. Its
    // root is init's own, so init can do that without a right of its own.
    for place in &args.writable {
        fs::set_permissions(place, fs::Permissions::from_mode(0o1777)).map_err(|error| {
            io::Error::other(format!("{} can't be made writable for tasks: {error}", place.display()))
        })?;
    }
    chdir(args.workdir.as_deref().unwrap_or(Path::new("/")))?;
    privileges::hide_init()?;
    let spawner = Spawner::new(Setting { root: args.root, user: args.task_user })?;
    if args.task_user.is_some() {
        privileges::keep_init_capabilities()?;
    }
    if is_pid_1 {
        warm::warm_up();
    }
    let guard = args.task_user.filter(|_| is_pid_1).map(Guard::new).transpose()?;
    let counters = Counters::find();
    let counts = counters.read();
    Server::new(listener, guard, Host { is_pid_1, spawner, counters, counts, begun })?.serve()
}

/// Listens at a path of any length: only the last part of it goes into the address. Whoever can reach the directory may
/// connect; it is for the directory to be nobody else's.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let name = socket.file_name().ok_or_else(|| io::Error::other("the socket's path has no file name"))?;
    if let Some(dir) = socket.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        chdir(dir)?;
    }
    // Bound under another name first, so that the socket is there only when it can be connected to.
    let mut draft = name.to_os_string();
    draft.push(".new");
    let _ = fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o666))?;
    fs::rename(&draft, name)?;
    Ok(listener)
}
