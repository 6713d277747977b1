//! init's command line. It is written by the agent, not by people.

use crate::privileges::TaskUser;
use std::{ffi::OsString, path::PathBuf};

/// What init is told to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// Where to listen; its directory is there and nobody else's.
    pub(crate) socket: PathBuf,
    /// Stands in for an image's root.
    pub(crate) root: Option<PathBuf>,
    /// The directory that tasks start in when they name none.
    pub(crate) workdir: Option<PathBuf>,
    /// Whom tasks run as; none means as init.
    pub(crate) task_user: Option<TaskUser>,
    /// Empty file systems of the worker's own that tasks may write to, whatever mode the engine gave them.
    pub(crate) writable: Vec<PathBuf>,
    /// Become a daemon, and write its pid here.
    pub(crate) pid_file: Option<PathBuf>,
    /// Take a pid namespace (and a user namespace, if need be) for the daemon.
    pub(crate) isolate: bool,
    /// Only try whether `isolate` works here; the exit code tells.
    pub(crate) probe: bool,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self::default();
        while let Some(word) = words.next() {
            let name = word.to_string_lossy().into_owned();
            let mut value = || words.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--socket" => args.socket = value()?.into(),
                "--root" => args.root = Some(value()?.into()),
                "--workdir" => args.workdir = Some(value()?.into()),
                "--task-user" => args.task_user = Some(value()?.to_string_lossy().parse()?),
                "--writable" => args.writable.push(value()?.into()),
                "--pid-file" => args.pid_file = Some(value()?.into()),
                "--isolate" => args.isolate = true,
                "--probe" => args.probe = true,
                _ => return Err(format!("unknown argument {name}")),
            }
        }
        if args.socket.as_os_str().is_empty() && !args.probe {
            return Err("--socket is missing".into());
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn all_arguments() {
        let words = ["--socket", "/s", "--task-user", "1:2", "--root", "/r", "--isolate"];
        let places = ["--writable", "/tmp", "--writable", "/work"];
        let args = parse(&[&words[..], &places].concat()).unwrap();
        let user = Some(TaskUser { uid: 1, gid: 2 });
        let expected = Args {
            socket: "/s".into(),
            root: Some("/r".into()),
            task_user: user,
            writable: vec!["/tmp".into(), "/work".into()],
            isolate: true,
            ..Args::default()
        };
        assert_eq!(args, expected);
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(parse(&[]), Err("--socket is missing".into()));
        assert_eq!(parse(&["--socket"]), Err("--socket needs a value".into()));
        assert_eq!(parse(&["--sock", "x"]), Err("unknown argument --sock".into()));
    }
}
