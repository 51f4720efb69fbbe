//! The house stands as it was drawn: who imports whom, where `unsafe` is, who may start processes.
//!
//! Read from the sources' own lines, tests in them left out.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the ground up: a file imports only from floors below its own, and from its own module.
const FLOORS: &[&[&str]] = &[
    &["error", "ports"],
    &["wire", "ini", "sys"],
    &["say"],
    &["config"],
    &["profile", "klog", "firewall"],
    &["knocker"],
    &["tunnel"],
    &["applet"],
    &["cli"],
];

/// A source file: its path below src, and its lines without comments and without its tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The module of the library that it belongs to.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// The applet that it belongs to.
    fn applet(&self) -> Option<&str> {
        self.path.strip_prefix("applet/").map(|rest| rest.split('/').next().unwrap().trim_end_matches(".rs"))
    }

    /// How many modules deep it is: what stands in the crate itself is 0.
    fn depth(&self) -> usize {
        match self.path.trim_end_matches(".rs").trim_end_matches("/mod") {
            "lib" | "main" => 0,
            module => 1 + module.matches('/').count(),
        }
    }

    /// The modules of the crate that it names, wherever and however it does.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = self.behind("crate::");
        found.extend(self.behind(&"super::".repeat(self.depth())));
        found
    }

    /// The words behind `prefix`; of a list in braces each.
    fn behind(&self, prefix: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices(prefix).filter(|_| !prefix.is_empty()) {
            let before = &self.code[..at];
            if before.ends_with("::") || before.ends_with(|char: char| char.is_alphanumeric() || char == '_') {
                continue;
            }
            let rest = &self.code[at + prefix.len()..];
            // A list in braces without those within it.
            let (mut depth, mut list) = (0, String::new());
            for char in rest.chars() {
                match char {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ if depth == 1 => list.push(char),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            let word = |text: &str| {
                text.trim().split(|char: char| !char.is_alphanumeric() && char != '_').next().unwrap().to_owned()
            };
            match rest.starts_with('{') {
                true => found.extend(list.split(',').map(word)),
                false => drop(found.insert(word(rest))),
            }
        }
        found.retain(|word| !["", "super", "self"].contains(&word.as_str()));
        found
    }

    fn names(&self, word: &str) -> bool {
        let boundary = |char: Option<char>| !char.is_some_and(|char| char.is_alphanumeric() || char == '_');
        self.code.match_indices(word).any(|(at, _)| {
            boundary(self.code[..at].chars().next_back()) && boundary(self.code[at + word.len()..].chars().next())
        })
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(source(&root, path));
        }
    }
    assert!(found.len() > 30, "the sources were found");
    found
}

fn source(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    let code: Vec<&str> = lines.filter(|line| !line.trim_start().starts_with("//")).collect();
    Source { path: path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), code: code.join("\n") }
}

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("{module:?} stands on no floor"))
}

/// What is wrong, one line each; a test fails with the whole list.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn an_import_is_seen_however_it_is_written() {
    let source = |path: &str, code: &str| Source { path: path.into(), code: code.into() };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    let code = "use crate::{wire::{Keys, ports}, sys,\n say};\nfn f() { crate::klog::open(super::super::knocker::x) }";
    assert_eq!(source("klog/lines.rs", code).imports(), words(&["wire", "sys", "say", "klog", "knocker"]));
    assert_eq!(source("config.rs", "use super::{ini, wire::{self}};").imports(), words(&["ini", "wire"]));
    assert_eq!(source("klog/mod.rs", "use super::cli;").imports(), words(&["cli"]));
    assert_eq!(source("klog/lines.rs", "use super::cli;").imports(), words(&[]));
    let code = "use crate::applet::{connect::run, proxy}; use super::daemon;";
    assert_eq!(source("applet/knock.rs", code).behind("crate::applet::"), words(&["connect", "proxy"]));
    assert_eq!(source("applet/knock.rs", code).behind("super::"), words(&["daemon"]));
}

#[test]
fn a_file_imports_only_from_floors_below() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !["lib.rs", "main.rs"].contains(&source.path.as_str())) {
        let own = source.module();
        for import in source.imports() {
            if import != own && floor(&import) >= floor(own) {
                wrong.push(format!("{} imports {import}", source.path));
            }
        }
    }
    none(wrong);
}

#[test]
fn no_applet_imports_another() {
    let sources = sources();
    let applets: BTreeSet<&str> = sources.iter().filter_map(Source::applet).filter(|name| *name != "mod").collect();
    let mut wrong = Vec::new();
    for source in &sources {
        let Some(own) = source.applet() else { continue };
        let mut named = source.behind("crate::applet::");
        named.extend(source.behind(&"super::".repeat(source.depth() - 1)));
        for other in applets.iter().filter(|other| **other != own && named.contains(**other)) {
            wrong.push(format!("{} imports applet {other}", source.path));
        }
    }
    none(wrong);
}

/// Those who hold privileges never name keys, and who reads what strangers wrote never names the firewall.
#[test]
fn the_two_doors_are_locked() {
    let mut wrong = Vec::new();
    for source in sources() {
        let privileged = source.path.starts_with("firewall/")
            || ["applet/daemon/supervisor.rs", "applet/daemon/opener.rs"].contains(&source.path.as_str());
        for secret in ["Keys", "Profile", "Counter", "unseal", "seal"].iter().filter(|_| privileged) {
            if source.names(secret) {
                wrong.push(format!("{} names {secret}", source.path));
            }
        }
        if source.path.starts_with("applet/daemon/watcher/")
            && (source.imports().contains("firewall") || source.code.contains("firewall::"))
        {
            wrong.push(format!("{} names firewall", source.path));
        }
        // The opener never sees the log, nor the supervisor a line of it.
        if source.path == "applet/daemon/opener.rs" && source.names("klog") {
            wrong.push(format!("{} names klog", source.path));
        }
    }
    none(wrong);
}

#[test]
fn unsafe_is_in_sys_alone_and_each_has_its_reason() {
    let mut wrong = Vec::new();
    for source in sources() {
        let inside = source.path.starts_with("sys/");
        if source.names("unsafe") && !inside {
            wrong.push(format!("{} has unsafe", source.path));
        }
        if source.code.contains("allow(unsafe_code)") && source.path != "sys/mod.rs" {
            wrong.push(format!("{} allows unsafe", source.path));
        }
        if source.names("undocumented_unsafe_blocks") {
            wrong.push(format!("{} allows unsafe without a reason", source.path));
        }
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nundocumented_unsafe_blocks = \"deny\"\n"), "a reason is asked for by clippy");
    none(wrong);
}

#[test]
fn wire_is_pure() {
    let impure =
        ["std::fs", "std::net::Tcp", "std::net::Udp", "std::time", "std::process", "std::env", "std::os", "libc"];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module() == "wire") {
        wrong.extend(
            impure
                .iter()
                .filter(|word| source.code.contains(**word))
                .map(|word| format!("{} uses {word}", source.path)),
        );
        if source.imports().iter().any(|import| !["wire", "ports"].contains(&import.as_str())) {
            wrong.push(format!("{} imports {:?}", source.path, source.imports()));
        }
    }
    none(wrong);
}

#[test]
fn one_file_each_names_argh_ends_the_process_or_prints() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (word, places) in [
            ("argh", &["cli.rs"][..]),
            ("process::exit", &[]),
            ("ExitCode", &["main.rs"]),
            ("io::stdout", &["say.rs"]),
            ("io::stderr", &["say.rs", "sys/sandbox/mod.rs"]),
        ] {
            if source.names(word) && !places.contains(&source.path.as_str()) {
                wrong.push(format!("{} names {word}", source.path));
            }
        }
    }
    none(wrong);
}

#[test]
fn child_processes_are_started_in_sys_for_firewall_and_keeper_alone() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.names("Command") && !source.path.starts_with("sys/") {
            wrong.push(format!("{} names Command", source.path));
        }
        if source.code.contains("process::run(") && !source.path.starts_with("firewall/") {
            wrong.push(format!("{} runs a program", source.path));
        }
        if source.names("restart_self")
            && !["sys/process.rs", "applet/daemon/supervisor.rs"].contains(&source.path.as_str())
        {
            wrong.push(format!("{} starts the binary again", source.path));
        }
    }
    none(wrong);
}

#[test]
fn what_runs_for_tests_is_never_in_a_release() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nhooks = []\n"));
    assert!(!manifest.contains("default ="), "no feature is on by itself");
    for source in sources().iter().filter(|source| source.names("attempt::attempt")) {
        assert!(source.code.contains("#[cfg(feature = \"hooks\")]"), "{}", source.path);
    }
}

#[test]
fn every_test_that_the_security_list_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut tests = String::new();
    let mut paths = vec![root.join("src"), root.join("tests")];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            tests += &fs::read_to_string(&path).unwrap();
        }
    }
    let rows = list.lines().skip_while(|line| !line.starts_with("| weakness")).skip(2);
    let mut wrong = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let shown: Vec<&str> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        if shown.is_empty() {
            wrong.push(format!("no test in {row}"));
        }
        let there = |name: &str| tests.contains(&format!("def {name}(")) || tests.contains(&format!("fn {name}("));
        wrong.extend(shown.iter().filter(|name| !there(name)).map(|name| format!("no test is called {name}")));
    }
    none(wrong);
}
