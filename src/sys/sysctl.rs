//! The kernel's settings under /proc/sys.

use std::fs;
use std::path::Path;

/// The numbers of a setting, as `numbers("net/ipv4/tcp_rmem")`; empty where it cannot be read.
pub fn numbers(name: &str) -> Vec<u32> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The first number of a setting.
pub fn number(name: &str) -> Option<u32> {
    numbers(name).first().copied()
}
