//! The image that all tasks run in: one program, with the libraries that it is linked with.

use crate::process::{run, run_text};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What it is called on every host.
pub(crate) const IMAGE: &str = "piecework-chaos:local";

/// One of the programs that cargo has put beside the test.
pub(crate) fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name(name);
    assert!(path.exists(), "{} is missing: run `cargo test --workspace`, or build it first", path.display());
    path
}

/// The tasks' program.
pub(crate) fn player() -> PathBuf {
    built("examples/witnessed")
}

/// Writes the image's archive, as `docker import` takes it.
pub(crate) fn write_archive(dir: &Path) -> PathBuf {
    let root = dir.join("image");
    let place = |from: &Path, to: &Path| {
        let to = root.join(to.strip_prefix("/").unwrap_or(to));
        fs::create_dir_all(to.parent().expect("a parent")).expect("its directory");
        fs::copy(from, to).expect("a file of the image");
    };
    let player = player();
    place(&player, Path::new("/bin/witnessed"));
    for word in run_text(Command::new("ldd").arg(&player)).split_whitespace() {
        if word.starts_with('/') {
            place(Path::new(word), Path::new(word));
        }
    }
    let archive = dir.join("image.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(&archive)
        .arg("."));
    fs::remove_dir_all(&root).expect("the image's files");
    archive
}
