//! Passes commit and target to the compiler, for `--version`, and strips the comments from the rulesets.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The rulesets, below src/firewall. Stripping their comments saves 4 KB in the binary.
const RULESETS: [&str; 5] =
    ["nft/sets.nft", "nft/chains.nft", "nft/at_syn.nft", "nft/at_ack.nft", "iptables/mangle.rules"];

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
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for ruleset in RULESETS {
        let path = Path::new("src/firewall").join(ruleset);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = std::fs::read_to_string(&path)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let bare: String = lines.flat_map(|line| [line, "\n"]).collect();
        std::fs::write(out.join(path.file_name().unwrap_or_default()), bare)?;
    }
    Ok(())
}
