//! Compiles the solver of `piecework new queens` as a static binary, for the program to carry. It runs in an empty image, so
//! no manual step and no registry is needed for the first project.

use std::{env, error::Error, path::PathBuf, process::Command};

const SOURCE: &str = "../examples/queens/src/main.rs";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("queens");
    let (host, target) = (env::var("HOST")?, env::var("TARGET")?);
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc
        .args(["--crate-name", "queens", "--crate-type", "bin", "--edition", "2024"])
        .args([
            "-C",
            "opt-level=3",
            "-C",
            "lto=fat",
            "-C",
            "codegen-units=1",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "target-feature=+crt-static"])
        .arg("-o")
        .arg(&out)
        .arg(SOURCE);
    if host != target {
        rustc.args(["--target", &target]);
        let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        println!("cargo::rerun-if-env-changed={linker}");
        if let Ok(linker) = env::var(linker) {
            rustc.arg(format!("-Clinker={linker}"));
        }
    }
    let status = rustc.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the queens solver can't be compiled: {status}").into())
    }
}
