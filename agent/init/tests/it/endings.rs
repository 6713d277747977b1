//! Every way in which an attempt can end.

use crate::client::{Init, check_outcome, command, lives, path_in, run, shell, wait_until};
use piecework_init::frame::{Outcome, Run};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

#[test]
fn exit_codes_and_both_streams() {
    let (exit, link) = check_outcome(shell("echo out; echo err >&2; exit 3"), &Outcome::Exited(3));
    assert_eq!((link.stdout().as_str(), link.stderr().as_str()), ("out\n", "err\n"));
    assert!(
        link.started && exit.usage.wall_micros > 0 && exit.usage.peak_memory_bytes > 0,
        "{:?}",
        exit.usage
    );
    check_outcome(command(&["true"]), &Outcome::Exited(0));
}

#[test]
fn signals_of_others() {
    check_outcome(shell("kill -USR1 $$"), &Outcome::Signaled(libc::SIGUSR1));
    check_outcome(shell("kill -9 $$"), &Outcome::Signaled(libc::SIGKILL));
    check_outcome(shell("kill -PIPE $$"), &Outcome::Signaled(libc::SIGPIPE));
}

#[test]
fn the_timeout_ends_a_polite_task_at_once_and_a_stubborn_one_after_the_grace() {
    let timeout = Some(Duration::from_millis(100));
    let polite = shell("trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done");
    let (_, link) = check_outcome(Run { timeout, ..polite }, &Outcome::TimedOut);
    assert_eq!(link.stdout(), "bye\n");

    let since = Instant::now();
    check_outcome(Run { timeout, ..shell("trap '' TERM; while :; do sleep 1; done") }, &Outcome::TimedOut);
    assert!(since.elapsed() >= Duration::from_secs(2));
    check_outcome(Run { timeout, ..shell("kill -STOP $$") }, &Outcome::TimedOut);
}

#[test]
fn cancelling_ends_the_whole_group() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait; wait"));
    link.read_until("\n");
    let child = link.stdout().trim().parse().unwrap();
    assert!(lives(child));
    link.kill(Duration::from_millis(50));
    assert_eq!(link.finish().outcome, Outcome::Cancelled);
    assert!(!lives(child));
    // A kill that comes late is no fault, and the next attempt can come.
    link.kill(Duration::ZERO);
    link.run(shell("echo next"));
    assert_eq!(link.finish().outcome, Outcome::Exited(0));
    assert_eq!(link.stdout(), "next\n");
}

/// The signal meets a process that has only been forked, in any stage of becoming the command.
#[test]
fn cancelling_right_after_the_start_is_not_lost() {
    let init = Init::start(&[]);
    let mut link = init.idle();
    for _ in 0..50 {
        link.run(command(&["sleep", "600"]));
        link.kill(Duration::from_secs(600));
        assert_eq!(link.finish().outcome, Outcome::Cancelled);
    }
}

#[test]
fn the_output_limit_counts_both_streams_and_is_exact() {
    let limit = |script, output_bytes_max| Run { output_bytes_max, ..shell(script) };
    let (exit, _) = run(limit("printf 12345; printf 67890 >&2", 10));
    assert_eq!(exit.outcome, Outcome::Exited(0));
    let (exit, link) = run(limit("printf 12345; sleep 0.1; printf 678901 >&2", 10));
    assert_eq!(exit.outcome, Outcome::OutputLimit);
    assert_eq!((link.stdout().as_str(), link.stderr().as_str()), ("12345", "67890"));
    let (exit, _) = run(limit("while :; do echo abcdefghijklmnopqrstuvwxyz; done", 100_000));
    assert_eq!((exit.outcome, exit.stdout_length), (Outcome::OutputLimit, 100_000));
    let (exit, _) = run(limit("printf x", 0));
    assert_eq!((exit.outcome, exit.stdout_length), (Outcome::OutputLimit, 0));
}

#[track_caller]
fn check_could_not_start(attempt: Run, parts: &[&str]) {
    let (exit, link) = run(attempt);
    let Outcome::CouldNotStart(why) = &exit.outcome else { panic!("{exit:?}") };
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    assert!(!link.started && exit.stdout_length == 0);
}

#[test]
fn what_can_t_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name, mode, contents: &str| {
        let (path, text) = path_in(dir.path(), name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        text
    };
    check_could_not_start(
        command(&["no-such-tool"]),
        &["`no-such-tool` was not found in PATH (/usr/local/sbin:"],
    );
    check_could_not_start(command(&["/no/such/tool"]), &["`/no/such/tool` does not exist"]);
    check_could_not_start(command(&[]), &["the command is empty"]);
    check_could_not_start(command(&["/usr"]), &["`/usr` is a directory"]);
    check_could_not_start(command(&[&file("data", 0o644, "x")]), &["/data`", "is not executable"]);
    check_could_not_start(command(&[&file("noexec", 0o755, "x")]), &["is no program for this machine"]);
    check_could_not_start(command(&[&file("script", 0o755, "#!/no/shell\n")]), &["interpreter"]);
    check_could_not_start(command(&["true", "a\0b"]), &["zero byte"]);
    let in_dir = |dir: &str| Run { workdir: Some(dir.into()), ..command(&["true"]) };
    check_could_not_start(in_dir("/no/such/dir"), &["working directory `/no/such/dir` does not exist"]);
    check_could_not_start(in_dir("/etc/passwd"), &["`/etc/passwd` is not a directory"]);
    let long = "x".repeat(200_000);
    check_could_not_start(command(&["true", &long]), &["arguments and environment are too long"]);
}

#[test]
fn the_environment_is_the_task_s_alone() {
    let env = vec![("A".into(), "1".into()), ("A".into(), "2".into())];
    let (_, link) = check_outcome(Run { env, ..command(&["env"]) }, &Outcome::Exited(0));
    let mut lines: Vec<_> = link.stdout().lines().map(String::from).collect();
    lines.sort();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=2", "HOME=/tmp", path]);
    let env = vec![("PATH".into(), "/nowhere".into())];
    check_could_not_start(Run { env, ..command(&["env"]) }, &["`env` was not found in PATH (/nowhere)"]);
}

#[test]
fn the_working_directory_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let workdir = Some(dir.path().to_path_buf());
    let (_, link) = check_outcome(Run { workdir, ..command(&["pwd"]) }, &Outcome::Exited(0));
    assert_eq!(link.stdout().trim(), dir.path().canonicalize().unwrap().to_str().unwrap());
}

#[test]
fn a_task_starts_with_nothing_but_its_three_files_and_default_signals() {
    let (_, link) = check_outcome(shell("ls /proc/self/fd; cat /proc/self/status"), &Outcome::Exited(0));
    let stdout = link.stdout();
    // 3 is the directory that ls reads.
    assert!(stdout.starts_with("0\n1\n2\n3\nName:"), "{stdout}");
    let field = |name| stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(u64::from_str_radix(field("SigBlk:"), 16), Ok(0));
    assert_eq!(u64::from_str_radix(field("SigIgn:"), 16), Ok(0));
}

#[test]
fn what_a_task_leaves_behind_is_killed_and_does_not_delay_the_end() {
    let since = Instant::now();
    // A background process in the group, one in a session of its own, and a double-forked daemon; all hold the pipes.
    let script = "sleep 600 & echo $!; setsid sleep 600 & echo $!; (setsid sh -c 'echo $$; exec sleep 600' &); sleep 0.2";
    let (exit, link) = check_outcome(shell(script), &Outcome::Exited(0));
    assert!(since.elapsed() < Duration::from_secs(60));
    let pids: Vec<i32> = link.stdout().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3, "{}", link.stdout());
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
    assert!(exit.usage.wall_micros >= 200_000);
}

#[test]
fn the_usage_counts_what_was_left_to_init_too() {
    let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let (exit, _) =
        run(shell(&format!("(sh -c '{burn}' &) ; {burn}; while pgrep -f notthere$$; do :; done")));
    assert!(exit.usage.user_micros + exit.usage.system_micros > 10_000, "{:?}", exit.usage);
}

#[test]
fn init_ends_everything_when_it_is_told_to_end() {
    let mut init = Init::start(&[]);
    let mut link = init.idle();
    link.run(shell("trap '' TERM; setsid sleep 600 & echo $!; while :; do sleep 1; done"));
    link.read_until("\n");
    let pid: i32 = link.stdout().trim().parse().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(init.child.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(init.child.wait().unwrap().success());
    wait_until("the left-over process", || !lives(pid));
}
