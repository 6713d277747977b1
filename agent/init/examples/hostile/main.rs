//! Tasks that do what they must not, to see that nothing of it lasts: `hostile NAME` does one of them, as does a link of
//! that name to it; `hostile` names all.
//! Each does as much of its mischief as it is let, and ends with 0, unless its mischief is not to end.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

mod attack;
mod leave;
mod stay;

use std::{env, process::ExitCode};

/// A name, and what it does.
type Task = (&'static str, fn());

const TASKS: [Task; 24] = [
    ("write-everywhere", leave::write_everywhere),
    ("full-tmpfs", leave::full_tmpfs),
    ("many-files", leave::many_files),
    ("deep-and-locked", leave::deep_and_locked),
    ("system-v-ipc", leave::system_v_ipc),
    ("posix-ipc", leave::posix_ipc),
    ("bound-ports", leave::bound_ports),
    ("time-wait", leave::time_wait),
    ("flying-sockets", leave::flying_sockets),
    ("daemon", stay::daemon),
    ("double-fork", stay::double_fork),
    ("own-limits", stay::own_limits),
    ("ignore-sigterm", stay::ignore_sigterm),
    ("closed-stdout", stay::closed_stdout),
    ("print-for-ever", stay::print_for_ever),
    ("allocate-for-ever", stay::allocate_for_ever),
    ("fork-bomb", stay::fork_bomb),
    ("kill-all", stay::kill_all),
    ("init-limits", attack::init_limits),
    ("init-signals", attack::init_signals),
    ("init-memory", attack::init_memory),
    ("fake-socket", attack::fake_socket),
    ("flood-socket", attack::flood_socket),
    ("pipes", attack::pipes),
];

fn main() -> ExitCode {
    // Called by a task's name, it needs no argument.
    let called = env::args().next().unwrap_or_default();
    let called = called.rsplit('/').next().filter(|name| TASKS.iter().any(|(task, _)| task == name));
    let wanted = called.map(str::to_owned).or_else(|| env::args().nth(1));
    match TASKS.iter().find(|(name, _)| Some(*name) == wanted.as_deref()) {
        Some((_, task)) => {
            task();
            ExitCode::SUCCESS
        }
        None => {
            TASKS.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::from(if wanted.is_some() { 2 } else { 0 })
        }
    }
}

/// Every place where something is mounted.
fn mount_points() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4).map(String::from)).collect()
}
