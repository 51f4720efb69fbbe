//! Runs the applet that argv selects. The process exits only here.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut argv = Vec::new();
    std::env::args_os().for_each(|arg| argv.push(arg));
    knockknock::cli::main(argv).into()
}
