//! completions: what a shell offers behind a tab, made from the same help that people read.

use crate::error::{Error, Result};
use std::fmt::Write;

/// An applet as its row and its help describe it.
pub struct Described {
    /// Its name behind `knockknock`.
    pub name: &'static str,
    /// Its name as a link to the binary.
    pub alias: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// The text of its `--help`.
    pub help: String,
}

impl Described {
    /// Its long options, each with its description, which the help may have wrapped.
    fn options(&self) -> Vec<(&str, String)> {
        let mut options: Vec<(&str, String)> = Vec::new();
        for line in self.help.lines().skip_while(|line| *line != "Options:").skip(1) {
            let text = line.trim_start();
            if !text.starts_with('-') {
                if let Some((_, what)) = options.last_mut() {
                    what.push(' ');
                    what.push_str(text);
                }
                continue;
            }
            // `-p, --port        the port to open`; argh writes its own as `--help, help`.
            let long =
                text.find("--").and_then(|at| text.get(at..)).and_then(|text| text.split_once(char::is_whitespace));
            if let Some((option, what)) = long {
                let what = what.trim_start().trim_start_matches("help ").trim_start();
                options.push((option.trim_end_matches(','), what.into()));
            }
        }
        options
    }
}

/// The script for `shell`: bash, zsh or fish.
pub fn script(shell: &str, applets: &[Described]) -> Result<String> {
    match shell {
        "bash" => Ok(bash(applets)),
        "zsh" => Ok(zsh(applets)),
        "fish" => Ok(fish(applets)),
        _ => Err(Error::Usage(format!("{shell:?} is no shell we know: bash, zsh or fish"))),
    }
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

fn bash(applets: &[Described]) -> String {
    let mut cases = String::new();
    for applet in applets {
        let options = words(applet.options().into_iter().map(|(option, _)| option));
        let _ = writeln!(cases, "    {}|{}) words=\"{options}\" ;;", applet.alias, applet.name);
    }
    let names = words(applets.iter().map(|applet| applet.name));
    let aliases = words(applets.iter().map(|applet| applet.alias));
    format!(
        "_knockknock() {{\n\
         \x20 local words applet=${{1##*/}}\n\
         \x20 if [[ $applet == knockknock && $COMP_CWORD -gt 1 && ${{COMP_WORDS[1]}} != -* ]]; then applet=${{COMP_WORDS[1]}}; fi\n\
         \x20 case $applet in\n{cases}  esac\n\
         \x20 if [[ $applet == knockknock && $COMP_CWORD -eq 1 ]]; then words=\"$words {names}\"; fi\n\
         \x20 mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$2\")\n\
         }}\n\
         complete -o default -F _knockknock {aliases}\n"
    )
}

fn zsh(applets: &[Described]) -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''").replace(['[', ']', ':'], " ");
    let mut cases = String::new();
    for applet in applets {
        let _ = write!(cases, "    {}|{}) _arguments", applet.alias, applet.name);
        for (option, what) in applet.options() {
            let _ = write!(cases, " '{option}[{}]'", quoted(&what));
        }
        cases.push_str(" '*:: :_default' ;;\n");
    }
    let aliases = words(applets.iter().map(|applet| applet.alias));
    let mut names = String::new();
    for applet in applets {
        let _ = write!(names, " '{}:{}'", applet.name, quoted(applet.summary));
    }
    format!(
        "#compdef {aliases}\n\
         local applet=${{words[1]:t}}\n\
         local -a applets=({names} )\n\
         if [[ $applet == knockknock && $CURRENT -eq 2 && ${{words[2]}} != -* ]]; then _describe applet applets; fi\n\
         if [[ $applet == knockknock && $CURRENT -gt 2 && ${{words[2]}} != -* ]]; then applet=${{words[2]}}; fi\n\
         case $applet in\n{cases}esac\n"
    )
}

fn fish(applets: &[Described]) -> String {
    let quoted = |text: &str| text.replace('\'', "\\'");
    let mut script = String::new();
    for applet in applets {
        let _ = writeln!(
            script,
            "complete -c knockknock -n __fish_use_subcommand -a {} -d '{}'",
            applet.name,
            quoted(applet.summary)
        );
        for (option, what) in applet.options() {
            let (option, what) = (option.trim_start_matches('-'), quoted(&what));
            let _ = writeln!(
                script,
                "complete -c knockknock -n '__fish_seen_subcommand_from {}' -l {option} -d '{what}'",
                applet.name
            );
            let _ = writeln!(script, "complete -c {} -l {option} -d '{what}'", applet.alias);
        }
    }
    script
}
