//! The kernel's settings under /proc/sys.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The numbers of a setting, as `numbers("net/ipv4/tcp_rmem")`; empty where it cannot be read.
pub fn numbers(name: &str) -> Vec<u32> {
    let mut buffer = [0; 64];
    let read = File::open(Path::new("/proc/sys").join(name)).and_then(|mut file| file.read(&mut buffer));
    let text = buffer.get(..read.unwrap_or(0)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The first number of a setting.
pub fn number(name: &str) -> Option<u32> {
    numbers(name).first().copied()
}
