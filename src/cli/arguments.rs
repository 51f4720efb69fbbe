//! Command-line arguments, split as getopt_long(3) splits them: `-p 22`, `-p22`, `-46p22`, `--port 22` and `--port=22`,
//! options and operands in any order, and only operands after `--`.
//!
//! argh expects one UTF-8 word for each name and value, options first. A path need not be UTF-8, so the value of
//! `--dir` is stored separately. All other arguments must be UTF-8.

use crate::error::{Error, Result, quoted};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice::Iter;

/// The long options that take a value. The next word is always the value, even if it starts with a dash.
const VALUED: &[&str] = &[
    "--as",
    "--dir",
    "--link-port",
    "--links",
    "--listen",
    "--number",
    "--port",
    "--ports",
    "--trial",
    "--user",
    "--wire",
];

/// An applet's arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments<'a> {
    /// The command that was typed for the applet.
    pub command: String,
    /// The value of `--dir`.
    pub directory: Option<&'a Path>,
    /// The operands.
    pub operands: Vec<&'a OsStr>,
    /// The words for argh: names and values, options first.
    pub words: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    /// Splits `args`. `letters` are the one-letter options, with `:` after those that take a value.
    pub fn split(command: String, letters: &str, args: &'a [OsString]) -> Result<Self> {
        let mut split = Self { command, ..Self::default() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_bytes() {
                b"--" => split.operands.extend(args.by_ref().map(OsString::as_os_str)),
                [b'-', b'-', ..] => split.long(arg, &mut args)?,
                [b'-', _, ..] => split.letters(letters, text(arg)?, &mut args)?,
                _ => split.operands.push(arg),
            }
        }
        // After `--`, argh treats no word as an option or a request for help.
        split.words.push("--");
        for operand in &split.operands {
            split.words.push(text(operand)?);
        }
        Ok(split)
    }

    /// Treats all arguments as operands.
    pub fn raw(args: &'a [OsString]) -> Self {
        Self { operands: args.iter().map(OsString::as_os_str).collect(), ..Self::default() }
    }

    /// Parses `--name`, `--name value` or `--name=value`.
    fn long(&mut self, arg: &'a OsStr, following: &mut Iter<'a, OsString>) -> Result<()> {
        let mut parts = arg.as_bytes().splitn(2, |&byte| byte == b'=').map(OsStr::from_bytes);
        let name = text(parts.next().unwrap_or_default())?;
        match parts.next() {
            Some(value) => self.set(name, Some(value)),
            None if VALUED.contains(&name) => self.set(name, following.next().map(OsString::as_os_str)),
            None => {
                self.words.push(name);
                Ok(())
            }
        }
    }

    /// Parses the letters after one dash.
    fn letters(&mut self, known: &str, word: &'a str, following: &mut Iter<'a, OsString>) -> Result<()> {
        let mut rest = word.chars();
        rest.next();
        while let Some(letter) = rest.next() {
            // Never freed, like the other words, which are parts of argv.
            let name = format!("-{letter}").leak();
            if known.split_once(letter).is_some_and(|(_, behind)| behind.starts_with(':')) {
                let attached = Some(OsStr::new(rest.as_str())).filter(|attached| !attached.is_empty());
                return self.set(name, attached.or_else(|| following.next().map(OsString::as_os_str)));
            }
            // argh refuses unknown letters.
            self.words.push(if letter == 'h' { "--help" } else { name });
        }
        Ok(())
    }

    fn set(&mut self, name: &'a str, value: Option<&'a OsStr>) -> Result<()> {
        let wrong = |what: &str| Err(Error::usage(format!("option {name} {what}")));
        let Some(value) = value else { return wrong("needs a value") };
        // An empty path would mean the working directory. It usually comes from an unset variable.
        if value.is_empty() {
            return wrong("has an empty value");
        }
        let word = match name {
            "--dir" => {
                self.directory = Some(value.as_ref());
                "given"
            }
            _ => text(value)?,
        };
        self.words.push(name);
        self.words.push(word);
        Ok(())
    }
}

/// Returns an argument as text; an error if it is not UTF-8.
pub fn text(argument: &OsStr) -> Result<&str> {
    argument.to_str().ok_or_else(|| Error::usage(format!("argument {} is not UTF-8", quoted(argument))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(args: &[&str]) -> Result<Arguments<'static>> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Arguments::split("knockknock".into(), "p:46v", args.leak())
    }

    #[test]
    fn arguments_are_split_as_getopt_long_does() {
        for (args, wanted) in [
            (&["-p22", "host"][..], "-p 22 -- host"),
            (&["host", "-p", "22"], "-p 22 -- host"),
            (&["--port=22", "host"], "--port 22 -- host"),
            (&["--port", "22", "host"], "--port 22 -- host"),
            (&["-46p22", "host"], "-4 -6 -p 22 -- host"),
            (&["-p", "22", "-h"], "-p 22 --help --"),
            (&["-p", "22", "--", "-host", "--dir"], "-p 22 -- -host --dir"),
            (&["-p", "22", "-"], "-p 22 -- -"),
            (&["-p22", "help"], "-p 22 -- help"),
            (&["-x", "--frobnicate"], "-x --frobnicate --"),
        ] {
            assert_eq!(split(args).unwrap().words.join(" "), wanted, "{args:?}");
        }
    }

    #[test]
    fn a_value_may_start_with_a_dash() {
        let foo = split(&["-p", "-4", "--dir", "-foo", "host"]).unwrap();
        assert_eq!(foo.words.join(" "), "-p -4 --dir given -- host");
        assert_eq!(foo.directory, Some("-foo".as_ref()));
        assert_eq!(split(&["--dir=--help"]).unwrap().directory, Some("--help".as_ref()));
        assert_eq!(split(&["--dir", "--"]).unwrap().directory, Some("--".as_ref()));
    }

    #[test]
    fn an_argument_that_is_not_utf8_is_a_path_or_refused() {
        let odd = OsStr::from_bytes(b"x\xff").to_owned();
        for args in [["--dir".into(), odd.clone()], ["host".into(), OsStr::from_bytes(b"--dir=x\xff").to_owned()]] {
            let found = Arguments::split(String::new(), "", &args).unwrap();
            assert_eq!(found.directory, Some(odd.as_ref()));
        }
        for args in [["--user".into(), odd.clone()], ["host".into(), odd]] {
            let error = Arguments::split(String::new(), "", &args).unwrap_err();
            assert_eq!(error.to_string(), "argument \"x\\xFF\" is not UTF-8");
        }
    }

    #[test]
    fn an_empty_or_missing_value_is_refused() {
        assert_eq!(split(&["--dir"]).unwrap_err().to_string(), "option --dir needs a value");
        assert_eq!(split(&["-4p"]).unwrap_err().to_string(), "option -p needs a value");
        assert_eq!(split(&["--dir="]).unwrap_err().to_string(), "option --dir has an empty value");
        assert_eq!(split(&["-p", ""]).unwrap_err().to_string(), "option -p has an empty value");
    }
}
