//! Runs the applet that argv selects. The process exits only here.
#![no_main]

knockknock::entry_point!(knockknock::cli::main);

#[global_allocator]
static ALLOCATOR: knockknock::sys::allocator::Malloc = knockknock::sys::allocator::Malloc;
