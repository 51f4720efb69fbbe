//! Stamps version, commit and target into the binary, for `--version`, and takes the comments out of the rulesets.

use std::path::Path;
use std::process::Command;

/// The rulesets, and where each goes to in cargo's directory. Their comments are for people: 2.5 KB of them.
const RULESETS: [(&str, &str); 2] =
    [("src/firewall/nft/table.nft", "table.nft"), ("src/firewall/iptables/mangle.rules", "mangle.rules")];

fn main() -> std::io::Result<()> {
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=KNOCKKNOCK_COMMIT={}", commit.trim());
    println!("cargo::rustc-env=KNOCKKNOCK_TARGET={target}");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    for (ruleset, name) in RULESETS {
        println!("cargo::rerun-if-changed={ruleset}");
        let text = std::fs::read_to_string(ruleset)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let bare: String = lines.flat_map(|line| [line, "\n"]).collect();
        std::fs::write(Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default()).join(name), bare)?;
    }
    Ok(())
}
