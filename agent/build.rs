//! Builds init as a static binary, which the agent carries: a plain `cargo build` of the agent is all that is needed.
//!
//! It is a build of its own, with a target directory of its own, because only init is linked statically: procedural
//! macros can't be. The settings of the outer build that don't apply to it are taken away.

use std::{env, ffi::OsString, path::PathBuf, process::Command};

/// The agent finds the binary by this variable.
const BINARY: &str = "PIECEWORK_INIT";

/// Small, and dies where it would panic.
const PROFILE: [(&str, &str); 6] = [
    ("OPT_LEVEL", "z"),
    ("LTO", "fat"),
    ("CODEGEN_UNITS", "1"),
    ("PANIC", "abort"),
    ("STRIP", "symbols"),
    ("DEBUG", "0"),
];

/// What the outer cargo may have set for itself, or for clippy and the like.
const NOT_INHERITED: [&str; 8] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for part in ["Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed=init/{part}");
    }
    let (manifest_dir, target, out) = (path("CARGO_MANIFEST_DIR"), variable("TARGET"), path("OUT_DIR"));
    let target_dir = out.join("init");
    let mut cargo = Command::new(variable("CARGO"));
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    for (setting, value) in PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    // Whatever it needs is there: the agent depends on init too.
    let status = cargo
        .args(["build", "--release", "--locked", "--quiet", "--bin", "piecework-init", "--manifest-path"])
        .arg(manifest_dir.join("init/Cargo.toml"))
        .arg("--target")
        .arg(&target)
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("building init ended with {status}; its messages are above")),
        Err(error) => fail(&format!("cargo can't be run to build init: {error}")),
    }
    let binary = target_dir.join(PathBuf::from(target)).join("release/piecework-init");
    println!("cargo::rustc-env={BINARY}={}", binary.display());
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo has not set {name}")))
}

fn path(name: &str) -> PathBuf {
    variable(name).into()
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    std::process::exit(1);
}
