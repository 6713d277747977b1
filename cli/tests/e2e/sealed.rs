//! A worker that is used again is as clean as a new one: what a task can see of it after twenty hostile ones is what the
//! first one saw. And it is never used for two projects.

use crate::home::{Home, Image, Runtime, docker, player, players_image, text};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

/// The names of all hostile tasks.
fn hostile() -> Vec<String> {
    let names = Command::new(player("hostile")).output().expect("the list").stdout;
    text(&names).lines().map(str::to_owned).collect()
}

/// An image with the probe, the hostile tasks as programs of their names, and two volumes.
fn image() -> Image {
    let changes = ["VOLUME /volume", "VOLUME /var/lib/data", "ENV PLACE=image"];
    players_image(&["probe", "hostile"], &changes, |root| {
        for name in hostile() {
            std::os::unix::fs::symlink("hostile", root.join("bin").join(name)).expect("a link");
        }
    })
}

/// Submits tasks that run one after another in this order, and waits until all have ended.
fn run(home: &Home, name: &str, image: &Image, items: &[&str]) {
    let project = serde_json::json!({
        "name": name,
        "image": image.0,
        "items": items,
        "task": {
            "command": ["/bin/{item}"],
            "timeout": "20s",
            "output_limit": "4MiB",
            "resources": {"memory": "256MiB", "pids": 128},
        },
        "reassemble": "none",
    });
    let file = home.write(&format!("{name}.json"), project.to_string());
    let submitted = home.output(&["submit", &file.to_string_lossy()]);
    assert!(submitted.status.success(), "{}", text(&submitted.stderr));
    // Tasks that fail are among them.
    home.output(&["watch", name]);
}

/// What one task printed.
fn printed(home: &Home, name: &str, index: usize) -> String {
    let logs = home.output(&["logs", name, &index.to_string(), "--stdout"]);
    assert!(logs.status.success(), "{}\n{}", text(&logs.stderr), home.logs());
    text(&logs.stdout)
}

/// The worker that a probe ran in: its own directory on the host is mounted for its socket.
fn worker(probed: &str) -> &str {
    let (_, path) = probed.split_once("/workers/docker/").expect("the mount of the socket's directory");
    path.split('/').next().unwrap_or_default()
}

/// The facts of one that the other has not.
fn difference(before: &str, after: &str) -> Vec<String> {
    let facts = |probed: &str| {
        let mut facts = BTreeMap::<String, usize>::new();
        probed.lines().for_each(|line| *facts.entry(line.to_owned()).or_default() += 1);
        facts
    };
    let (before, after) = (facts(before), facts(after));
    let only = |sign: char, these: &BTreeMap<String, usize>, those: &BTreeMap<String, usize>| {
        let more = these.iter().filter(|(fact, count)| those.get(*fact).unwrap_or(&0) < count);
        more.map(|(fact, _)| format!("{sign} {fact}")).collect::<Vec<_>>()
    };
    [only('-', &before, &after), only('+', &after, &before)].concat()
}

#[test]
fn a_worker_is_as_new_after_every_hostile_task() {
    if Runtime::Docker.is_missing() {
        return;
    }
    let home = Home::new(Runtime::Docker);
    let image = image();
    let names = hostile();
    let mut items = vec!["probe"];
    for name in &names {
        items.extend([name, "probe"]);
    }
    assert!(items.len() > 40, "{items:?}");
    let _server = home.server();
    let _agent = home.agent(1);
    run(&home, "hostile", &image, &items);

    let new = printed(&home, "hostile", 0);
    assert!(new.contains("/volume") && new.lines().count() > 200, "a poor probe: {new}");
    let mut failures = Vec::new();
    for index in (2..items.len()).step_by(2) {
        let again = printed(&home, "hostile", index);
        let after = items[index - 1];
        if again.is_empty() || worker(&again) != worker(&new) {
            failures.push(format!("{after}: another worker"));
        } else if again != new {
            failures.push(format!("{after}:\n{}", difference(&new, &again).join("\n")));
        }
    }
    assert!(failures.is_empty(), "{}\n{}", failures.join("\n\n"), home.logs());
}

#[test]
fn a_worker_is_never_shared_between_projects() {
    if Runtime::Docker.is_missing() {
        return;
    }
    let home = Home::new(Runtime::Docker);
    let image = image();
    let _server = home.server();
    let _agent = home.agent(2);
    let mut of_project = BTreeMap::new();
    for name in ["first", "second", "third"] {
        run(&home, name, &image, &["probe"; 12]);
        let workers: BTreeSet<_> =
            (0..12).map(|index| worker(&printed(&home, name, index)).to_owned()).collect();
        assert!(workers.len() <= 2, "twelve short tasks on two slots had {workers:?}");
        of_project.insert(name, workers);
    }
    for (name, workers) in &of_project {
        let others = of_project.iter().filter(|(other, _)| *other != name).flat_map(|(_, workers)| workers);
        assert!(others.into_iter().all(|other| !workers.contains(other)), "{of_project:?}");
    }
}

/// Nothing of the engine's is left when the agent has stopped: no container, and no volume for a VOLUME of the image.
#[test]
fn nothing_is_left_on_the_host() {
    if Runtime::Docker.is_missing() {
        return;
    }
    let home = Home::new(Runtime::Docker);
    let image = image();
    let volumes = || docker(&["volume", "ls", "--quiet"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = volumes();
    let _server = home.server();
    let mut agent = home.agent(2);
    run(&home, "volumes", &image, &["write-everywhere", "probe", "daemon", "probe"]);
    let during: Vec<_> = volumes().difference(&before).cloned().collect();
    assert_eq!(during, Vec::<String>::new(), "volumes were made");
    assert!(agent.terminate().success(), "{}", home.logs());
    assert_eq!(home.containers(), Vec::<String>::new());
    let places = home.data().join("agent/workers/docker");
    let left: Vec<_> =
        std::fs::read_dir(&places).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    assert!(Path::new(&home.data()).exists());
}
