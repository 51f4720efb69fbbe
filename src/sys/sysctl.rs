//! Kernel settings under /proc/sys, and counters under /proc/net.

use super::file;

/// Reads a setting that is a list of numbers, such as `numbers("net/ipv4/tcp_rmem")`; empty if it cannot be read.
pub fn numbers(name: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for word in file::kernel_text(&format!("/proc/sys/{name}")).split_ascii_whitespace() {
        numbers.extend(word.parse::<u32>());
    }
    numbers
}

/// Reads a setting that is one number; `None` if it cannot be read.
pub fn number(name: &str) -> Option<u32> {
    numbers(name).first().copied()
}

/// Reads a counter of /proc/net/netstat, such as `netstat("TCPFastOpenBlackhole")`. Each group of counters is a line
/// of names, followed by a line of values (`netstat_seq_show` in net/ipv4/proc.c).
pub fn netstat(name: &str) -> Option<u64> {
    let text = file::kernel_text("/proc/net/netstat");
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if let Some(column) = names.split_ascii_whitespace().position(|word| word == name) {
            return values.split_ascii_whitespace().nth(column)?.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_netstat_counter_is_found_by_name() {
        assert!(super::netstat("InOctets").is_some());
        assert!(super::netstat("TCPFastOpenBlackhole").is_some());
        assert_eq!(super::netstat("NoSuchCounter"), None);
    }
}
