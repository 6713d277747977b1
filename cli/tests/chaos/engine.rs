//! A Docker engine of a host's own, in the host's network, with everything that it keeps in a directory of its own.

use crate::{
    network::Namespace,
    process::{Program, kill_all, naming, run_text, succeeds, wait, with_descendants},
};
use nix::sys::signal::Signal;
use std::{fs, path::PathBuf, process::Command, time::Duration};

/// The first address of the engine's bridge: the host, as its containers see it.
pub(crate) const GATEWAY: &str = "172.30.0.1";

/// How long an engine may take to start or to stop.
const ENGINE_MAX: Duration = Duration::from_secs(60);

/// The engine.
#[derive(Debug)]
pub(crate) struct Engine {
    dir: PathBuf,
    program: Option<Program>,
}

impl Engine {
    /// One that is not started yet.
    pub(crate) fn new(dir: PathBuf) -> Self {
        fs::create_dir(&dir).expect("the engine's directory");
        let engine = Self { dir, program: None };
        engine.write_config(false);
        engine
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// As DOCKER_HOST has it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn write_config(&self, live_restore: bool) {
        let config = serde_json::json!({"live-restore": live_restore});
        fs::write(self.dir.join("config.json"), config.to_string()).expect("the engine's configuration");
    }

    pub(crate) fn start(&mut self, network: &Namespace) {
        // What a killed engine left would keep the next one from starting.
        let _ = fs::remove_file(self.dir.join("pid"));
        let mut command = network.command("dockerd");
        let path = |name: &str| self.dir.join(name);
        command
            .arg("--config-file")
            .arg(path("config.json"))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .args(["--host", &self.address(), "--bip", &format!("{GATEWAY}/24")])
            // It needs nothing of the kernel, and images are small.
            .args(["--storage-driver", "vfs"]);
        self.program = Some(Program::start(&mut command, &self.dir.with_extension("log")));
        let answers = || succeeds(&mut self.docker(&["version"]));
        assert!(wait(ENGINE_MAX, answers).is_some(), "no engine answers; see {}", self.dir.display());
    }

    /// The engine's client.
    pub(crate) fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(self.address()).args(args);
        command
    }

    /// From now on, containers outlive it or not.
    pub(crate) fn set_live_restore(&self, live_restore: bool) {
        self.write_config(live_restore);
        self.program.as_ref().expect("a running engine").signal(Signal::SIGHUP);
        let wanted = live_restore.to_string();
        let is_set = || {
            let told = run_text(&mut self.docker(&["info", "--format", "{{.LiveRestoreEnabled}}"]));
            told.trim() == wanted
        };
        assert!(wait(ENGINE_MAX, is_set).is_some(), "the engine does not read its configuration");
    }

    /// Stops it as a service manager does.
    pub(crate) fn stop(&mut self) {
        let Some(program) = self.program.take() else { return };
        assert!(program.terminate(ENGINE_MAX).is_some(), "the engine does not stop");
    }

    /// Kills it and all of its containers at once.
    pub(crate) fn lose(&mut self) {
        let all = with_descendants(naming(&self.dir));
        kill_all(&all);
        drop(self.program.take());
    }

    /// The containers with this label.
    pub(crate) fn containers(&self, filter: &str) -> Vec<String> {
        let listed = run_text(&mut self.docker(&[
            "ps",
            "--all",
            "--quiet",
            "--no-trunc",
            "--filter",
            &format!("label={filter}"),
        ]));
        listed.lines().map(str::to_owned).collect()
    }

    /// The first process of a container, if it runs.
    pub(crate) fn first_process(&self, container: &str) -> Option<i32> {
        let told = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]).output().ok()?;
        String::from_utf8_lossy(&told.stdout).trim().parse().ok().filter(|id| *id > 0)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.lose();
    }
}
