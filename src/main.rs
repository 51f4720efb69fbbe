//! Runs the applet that argv selects. The process exits only here.
#![no_main]

knockknock::entry_point!(knockknock::cli::main);
