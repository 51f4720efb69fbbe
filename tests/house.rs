//! Checks the architecture: which files import which, where `unsafe` is, which files may start processes.
//!
//! The checks read the source files, without comments and without unit tests.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

/// Reads the floors from the table in src/lib.rs: the modules of each, lowest floor first.
fn floors() -> Vec<BTreeSet<String>> {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1);
    let floors: Vec<BTreeSet<String>> = rows
        .map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect())
        .collect();
    assert!(floors.len() > 5, "the table was found");
    floors.into_iter().rev().collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: its path below src, and its lines without comments and unit tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// The applet that the file belongs to.
    fn applet(&self) -> Option<&str> {
        self.path.strip_prefix("applet/").map(|rest| rest.split('/').next().unwrap().trim_end_matches(".rs"))
    }

    /// The nesting depth of the file's module; the crate root is 0.
    fn depth(&self) -> usize {
        match self.path.trim_end_matches(".rs").trim_end_matches("/mod") {
            "lib" | "main" => 0,
            module => 1 + module.matches('/').count(),
        }
    }

    /// The top-level modules that the file names, by `crate::` or by `super::`, in `use` lines and in code.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = self.words_after("crate::");
        found.extend(self.words_after(&"super::".repeat(self.depth())));
        found
    }

    /// The words that directly follow `prefix`. If a list in braces follows, all its items.
    fn words_after(&self, prefix: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices(prefix).filter(|_| !prefix.is_empty()) {
            let before = &self.code[..at];
            if before.ends_with("::") || before.ends_with(|char: char| char.is_alphanumeric() || char == '_') {
                continue;
            }
            let rest = &self.code[at + prefix.len()..];
            // The list in braces, without the lists nested in it.
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

    /// The path of the file's module, from the crate root.
    fn module_path(&self) -> Vec<&str> {
        match self.path.trim_end_matches(".rs").trim_end_matches("/mod") {
            "lib" | "main" => Vec::new(),
            module => module.split('/').collect(),
        }
    }

    /// All paths of more than one word: one for each name in `use` lines, and the full paths in code.
    fn uses(&self) -> Vec<Use> {
        let (mut found, mut code) = (Vec::new(), String::new());
        let mut lines = self.code.lines();
        while let Some(line) = lines.next() {
            let (public, used) = line.trim_start().split_once("use ").unwrap_or(("-", ""));
            if !matches!(public.split('(').next().unwrap().trim_end(), "" | "pub") {
                // A visibility, `pub(in crate::…)`, is not a dependency.
                code += &line.replace("(in crate::", "(");
                code.push('\n');
                continue;
            }
            let mut tree = used.to_owned();
            while !tree.contains(';') {
                tree += lines.next().unwrap();
            }
            let tree = tree.replace(" as ", "@");
            let mut tree = tree.split(';').next().unwrap().chars().filter(|char| !char.is_whitespace()).peekable();
            expand(&mut tree, &[], public.starts_with("pub"), &mut found);
        }
        for used in found.iter_mut().filter(|used| used.reexport_only) {
            used.reexport_only = !names(&code, &used.name);
        }
        let paths = code.split(|char: char| !char.is_alphanumeric() && !"_:".contains(char));
        found.extend(paths.filter(|path| path.contains("::")).map(|path| {
            let path: Vec<String> = path.split("::").map(str::to_owned).collect();
            Use { name: path.last().unwrap().clone(), path, public: false, reexport_only: false }
        }));
        found
    }

    fn names(&self, word: &str) -> bool {
        names(&self.code, word)
    }
}

fn names(code: &str, word: &str) -> bool {
    let boundary = |char: Option<char>| !char.is_some_and(|char| char.is_alphanumeric() || char == '_');
    code.match_indices(word)
        .any(|(at, _)| boundary(code[..at].chars().next_back()) && boundary(code[at + word.len()..].chars().next()))
}

/// A path in a source.
struct Use {
    path: Vec<String>,
    /// The name that the file has for it.
    name: String,
    /// Whether it is re-exported (`pub use`).
    public: bool,
    /// Whether it is re-exported and not used in the file itself.
    reexport_only: bool,
}

/// Collects the paths of a `use` tree, which must be without white space and with `@` instead of ` as `.
fn expand(tree: &mut Peekable<impl Iterator<Item = char>>, before: &[String], public: bool, found: &mut Vec<Use>) {
    let mut path = before.to_vec();
    let mut word = String::new();
    while let Some(char) = tree.next_if(|char| !",}".contains(*char)) {
        match char {
            ':' => {
                tree.next();
                path.push(std::mem::take(&mut word));
            }
            '{' => {
                while tree.peek().is_some_and(|&char| char != '}') {
                    expand(tree, &path, public, found);
                    tree.next_if_eq(&',');
                }
                tree.next();
                return;
            }
            char => word.push(char),
        }
    }
    let (word, name) = word.split_once('@').unwrap_or((&word, &word));
    if !matches!(word, "self" | "*") {
        path.push(word.to_owned());
    }
    found.push(Use { path, name: name.to_owned(), public, reexport_only: public });
}

fn sources() -> Vec<Source> {
    let root = root().join("src");
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

/// Fails the test with the list of violations, one a line, unless it is empty.
fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_every_syntax() {
    let source = |path: &str, code: &str| Source { path: path.into(), code: code.into() };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    let code = "use crate::{wire::{Keys, ports}, sys,\n say};\nfn f() { crate::klog::open(super::super::knocker::x) }";
    assert_eq!(source("klog/lines.rs", code).imports(), words(&["wire", "sys", "say", "klog", "knocker"]));
    assert_eq!(source("config.rs", "use super::{ini, wire::{self}};").imports(), words(&["ini", "wire"]));
    assert_eq!(source("klog/mod.rs", "use super::cli;").imports(), words(&["cli"]));
    assert_eq!(source("klog/lines.rs", "use super::cli;").imports(), words(&[]));
    let code = "use crate::applet::{connect::run, proxy}; use super::daemon;";
    assert_eq!(source("applet/knock.rs", code).words_after("crate::applet::"), words(&["connect", "proxy"]));
    assert_eq!(source("applet/knock.rs", code).words_after("super::"), words(&["daemon"]));
}

#[test]
fn a_file_imports_only_from_floors_below() {
    let (floors, mut wrong) = (floors(), Vec::new());
    let floor = |module: &str| {
        let found = floors.iter().position(|modules| modules.contains(module));
        found.unwrap_or_else(|| panic!("{module:?} is not on any floor of the table in src/lib.rs"))
    };
    for source in sources().iter().filter(|source| !["lib.rs", "main.rs"].contains(&source.path.as_str())) {
        let own = source.module();
        for import in source.imports() {
            if import != own && floor(&import) >= floor(own) {
                wrong.push(format!("{} imports {import}", source.path));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn the_design_document_lists_the_same_floors() {
    let Ok(document) = fs::read_to_string(root().join("docs/design.md")) else { return };
    for (number, modules) in floors().iter().enumerate() {
        let row = document.lines().find(|line| line.starts_with(&format!("| {number} | `")));
        let names = row.unwrap().split('|').nth(2).unwrap().split('`').skip(1).step_by(2);
        let listed: BTreeSet<String> = names.map(|name| name.trim_end_matches('/').to_owned()).collect();
        assert_eq!(&listed, modules, "floor {number}");
    }
}

/// The source files, by module path.
struct Files<'a>(BTreeMap<Vec<&'a str>, &'a Source>);

impl<'a> Files<'a> {
    fn of(sources: &'a [Source]) -> Self {
        Self(sources.iter().map(|source| (source.module_path(), source)).collect())
    }

    /// Finds the file that defines the item which `from` calls `path`; `None` if the item is not in this crate.
    fn defines(&self, from: &Source, path: &[String], depth: usize) -> Option<&'a Source> {
        assert!(depth < 20, "the re-exports of {path:?} form a cycle");
        let mut module = from.module_path();
        let mut rest = path.iter().map(String::as_str).peekable();
        match *rest.peek()? {
            "crate" => module.clear(),
            "super" | "self" => {}
            // A child module of `from`.
            name if self.0.contains_key(&[&module[..], &[name]].concat()) => {}
            _ => return None,
        }
        rest.next_if_eq(&"crate");
        while rest
            .next_if(|word| matches!(*word, "super" | "self"))
            .is_some_and(|word| word == "self" || module.pop().is_some())
        {}
        while let Some(name) = rest.peek() {
            let Some((deeper, _)) = self.0.get_key_value(&[&module[..], &[name]].concat()) else { break };
            module.clone_from(deeper);
            rest.next();
        }
        let file = *self.0.get(&module)?;
        // A re-exported name is defined in another file.
        let reexport =
            rest.next().and_then(|name| file.uses().into_iter().find(|used| used.public && used.name == name));
        reexport.and_then(|used| self.defines(file, &used.path, depth + 1)).or(Some(file))
    }
}

/// Finds the files in dependency cycles, each with the files in the cycle that it depends on.
fn cycles(sources: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let files = Files::of(sources);
    let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.depth() > 0) {
        let needed = needs.entry(&source.path).or_default();
        for used in source.uses().into_iter().filter(|used| !used.reexport_only) {
            let file = files.defines(source, &used.path, 0).map(|file| file.path.as_str());
            needed.extend(file.filter(|file| *file != source.path));
        }
    }
    // A file without dependencies, or without dependents, among the remaining files is in no cycle.
    loop {
        let before = needs.len();
        let left: BTreeSet<&str> = needs.keys().copied().collect();
        let needed: BTreeSet<&str> = needs.values().flatten().copied().collect();
        needs.values_mut().for_each(|of| of.retain(|file| left.contains(file)));
        needs.retain(|file, of| needed.contains(file) && !of.is_empty());
        if needs.len() == before {
            return needs;
        }
    }
}

#[test]
fn dependency_cycles_are_found_in_every_syntax() {
    let source = |(path, code): &(&str, &str)| Source { path: (*path).into(), code: (*code).into() };
    let seen = |files: &[(&str, &str)]| {
        cycles(&files.iter().map(source).collect::<Vec<_>>()).into_keys().map(str::to_owned).collect::<Vec<_>>()
    };
    let top = ("a/mod.rs", "mod b;\nmod c;\npub use b::{self, f as g};\npub(super) use c::C;");
    assert!(seen(&[top, ("a/b.rs", "use super::C;"), ("a/c.rs", "")]).is_empty(), "a module may re-export names");
    for (b, c) in [
        ("use super::c;", "use super::b::f;"),
        ("use crate::a::{c::{\n    C,\n}};", "fn c() { crate::a::g() }"),
        ("fn f() { super::C::new() }", "use super::{c, g};"),
    ] {
        assert_eq!(seen(&[top, ("a/b.rs", b), ("a/c.rs", c), ("d.rs", "use crate::a::g;")]), ["a/b.rs", "a/c.rs"]);
    }
    let user = ("a/mod.rs", "mod b;\npub use b::f;\npub const A: u8 = f();");
    assert_eq!(
        seen(&[user, ("a/b.rs", "use super::A;")]),
        ["a/b.rs", "a/mod.rs"],
        "a module uses the names that it re-exports"
    );
}

#[test]
fn no_files_depend_on_each_other_in_a_cycle() {
    assert_none(cycles(&sources()).iter().map(|(file, of)| format!("{file} depends on {of:?}")).collect());
}

/// Limits the code that an auditor of the root processes has to read, without comments, blank lines and tests.
#[test]
fn the_code_that_runs_as_root_is_short_and_its_length_is_published() {
    let sources = sources();
    let mut table = String::from("| process | file | lines of code |\n|---|---|---|\n");
    for (process, name, most) in [
        ("supervisor", "supervisor", 250),
        ("supervisor", "children", 125),
        ("supervisor", "child_exit", 50),
        ("supervisor", "trial", 100),
        ("supervisor", "setup", 250),
        ("supervisor", "configuration", 100),
        ("all three", "privileges", 100),
        ("opener", "opener", 150),
        ("opener", "unused_openings", 50),
    ] {
        let path = format!("applet/daemon/{name}.rs");
        let source = sources.iter().find(|source| source.path == path).unwrap();
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= most, "{path} has {lines} lines of code, more than {most}");
        table += &format!("| {process} | `src/{path}` | {lines} |\n");
    }
    // A comment marks the table in the document.
    if let Ok(document) = fs::read_to_string(root().join("docs/design.md")) {
        let wanted = format!("<!-- root lines -->\n{table}");
        assert!(document.contains(&wanted), "docs/design.md should say:\n{wanted}");
    }
}

#[test]
fn no_file_is_longer_than_300_lines_of_code() {
    let length = |source: &Source| source.code.lines().filter(|line| !line.trim().is_empty()).count();
    let sources = sources();
    let long = sources.iter().filter(|source| length(source) > 300);
    assert_none(long.map(|source| format!("{} has {} lines", source.path, length(source))).collect());
}

/// The linker script names modules as symbols do: each name after its length.
#[test]
fn the_linker_script_names_modules_that_exist() {
    let script = fs::read_to_string(root().join("scripts/layout.ld")).unwrap();
    let paths: Vec<String> = sources().iter().map(|source| format!("/{}", source.path)).collect();
    let exists = |pattern: &str| {
        let (mut rest, mut path) = (pattern, String::new());
        while let Some(end) = rest.find(|letter: char| !letter.is_ascii_digit()).filter(|&end| end > 0) {
            let (length, name) = rest.split_at(end);
            let (name, further) = name.split_at(length.parse().unwrap());
            path += &["/", name].concat();
            rest = further;
        }
        let path = path.strip_prefix("/knockknock").unwrap_or(&path);
        rest.is_empty()
            && paths.iter().any(|file| file.contains(&format!("{path}.rs")) || file.contains(&format!("{path}/")))
    };
    let patterns: Vec<&str> = script.split(".text.*").skip(1).map(|rest| rest.split_once('*').unwrap().0).collect();
    assert!(patterns.len() > 20, "the script was read");
    assert_none(patterns.into_iter().filter(|pattern| !exists(pattern)).map(str::to_owned).collect());
}

#[test]
fn no_applet_imports_another() {
    let sources = sources();
    let applets: BTreeSet<&str> = sources.iter().filter_map(Source::applet).filter(|name| *name != "mod").collect();
    let mut wrong = Vec::new();
    for source in &sources {
        let Some(own) = source.applet() else { continue };
        let mut named = source.words_after("crate::applet::");
        named.extend(source.words_after(&"super::".repeat(source.depth() - 1)));
        for other in applets.iter().filter(|other| **other != own && named.contains(**other)) {
            wrong.push(format!("{} imports applet {other}", source.path));
        }
    }
    assert_none(wrong);
}

/// Privileged code never names keys, and code that reads untrusted input never names the firewall.
#[test]
fn privileged_code_names_no_keys_and_the_watcher_no_firewall() {
    let mut wrong = Vec::new();
    for source in sources() {
        let privileged = source.path.starts_with("firewall/")
            || [
                "supervisor",
                "children",
                "child_exit",
                "trial",
                "setup",
                "configuration",
                "pause",
                "privileges",
                "opener",
                "unused_openings",
                "ipc",
                "log_target",
            ]
            .iter()
            .any(|name| source.path == format!("applet/daemon/{name}.rs"));
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
        // The opener does not read the log.
        if source.path == "applet/daemon/opener.rs" && source.names("klog") {
            wrong.push(format!("{} names klog", source.path));
        }
    }
    assert_none(wrong);
}

#[test]
fn unsafe_code_is_only_in_sys_and_is_justified() {
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
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nundocumented_unsafe_blocks = \"deny\"\n"), "clippy requires a SAFETY comment");
    assert_none(wrong);
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
        if source.imports().iter().any(|import| !["wire", "ports", "prefix", "search"].contains(&import.as_str())) {
            wrong.push(format!("{} imports {:?}", source.path, source.imports()));
        }
    }
    assert_none(wrong);
}

#[test]
fn one_file_each_ends_the_process_or_prints() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (word, places) in [
            ("argh", &["cli/start.rs"][..]),
            ("process::exit", &[]),
            ("ExitCode", &[]),
            ("io::stdout", &[]),
            ("io::stderr", &[]),
            ("process::standard", &["say.rs", "sys/sandbox/mod.rs"]),
        ] {
            if source.names(word) && !places.contains(&source.path.as_str()) {
                wrong.push(format!("{} names {word}", source.path));
            }
        }
    }
    assert_none(wrong);
}

/// Each of these brings 300 to 5,000 bytes of std along, even if it is used once.
#[test]
fn what_is_large_in_std_is_not_used() {
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| !["sys/attempt.rs", "applet/daemon/hooks.rs"].contains(&&*source.path))
    {
        for (word, instead) in [
            (":?}", "error::quoted"),
            ("io::Error::other(", "error::failure"),
            ("File::open(", "sys::file::open"),
            ("File::options(", "sys::file::open"),
            ("OpenOptions", "sys::file::open"),
            ("read_to_end(&mut", "sys::file::read_to_end"),
            ("read_to_string(", "sys::file::kernel_text"),
            ("fs::read(", "sys::file::read"),
            ("DirBuilder", "sys::file::create_directory"),
            ("env::var", "sys::process::variable"),
            (".replace(\"", "search::replace"),
            (".split_once(\"", "search::split_once"),
            ("rsplit_once(", "search::split_last"),
            ("to_socket_addrs", "sys::resolver::addresses"),
            (".display()", "to_string_lossy"),
        ] {
            let is_own = word.starts_with("io::Error") && source.path == "error.rs";
            if source.code.contains(word) && !is_own && !(word == "env::var" && source.path == "sys/child.rs") {
                wrong.push(format!("{} uses {word}: use {instead}", source.path));
            }
        }
    }
    assert_none(wrong);
}

/// With musl, only std's own start fills `std::env::args`, and we do not use that. With glibc it is filled anyway, so
/// other tests would not notice.
#[test]
fn std_is_not_asked_for_the_arguments() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.code.contains("env::args") {
            wrong.push(format!("{} uses std::env::args", source.path));
        }
    }
    assert_none(wrong);
}

#[test]
fn only_the_firewall_and_the_supervisor_start_processes() {
    let mut wrong = Vec::new();
    for source in sources() {
        for word in ["Command", "posix_spawn", "fork"] {
            if source.names(word) && !source.path.starts_with("sys/") {
                wrong.push(format!("{} names {word}", source.path));
            }
        }
        if source.code.contains("child::run(") && !source.path.starts_with("firewall/") {
            wrong.push(format!("{} runs a program", source.path));
        }
        if source.names("restart_self")
            && !["sys/child.rs", "applet/daemon/children.rs"].contains(&source.path.as_str())
        {
            wrong.push(format!("{} starts the binary again", source.path));
        }
        // The proof of doctor starts it in another namespace.
        for word in ["start_copy", "namespace::isolate"] {
            if source.code.contains(word) && !["sys/child.rs", "applet/daemon/proof.rs"].contains(&source.path.as_str())
            {
                wrong.push(format!("{} names {word}", source.path));
            }
        }
    }
    assert_none(wrong);
}

#[test]
fn test_hooks_are_never_in_a_release() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nhooks = []\n"));
    assert!(!manifest.contains("default ="), "no feature is on by default");
    for source in sources().iter().filter(|source| source.names("attempt::attempt")) {
        assert!(source.code.contains("#[cfg(feature = \"hooks\")]"), "{}", source.path);
    }
}

#[test]
fn every_test_named_in_the_security_document_exists() {
    let root = root();
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
    // The rows of every table of weaknesses, without the heading and the line below it.
    let tables = list.split("\n| weakness").skip(1);
    let rows: Vec<&str> =
        tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|'))).collect();
    assert!(rows.len() > 30, "the rows were found");
    let mut wrong = Vec::new();
    for row in rows {
        let shown: Vec<&str> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        if shown.is_empty() {
            wrong.push(format!("this row of SECURITY.md names no test: {row}"));
        }
        let there = |name: &str| tests.contains(&format!("def {name}(")) || tests.contains(&format!("fn {name}("));
        wrong.extend(
            shown
                .iter()
                .filter(|name| !there(name))
                .map(|name| format!("SECURITY.md names a test that does not exist: {name}")),
        );
    }
    assert_none(wrong);
}
