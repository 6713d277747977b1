//! What a container lets its tasks do, and what it keeps from them.

use super::*;
use bollard::{
    models::{ContainerConfig, ContainerCreateBody, MountPoint},
    query_parameters::{CommitContainerOptionsBuilder, CreateContainerOptions},
};

#[tokio::test]
async fn a_task_has_what_it_needs_and_no_more() {
    let Some(bench) = Bench::open().await else { return };
    let mut link = bench.start(0).await;
    assert_eq!((&link.hello.held, &link.hello.spent), (&vec![], &None));
    let link = &mut link;
    check_lines(
        link,
        "id -u; id -g; pwd; echo $HOME; hostname",
        &["65532", "65532", "/tmp", "/tmp", "worker"],
    )
    .await;
    let status = "grep -E '^(CapInh|CapPrm|CapEff|NoNewPrivs)' /proc/self/status | tr -d '\\t'";
    let none = "0000000000000000";
    let [inherited, permitted, effective] = ["CapInh", "CapPrm", "CapEff"].map(|set| format!("{set}:{none}"));
    check_lines(link, status, &[&inherited, &permitted, &effective, "NoNewPrivs:1"]).await;
    // The root is read-only, also where the user would be allowed to write; /tmp can be written and executed in.
    check_lines(link, "touch /x 2>&1 | grep -o 'Read-only.*'", &["Read-only file system"]).await;
    check_lines(link, "cp /bin/busybox /tmp/echo && /tmp/echo works", &["works"]).await;
    check_lines(link, "ls /sys/class/net", &["lo"]).await;
    check_lines(link, "touch /dev/shm/x && echo shared", &["shared"]).await;
    check_lines(link, "echo through a path > /dev/stdout", &["through a path"]).await;
    link.send(&RunCommand { has_stdin: true, ..shell("wc -l /dev/stdin") });
    link.init.close_stdin(link.number);
    assert_eq!((link.end().await.outcome, &*link.stdout), (Outcome::Exited(0), &b"0 /dev/stdin\n"[..]));
    // Full tmpfs: an error, and no kill. Half of 64 MiB.
    let fill =
        "dd if=/dev/zero of=/tmp/big bs=1M count=40 2>&1 | grep -o 'No space left on device'; rm /tmp/big";
    check_lines(link, fill, &["No space left on device"]).await;
    check_lines(link, "ulimit -u >/dev/null; i=0; while [ $i -lt 80 ]; do sleep 9 & i=$((i+1)); done 2>&1 | grep -c -m1 fork", &["1"]).await;
    bench.close().await;
}

#[tokio::test]
async fn a_task_can_write_where_it_works_if_nothing_is_there() {
    let Some(mut bench) = Bench::open().await else { return };
    bench.image = variant(&mut bench, Some("/full/x"), "mkdir /empty; chmod 755 /empty");
    for (index, (dir, expected)) in (0..).zip([
        ("/none/at all", "written"),
        ("/empty", "written"),
        ("/full", "no"),
        ("/empty", "written"),
    ]) {
        let mut link = bench.start_with(index, |shape| shape.workdir = Some(dir.into())).await;
        let script = "echo written 2>/dev/null > y && cat y || echo no; stat -c %n *";
        let files = if expected == "no" { "x" } else { "y" };
        for _ in 0..2 {
            link.send(&RunCommand { workdir: Some(dir.into()), ..shell(script) });
            let exit = link.end().await;
            let stdout = String::from_utf8_lossy(&link.stdout).into_owned();
            assert_eq!(
                (exit.outcome, &*stdout),
                (Outcome::Exited(0), &*format!("{expected}\n{files}\n")),
                "{dir}"
            );
        }
        assert_eq!(link.hello.spent, None);
    }
    bench.close().await;
}

#[tokio::test]
async fn a_task_can_t_reach_its_init() {
    let Some(bench) = Bench::open().await else { return };
    let mut link = bench.start(0).await;
    let script = "kill -9 1; cat /proc/1/environ; ls /proc/1/fd; cat /proc/1/mem; \
        ls /.piecework/socket; rm /.piecework/init; chmod 777 /.piecework/socket; echo x > /proc/1/oom_score_adj";
    let (outcome, stdout) =
        link.run(&shell(&format!("({script}) 2>&1 | grep -cvE 'not permitted|denied|Read-only'"))).await;
    assert_eq!((outcome, stdout.as_str()), (Outcome::Exited(1), "0\n"), "each attempt is refused");
    check_lines(&mut link, "echo still here", &["still here"]).await;
    bench.close().await;
}

#[tokio::test]
async fn small_limits_still_make_a_worker() {
    let Some(bench) = Bench::open().await else { return };
    let small = |shape: &mut WorkerShape| {
        (shape.memory_bytes, shape.cpus_milli, shape.pids_max) = (Some(1), Some(1), Some(1));
    };
    let mut link = bench.start_with(0, small).await;
    check_lines(&mut link, "echo small", &["small"]).await;
    bench.close().await;
}

#[tokio::test]
async fn a_fresh_task_is_uid_0_on_a_writable_root() {
    let Some(bench) = Bench::open().await else { return };
    let mut link = bench.start_with(0, |shape| shape.isolation = Isolation::Fresh).await;
    check_lines(&mut link, "id -u; id -g; pwd", &["0", "0", "/"]).await;
    check_lines(&mut link, "echo made > /x; chown 1:1 /x; cat /x; stat -c %u /x", &["made", "1"]).await;
    check_lines(&mut link, "ls /sys/class/net", &["lo"]).await;
    drop(link);
    // Another one has a root of its own.
    let mut link = bench.start_with(1, |shape| shape.isolation = Isolation::Fresh).await;
    check_lines(&mut link, "ls /x 2>/dev/null || echo none", &["none"]).await;
    bench.close().await;
}

#[tokio::test]
async fn without_a_network_a_task_can_speak_to_itself() {
    let Some(bench) = Bench::open().await else { return };
    let mut link = bench.start(0).await;
    let speak = "echo heard | nc -l -p 7777 & until nc localhost 7777 </dev/null 2>/dev/null; do :; done";
    check_lines(&mut link, "ls /sys/class/net; wc -l < /proc/net/route", &["lo", "1"]).await;
    check_lines(&mut link, speak, &["heard"]).await;
    bench.close().await;
}

/// An image that declares a volume, which the engine would make for each container.
async fn with_volume(bench: &Bench) -> String {
    let docker = &bench.runtime.inner.docker;
    let image = bench.spec(0).await.shape.image.handle.clone();
    let body = ContainerCreateBody { image: Some(image), ..ContainerCreateBody::default() };
    let body = ContainerCreateBody { cmd: Some(vec!["true".into()]), ..body };
    let container = docker.create_container(None::<CreateContainerOptions>, body).await.unwrap().id;
    let options =
        CommitContainerOptionsBuilder::default().container(&container).changes("VOLUME /data").build();
    let committed = docker.commit_container(options, ContainerConfig::default()).await;
    let remove = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    docker.remove_container(&container, Some(remove)).await.unwrap();
    committed.unwrap().id
}

#[tokio::test]
async fn volumes_of_an_image_are_in_memory_and_the_engine_makes_none() {
    let Some(bench) = Bench::open().await else { return };
    let name = with_volume(&bench).await;
    let prepared = bench.runtime.prepare(&ImageSpec::Reference(name.clone()), &bench.files).await.unwrap();
    assert_eq!(prepared.volumes, [Path::new("/data")]);
    let mut link = bench.start_with(0, |shape| shape.image = prepared).await;
    check_lines(&mut link, "grep ' /data ' /proc/mounts | cut -d ' ' -f 3", &["tmpfs"]).await;
    check_lines(&mut link, "echo kept > /data/x; cat /data/x", &["kept"]).await;
    check_lines(&mut link, "ls /data | wc -l", &["0"]).await;
    let docker = &bench.runtime.inner.docker;
    let found = docker.inspect_container(&container_name(&bench.id(0)), None).await.unwrap();
    let is_volume = |mount: &MountPoint| mount.typ == Some("volume".into());
    let volumes: Vec<_> = found.mounts.unwrap_or_default().into_iter().filter(is_volume).collect();
    assert_eq!(volumes, []);
    drop(link);
    sweep(&bench.runtime, &BTreeSet::new()).await.unwrap();
    docker.remove_image(&name, None::<RemoveImageOptions>, None).await.unwrap();
    bench.close().await;
}

#[tokio::test]
async fn connecting_again_needs_no_engine_once_init_is_known() {
    let Some(bench) = Bench::open().await else { return };
    let socket = bench.data.path().join("docker.sock");
    let link_engine = || std::os::unix::fs::symlink(&bench.runtime.inner.socket, &socket).unwrap();
    link_engine();
    let config = DockerConfig {
        data: bench.data.path().into(),
        agent_id: bench.agent_id.clone(),
        socket: Some(socket.clone()),
    };
    let runtime = DockerRuntime::connect(config).await.unwrap();
    let spec = bench.spec(0).await;
    drop(runtime.create(&spec).await.unwrap());
    fs::remove_file(&socket).unwrap();
    assert!(runtime.ready().await.is_err());
    check_lines(&mut Link::open(runtime.connect(&spec.id).await.unwrap()).await, "echo again", &["again"])
        .await;
    fs::remove_file(runtime.inner.places.of(&spec.id).unwrap().join(PID_FILE)).unwrap();
    assert!(
        matches!(runtime.connect(&spec.id).await, Err(WorkerError::Engine(_))),
        "who listens is asked for"
    );
    bench.close().await;
}
