//! A sealed worker, as a container would be: init is PID 1 in namespaces of its own, tasks have another user, and all is
//! read-only but a few tmpfs. Needs root and `unshare`.

use crate::client::{Link, connect, shell, wait_until};
use piecework_init::frame::{Event, Outcome, Request, Run};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Mounts what a container has, makes the rest read-only, and becomes init.
const SETUP: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$DIR" "$DIR"
mount -t proc proc /proc
mount -t tmpfs -o mode=1777,size=8m tmpfs /tmp
mount -t tmpfs -o mode=1777,size=8m tmpfs /dev/shm
mount -t tmpfs -o mode=0700,uid=65532,gid=65532,size=8m tmpfs /mnt
mkdir -p /dev/mqueue 2>/dev/null || true
mount -t mqueue mqueue /dev/mqueue
ip link set lo up
cut -d' ' -f5 /proc/self/mountinfo | while read -r point; do
    case "$point" in "$DIR"|/tmp|/dev/shm|/mnt|/dev/mqueue|/proc) ;; *) mount -o remount,bind,ro "$point" 2>/dev/null || true ;; esac
done
chmod 755 /tmp
exec "$INIT" --socket "$DIR/init.sock" --task-user 65532:65532 --writable /tmp
"#;

struct Sealed {
    child: Child,
    dir: PathBuf,
}

impl Sealed {
    /// None, aloud, where that is not allowed.
    fn start(name: &str) -> Option<Self> {
        let works = Command::new("unshare")
            .args(["--pid", "--mount", "--ipc", "--net", "--fork", "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !nix::unistd::geteuid().is_root() || !works {
            assert!(
                std::env::var_os("PIECEWORK_TEST_REQUIRE_DOCKER").is_none(),
                "sealed workers need root and unshare"
            );
            leave_out(name);
            return None;
        }
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sealed-{name}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let child = Command::new("unshare")
            .args(["--pid", "--mount", "--ipc", "--net", "--fork", "--kill-child", "sh", "-c", SETUP])
            .env("DIR", &dir)
            .env("INIT", env!("CARGO_BIN_EXE_piecework-init"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, dir })
    }

    fn idle(&self) -> Link {
        let mut link = connect(&self.dir.join("init.sock"));
        assert_eq!(link.hello(), []);
        link
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[expect(clippy::print_stderr, reason = "what is left out is said aloud")]
fn leave_out(name: &str) {
    eprintln!("left out: {name}, for it needs root and unshare");
}

/// What a task can see of the places that it can write to.
const LOOK: &str = "
    for dir in /tmp /dev/shm /dev/mqueue; do stat -c '%n %f %u %g %s %h %Y' $dir; done
    stat -c '%n %f %u %g %s %h %Y' /mnt
    find /tmp /dev/shm /mnt /dev/mqueue -mindepth 1
    stat -f -c '%f %d' /tmp /dev/shm /mnt
    cat /proc/sysvipc/*
    cat /proc/net/sockstat /proc/net/sockstat6 | sed 's/alloc.*//; s/orphan [0-9]*//; s/mem .*//'
    set -- /proc/[0-9]*; echo $# processes
    nice; taskset -p $$ | sed 's/.*: //'; cat /proc/self/oom_score_adj /proc/self/limits
    stat -c '%s' /proc/self/status > /dev/null; grep -E '^(Cap|SigBlk|SigIgn|SigPnd|Shd|NoNew|Groups|Seccomp|Uid|Gid|Umask)' /proc/self/status
    env | sort; pwd
";

fn observe(link: &mut Link) -> String {
    link.run(shell(LOOK));
    let exit = link.finish();
    assert!(matches!(exit.outcome, Outcome::Exited(0 | 1)), "{exit:?} {}", link.stderr());
    link.stdout()
}

/// After the task, the worker is what it was, and goes on.
fn check_swept(name: &str, task: &str) {
    let Some(sealed) = Sealed::start(name) else { return };
    let mut link = sealed.idle();
    let before = observe(&mut link);
    assert!(before.contains("/mnt 41c0 65532"), "{before}");
    for _ in 0..2 {
        link.run(shell(task));
        let exit = link.finish();
        assert_eq!(exit.outcome, Outcome::Exited(0), "{name}: {} {}", link.stdout(), link.stderr());
        let after = observe(&mut link);
        assert!(before == after, "before:\n{before}\nafter:\n{after}");
    }
}

/// After the task, the worker takes no more.
fn check_spent(name: &str, task: &str, why: &str) {
    let Some(sealed) = Sealed::start(name) else { return };
    let mut link = sealed.idle();
    link.run(shell(task));
    let followers = [link.number + 1, link.number + 2];
    for number in followers {
        link.send(&Request::Run(Run { number, ..shell("true") }));
    }
    let (mut exited, mut recalled) = (false, false);
    loop {
        match link.event().unwrap() {
            Event::Exited { run, exit } => {
                assert_eq!((run, exit.outcome), (link.number, Outcome::Exited(0)));
                exited = true;
            }
            Event::Recalled { from } => {
                assert_eq!(from, followers[0]);
                recalled = true;
            }
            Event::Spent(text) => {
                assert!(recalled && text.contains(why), "{text}");
                break;
            }
            _ => {}
        }
    }
    link.send(&Request::Run(Run { number: 10, ..shell("true") }));
    while !exited {
        exited = matches!(link.event().unwrap(), Event::Exited { .. });
    }
    loop {
        match link.event().unwrap() {
            Event::Recalled { from: 10 } => break,
            Event::Exited { run: 1, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let mut link = connect(&sealed.dir.join("init.sock"));
    let Some(Event::Hello { held, spent, .. }) = link.event() else { panic!() };
    assert!(held.len() == 1 && spent.unwrap().contains(why), "{held:?}");
}

#[test]
fn files_are_swept() {
    check_swept(
        "files",
        "
        umask 077
        mkdir -p /tmp/a/b/c /dev/shm/d /mnt/e; echo x > /tmp/a/b/c/f; chmod 0 /tmp/a/b /dev/shm/d
        head -c 20000000 /dev/zero > /tmp/full 2>/dev/null
        i=0; while [ $i -lt 300 ]; do : > /mnt/e/$i; i=$((i+1)); done
        ln -s / /tmp/root; mkfifo /dev/shm/fifo; ln /tmp/a /nowhere 2>/dev/null
        chmod 1733 /mnt; touch -d 1990-01-01 /mnt
        touch /tmp/gone; rm /tmp/gone; true",
    );
}

#[test]
fn a_root_whose_times_alone_changed_is_set_back() {
    check_swept("times", "for dir in /tmp /dev/shm /mnt; do mkdir $dir/x; rmdir $dir/x; done");
}

#[test]
fn ipc_objects_are_swept() {
    check_swept("ipc", "ipcmk -M 4096; ipcmk -Q; ipcmk -S 3; : > /dev/mqueue/one; : > /dev/mqueue/two");
}

#[test]
fn processes_and_ports_are_swept() {
    check_swept(
        "processes",
        r#"
        perl -MSocket -e '
            socket(my $s, PF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(7777, INADDR_ANY)) or die; listen($s, 5);
            socket(my $u, PF_INET, SOCK_DGRAM, 0); bind($u, sockaddr_in(7777, INADDR_ANY)) or die;
            socket(my $x, PF_UNIX, SOCK_STREAM, 0); bind($x, pack_sockaddr_un("/tmp/sock")) or die; listen($x, 5);
            $SIG{TERM} = "IGNORE"; exit 0 if fork; exec "setsid", "sleep", "600";'
        (setsid sh -c 'trap "" TERM HUP; exec >/dev/null 2>&1; while :; do sleep 600; done' &)
        ulimit -n 10; ulimit -c 0; renice 19 $$ >/dev/null; umask 0; sleep 0.05"#,
    );
}

#[test]
fn init_is_out_of_reach() {
    check_swept(
        "reach",
        r#"
        for signal in KILL STOP TERM CHLD; do kill -$signal 1 2>/dev/null && exit 1; done; renice 5 1 2>/dev/null && exit 3
        prlimit --pid 1 --nofile=10 2>/dev/null && exit 4; taskset -p 1 1 2>/dev/null && exit 5
        echo 900 2>/dev/null > /proc/1/oom_score_adj && exit 6
        cat /proc/1/environ /proc/1/maps 2>/dev/null && exit 7; ls /proc/1/fd/ 2>/dev/null && exit 8
        dd if=/proc/1/mem bs=1 count=1 2>/dev/null && exit 9; ls "$SOCKET_DIR" 2>/dev/null && exit 10
        chrt -p 1 2>/dev/null >/dev/null; ionice -c 3 -p 1 2>/dev/null && exit 11
        grep -q '^Cap\(Inh\|Prm\|Eff\|Amb\):.*[1-9a-f]' /proc/self/status && exit 12
        kill -9 -1; exit 0"#,
    );
}

#[test]
fn what_the_kernel_keeps_spends_the_worker() {
    // Who closes first has a connection in TIME_WAIT for a minute.
    check_spent(
        "time-wait",
        r#"perl -MSocket -e '
            socket(my $s, PF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(7777, INADDR_LOOPBACK)) or die; listen($s, 5);
            socket(my $c, PF_INET, SOCK_STREAM, 0); connect($c, sockaddr_in(7777, INADDR_LOOPBACK)) or die;
            accept(my $a, $s); close $c; sysread($a, my $x, 1); close $a;'"#,
        "connections",
    );
    // A label of a flow to a place of 16 bytes that the task chooses, exclusively for it, to linger for 60 s.
    check_spent(
        "flow-label",
        r#"perl -MSocket -e '
            socket(my $s, PF_INET6, SOCK_DGRAM, 0) or die;
            setsockopt($s, 41, 32, pack("a16 N C C S S S L", "message to others", 0x12345, 0, 1, 3, 60, 60, 0)) or die $!;'"#,
        "connections",
    );
}

#[test]
fn a_task_can_t_keep_the_socket_from_the_agent() {
    let Some(sealed) = Sealed::start("socket") else { return };
    let mut link = sealed.idle();
    let socket = sealed.dir.join("init.sock");
    link.run(shell(&format!(
        r#"perl -MSocket -e '
            for (1..2000) {{ socket(my $s, PF_UNIX, SOCK_STREAM, 0); connect($s, pack_sockaddr_un("{0}")) and die "reached" }}'
        rm -f {0} && mv {0} {0}.old; ls {1} 2>/dev/null && exit 3; [ -e {0} ] || echo unreachable"#,
        socket.display(),
        sealed.dir.display()
    )));
    let exit = link.finish();
    assert!(link.stdout().contains("unreachable"), "{exit:?} {} {}", link.stdout(), link.stderr());
    wait_until("the socket", || socket.exists());
    sealed_goes_on(&mut link);
}

fn sealed_goes_on(link: &mut Link) {
    link.run(shell("echo next"));
    assert_eq!((link.finish().outcome, link.stdout()), (Outcome::Exited(0), "next\n".into()));
}

/// Whatever a task does to stay, it ends with the true reason, and the next one runs.
fn check_ends(name: &str, task: Run, outcome: &Outcome) {
    let Some(sealed) = Sealed::start(name) else { return };
    let mut link = sealed.idle();
    let before = observe(&mut link);
    link.run(task);
    assert_eq!(link.finish().outcome, *outcome, "{}", link.stderr());
    assert_eq!(observe(&mut link), before);
}

#[test]
fn a_stubborn_task_with_daemons_is_gone_after_its_timeout() {
    let timeout = Some(Duration::from_millis(200));
    let stubborn = "trap '' TERM HUP INT; exec >/dev/null 2>&1 <&-;
        setsid sh -c 'trap \"\" TERM; (setsid sleep 600 &); while :; do sleep 600; done' & while :; do sleep 600; done";
    check_ends("stubborn", Run { timeout, ..shell(stubborn) }, &Outcome::TimedOut);
}

#[test]
fn a_fork_bomb_is_gone_after_its_timeout() {
    let timeout = Some(Duration::from_millis(200));
    let bomb = "trap '' TERM; ulimit -p 200; bomb() { bomb | bomb & }; bomb 2>/dev/null; while :; do :; done";
    check_ends("bomb", Run { timeout, ..shell(bomb) }, &Outcome::TimedOut);
}

#[test]
fn a_task_that_signals_everybody_harms_only_itself() {
    let timeout = Some(Duration::from_millis(200));
    let wave = "trap '' TERM; setsid sleep 600 & kill -TERM -1; while :; do sleep 600; done";
    check_ends("wave", Run { timeout, ..shell(wave) }, &Outcome::TimedOut);
    check_ends("kill-all", shell("setsid sleep 600 & kill -9 -1; exit 3"), &Outcome::Exited(3));
}
