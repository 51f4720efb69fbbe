//! argv becomes an applet becomes an exit code; nobody else ends the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    knockknock::cli::main(std::env::args_os().collect()).into()
}
