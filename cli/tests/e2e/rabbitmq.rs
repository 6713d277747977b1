//! `up --rabbitmq`: a RabbitMQ in a container, for as long as the coordinator runs.

use crate::home::{Home, Program, Runtime, docker, text};
use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

/// An image of this machine's own RabbitMQ, as no registry is at hand.
const IMAGE: &str = "piecework-e2e-rabbitmq:local";

/// What the names of its containers and volumes begin with.
const NAME: &str = "piecework-rabbitmq-";

/// Makes the image; false if it can't be had here.
fn make_image() -> bool {
    let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/rabbitmq_image");
    let output = Command::new(maker).arg(IMAGE).output().expect("the image's maker");
    if !output.status.success() {
        let required = std::env::var_os("PIECEWORK_TEST_REQUIRE_RABBITMQ").is_some();
        let why = text(&output.stderr);
        assert!(!required, "a test that must run here can't: {why}");
        eprintln!("not run: {why}");
    }
    output.status.success()
}

fn up(home: &Home) -> Program {
    let words =
        || fs::read_to_string(home.path("server.log")).unwrap_or_default().matches("submit with").count();
    let before = words();
    let log = File::options().create(true).append(true).open(home.path("server.log")).expect("a log");
    let mut command =
        home.piecework(&["up", "--runtime", "process", "--rabbitmq", "--rabbitmq-image", IMAGE]);
    let up =
        Program(command.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("piecework"));
    home.wait("it says that it is up", || words() > before);
    up
}

/// The volume, and with it the container, of this place alone.
struct Volume(String);

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", &self.0]).output();
        let _ = Command::new("docker").args(["volume", "rm", &self.0]).output();
    }
}

#[test]
fn rabbitmq_comes_and_goes_with_the_coordinator_and_keeps_what_it_has() {
    if Runtime::Docker.is_missing() || !make_image() {
        return;
    }
    let home = Home::new(Runtime::Process);
    home.write(
        "p.yaml",
        "name: p\nimage: busybox\nitems: {range: 1..=50}\ntask: {command: [echo, '{item}']}\n",
    );
    let mut first = up(&home);
    let log = fs::read_to_string(home.path("server.log")).expect("its words");
    assert!(log.contains("broker       amqp://piecework@127.0.0.1:"), "{log}");
    let password = fs::read_to_string(home.data().join("rabbitmq-password")).expect("its password");
    assert!(!log.contains(password.trim()), "{log}");

    let names = docker(&["ps", "--filter", &format!("name={NAME}"), "--format", "{{.Names}} {{.Image}}"]);
    let name = names.lines().find_map(|line| line.strip_suffix(&format!(" {IMAGE}"))).expect("its container");
    let volume = Volume(name.to_owned());
    let ran = home.output(&["run", "p.yaml"]);
    let expected: String = (1..=50).map(|n| format!("{n}\n")).collect();
    assert_eq!(text(&ran.stdout), expected, "{}", text(&ran.stderr));
    let queues = || docker(&["exec", &volume.0, "rabbitmqctl", "list_queues", "--quiet", "name", "messages"]);
    assert!(queues().contains("piecework.todo\t0"), "{}", queues());
    docker(&["exec", &volume.0, "rabbitmqctl", "--quiet", "add_user", "witness", "w"]);

    assert!(first.terminate().success(), "{}", home.logs());
    let running = || docker(&["ps", "--all", "--quiet", "--filter", &format!("name={}", volume.0)]);
    assert_eq!(running(), "", "it is gone with the coordinator");

    let mut second = up(&home);
    let users = docker(&["exec", &volume.0, "rabbitmqctl", "--quiet", "list_users"]);
    assert!(users.contains("witness"), "{users}");
    // Killed, it leaves its container to the next one.
    second.kill();
    assert_ne!(running(), "");
    let mut third = up(&home);
    assert!(home.output(&["run", "p.yaml"]).status.success(), "{}", home.logs());
    assert!(third.terminate().success(), "{}", home.logs());
    assert_eq!(running(), "");
}

#[test]
fn an_image_that_is_no_rabbitmq_is_told_and_leaves_nothing() {
    if Runtime::Docker.is_missing() {
        return;
    }
    let home = Home::new(Runtime::Process);
    let args = ["up", "--runtime", "process", "--rabbitmq", "--rabbitmq-image", Runtime::Docker.image()];
    let output = home.output(&args);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("RabbitMQ can't be started"), "{}", text(&output.stderr));
    let left = docker(&["ps", "--all", "--filter", &format!("name={NAME}"), "--format", "{{.Image}}"]);
    assert!(!left.contains(Runtime::Docker.image()), "{left}");
}
