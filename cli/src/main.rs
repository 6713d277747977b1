//! The `piecework` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    piecework_cli::main()
}
