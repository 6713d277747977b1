//! Finds the file that a command means, as a shell would: bare names in PATH, all others as they are. With a root
//! directory (the process runtime's stand-in for an image), what it has comes first.

use std::{
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The PATH of a task that has none, as Docker's.
pub(crate) const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The PATH for a task: the given one, with the root's own directories before it.
pub(crate) fn search_path(path: Option<&str>, root: Option<&Path>) -> OsString {
    let path = path.unwrap_or(PATH_DEFAULT);
    let Some(root) = root else { return path.into() };
    let own = std::env::split_paths(PATH_DEFAULT).chain(std::env::split_paths(path)).filter_map(|dir| {
        let dir = root.join(dir.strip_prefix("/").ok()?);
        dir.is_dir().then_some(dir)
    });
    let mut dirs = Vec::new();
    for dir in own.chain(std::env::split_paths(path)) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    // Joining fails only for a directory with a colon in its name, which PATH can't hold.
    std::env::join_paths(&dirs).unwrap_or_else(|_| path.into())
}

/// The files to try for a command, best first; or why there are none, for people.
pub(crate) fn candidates(
    command: &str,
    path: &OsStr,
    root: Option<&Path>,
    workdir: Option<&Path>,
) -> Result<Vec<PathBuf>, String> {
    if command.is_empty() {
        return Err("the command's name is empty".into());
    }
    if command.contains('/') {
        if let Some(root) = root
            && let Ok(inner) = Path::new(command).strip_prefix("/")
        {
            let own = root.join(inner);
            if own.exists() {
                return Ok(vec![own]);
            }
        }
        // A relative path counts from the task's working directory, in which it is executed.
        let seen_from_here = workdir.map_or_else(|| PathBuf::from(command), |dir| dir.join(command));
        if seen_from_here.is_dir() {
            return Err(format!("the command `{command}` is a directory"));
        }
        return Ok(vec![command.into()]);
    }
    let found: Vec<PathBuf> = std::env::split_paths(path)
        .map(|dir| if dir.as_os_str().is_empty() { Path::new(".").join(command) } else { dir.join(command) })
        .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
        .collect();
    if found.is_empty() {
        return Err(format!("the command `{command}` was not found in PATH ({})", path.display()));
    }
    let executable =
        |file: &PathBuf| file.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
    match found.iter().find(|file| !executable(file)) {
        Some(file) if !found.iter().any(executable) => Err(not_executable(file)),
        _ => Ok(found.into_iter().filter(executable).collect()),
    }
}

/// What to say about a file without the permission to execute it.
pub(crate) fn not_executable(file: &Path) -> String {
    format!("the command `{}` is not executable: its mode does not allow it", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn bare_names_are_looked_up_in_the_task_s_path() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        file(&first, "tool", 0o644);
        let tool = file(&second, "tool", 0o755);
        let path = std::env::join_paths([&first, &second]).unwrap();
        assert_eq!(candidates("tool", &path, None, None), Ok(vec![tool]));
        let missing = candidates("other", &path, None, None).unwrap_err();
        assert!(missing.contains("`other` was not found in PATH (") && missing.contains("/a:"), "{missing}");
        let only_first = candidates("tool", first.as_os_str(), None, None).unwrap_err();
        assert!(only_first.contains("is not executable"), "{only_first}");
    }

    #[test]
    fn the_root_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let own = file(root.path(), "usr/bin/tool", 0o755);
        let sh = file(root.path(), "bin/sh", 0o755);
        let path = search_path(None, Some(root.path()));
        assert!(path.to_string_lossy().ends_with(PATH_DEFAULT), "{path:?}");
        assert_eq!(candidates("tool", &path, Some(root.path()), None), Ok(vec![own]));
        assert_eq!(candidates("/bin/sh", &path, Some(root.path()), None), Ok(vec![sh]));
        assert_eq!(candidates("/bin/cat", &path, Some(root.path()), None), Ok(vec!["/bin/cat".into()]));
    }

    #[test]
    fn paths_stay_as_they_are() {
        assert_eq!(candidates("./tool", OsStr::new(""), None, None), Ok(vec!["./tool".into()]));
        let error = candidates("/usr", OsStr::new(""), None, None).unwrap_err();
        assert!(error.contains("`/usr` is a directory"), "{error}");
        assert!(candidates("", OsStr::new("/bin"), None, None).is_err());
    }
}
