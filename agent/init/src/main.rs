//! The init of a worker; see the library.

use std::{
    io::{self, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    match piecework_init::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "piecework-init: {error}");
            ExitCode::FAILURE
        }
    }
}
