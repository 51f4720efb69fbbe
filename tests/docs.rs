//! The documents: their links, and what the README promises to be.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document for people: those in the top folder, and docs/.
fn documents() -> Vec<PathBuf> {
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = files(root().to_owned())
        .chain(files(root().join("docs")))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    assert!(found.len() > 6, "the documents were found");
    found
}

/// The targets of a document's links and pictures.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text).filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap();
            if !document.parent().unwrap().join(file).is_file() {
                wrong.push(format!("{} links to {link}, which does not exist", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_readme_is_short_enough_for_a_newcomer() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 180, "README.md has {lines} lines, more than 180");
}

#[test]
fn the_documents_name_one_host() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let words = text.split(|char: char| !char.is_ascii_alphanumeric() && !".-".contains(char));
        let hosts = words.filter(|word| word.trim_end_matches('.').contains(".example"));
        wrong.extend(hosts.filter(|host| host.trim_end_matches('.') != "server.example.org").map(str::to_owned));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
