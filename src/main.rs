//! Runs the applet that argv selects. The process exits only here.

use std::process::ExitCode;

fn main() -> ExitCode {
    knockknock::cli::main(std::env::args_os().collect()).into()
}
