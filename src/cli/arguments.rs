//! Command-line arguments, split as getopt_long(3) splits them: `-p 22`, `-p22`, `-46p22`, `--port 22`
//! and `--port=22`, options and operands in any order, and only operands after `--`.
//!
//! An argument need not be UTF-8. Paths are taken as they are; everything else is checked by [`text`].

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The arguments that an applet takes, in the form in which its help shows them.
pub struct Syntax {
    /// The required options and the operands, such as `-p PORT HOST`; an optional operand is in brackets.
    pub usage: &'static str,
    /// The options, one a line: `  -p, --port PORT  what it is for`. A switch has no value; a line that
    /// does not start with a dash continues the description above it.
    pub options: &'static str,
}

/// An option, as its line in [`Syntax::options`] describes it.
#[derive(Clone, Copy)]
struct Spec {
    /// `-p`, or empty.
    short: &'static str,
    /// `--port`.
    long: &'static str,
    takes_value: bool,
}

/// An applet's arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Long names and values; a switch's value is empty.
    options: Vec<(&'static str, OsString)>,
    operands: Vec<OsString>,
}

impl Syntax {
    fn specs(&self) -> impl Iterator<Item = Spec> {
        self.options.lines().map(str::trim_start).filter(|line| line.starts_with('-')).map(|line| {
            let mut spec = Spec { short: "", long: "", takes_value: false };
            let names = line.split("  ").next().unwrap_or_default();
            for word in names.split([',', ' ']).filter(|word| !word.is_empty()) {
                match word {
                    long if long.starts_with("--") => spec.long = long,
                    short if short.starts_with('-') => spec.short = short,
                    _value => spec.takes_value = true,
                }
            }
            spec
        })
    }

    /// The option called `name`, and that name.
    fn find(&self, name: &[u8]) -> Result<(Spec, &'static str)> {
        let mut named = self.specs().flat_map(|spec| [(spec, spec.short), (spec, spec.long)]);
        let found = named.find(|(_, known)| known.as_bytes() == name);
        found.ok_or_else(|| Error::Usage(format!("unknown option {:?}", OsStr::from_bytes(name))))
    }
}

impl Arguments {
    /// Parses `args` according to `syntax`; `None` when they ask for help.
    pub fn parse(syntax: &Syntax, args: &[OsString]) -> Result<Option<Self>> {
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_bytes() {
                b"--" => parsed.operands.extend(args.by_ref().cloned()),
                b"--help" => return Ok(None),
                [b'-', b'-', ..] => parsed.long(syntax, arg, &mut args)?,
                [b'-', letters @ ..] if !letters.is_empty() => {
                    if !parsed.letters(syntax, letters, &mut args)? {
                        return Ok(None);
                    }
                }
                _ => parsed.operands.push(arg.clone()),
            }
        }
        parsed.require(syntax)?;
        Ok(Some(parsed))
    }

    /// Takes all arguments as operands.
    pub fn raw(args: &[OsString]) -> Self {
        Self { options: Vec::new(), operands: args.into() }
    }

    /// Takes `--name`, `--name value` or `--name=value`.
    fn long<'a>(
        &mut self,
        syntax: &Syntax,
        arg: &OsStr,
        following: &mut impl Iterator<Item = &'a OsString>,
    ) -> Result<()> {
        let mut parts = arg.as_bytes().splitn(2, |&byte| byte == b'=');
        let option = syntax.find(parts.next().unwrap_or_default())?;
        let value = parts.next().map(|value| OsStr::from_bytes(value).to_owned());
        if value.is_some() && !option.0.takes_value {
            return Err(Error::Usage(format!("option {} takes no value", option.1)));
        }
        self.set(option, || value.or_else(|| following.next().cloned()))
    }

    /// Takes the letters behind one dash; false when one of them asks for help.
    fn letters<'a>(
        &mut self,
        syntax: &Syntax,
        letters: &[u8],
        following: &mut impl Iterator<Item = &'a OsString>,
    ) -> Result<bool> {
        let mut rest = letters;
        while let [letter, behind @ ..] = rest {
            if *letter == b'h' {
                return Ok(false);
            }
            let option = syntax.find(&[b'-', *letter])?;
            let attached = (!behind.is_empty()).then(|| OsStr::from_bytes(behind).to_owned());
            self.set(option, || attached.or_else(|| following.next().cloned()))?;
            rest = if option.0.takes_value { &[] } else { behind };
        }
        Ok(true)
    }

    fn set(&mut self, (spec, name): (Spec, &str), value: impl FnOnce() -> Option<OsString>) -> Result<()> {
        let wrong = |what: &str| Err(Error::Usage(format!("option {name} {what}")));
        if !spec.takes_value {
            self.options.push((spec.long, OsString::new()));
            return Ok(());
        }
        match value() {
            None => wrong("needs a value"),
            // An empty path would be the working directory; nobody means that by an unset variable.
            Some(value) if value.is_empty() => wrong("has an empty value"),
            Some(_) if self.has(spec.long) => wrong("is given twice"),
            Some(value) => {
                self.options.push((spec.long, value));
                Ok(())
            }
        }
    }

    /// Checks that what the usage line lists is there, and no operand more.
    fn require(&self, syntax: &Syntax) -> Result<()> {
        let missing = |what: String| Err(Error::Usage(format!("{what} is missing")));
        let mut operands = self.operands.iter();
        let mut words = syntax.usage.split_whitespace();
        while let Some(word) = words.next() {
            if word.starts_with('-') {
                let value = words.next().unwrap_or_default();
                if !self.has(syntax.find(word.as_bytes())?.0.long) {
                    return missing(format!("{word} {value}"));
                }
            } else if operands.next().is_none() && !word.starts_with('[') {
                return missing(word.into());
            }
        }
        match operands.next() {
            Some(extra) => Err(Error::Usage(format!("unexpected argument {extra:?}"))),
            None => Ok(()),
        }
    }

    /// Whether the option `long` is given.
    pub fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == long)
    }

    /// The value of option `long`, as bytes: for paths.
    pub fn value(&self, long: &str) -> Option<&OsStr> {
        self.options.iter().find(|(name, _)| *name == long).map(|(_, value)| value.as_os_str())
    }

    /// The value of option `long`, which must be UTF-8.
    pub fn text_of(&self, long: &str) -> Result<Option<&str>> {
        self.value(long).map(text).transpose()
    }

    /// All operands.
    pub fn operands(&self) -> &[OsString] {
        &self.operands
    }

    /// The operand with that index, which must be UTF-8; empty where it is optional and missing.
    pub fn operand(&self, index: usize) -> Result<&str> {
        self.operands.get(index).map_or(Ok(""), |operand| text(operand))
    }
}

/// An argument as text; an error where it is not UTF-8.
pub fn text(argument: &OsStr) -> Result<&str> {
    argument.to_str().ok_or_else(|| Error::Usage(format!("argument {argument:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNTAX: Syntax = Syntax {
        usage: "-p PORT HOST [NAME]",
        options: "
  -p, --port PORT  the port
  -4, --ipv4       only IPv4,
                   not IPv6
  -6, --ipv6       only IPv6
      --dir DIR    where it is
  -h, --help       show this help
",
    };

    fn parse(args: &[&str]) -> Result<Option<Arguments>> {
        Arguments::parse(&SYNTAX, &args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn given(args: &[&str]) -> String {
        let parsed = parse(args).unwrap().unwrap();
        let mut words: Vec<_> =
            parsed.options.iter().map(|(name, value)| format!("{name}={}", value.display())).collect();
        words.sort();
        words.extend(parsed.operands.iter().map(|operand| operand.display().to_string()));
        words.join(" ")
    }

    #[test]
    fn arguments_are_split_as_getopt_long_does() {
        for (args, wanted) in [
            (&["-p22", "host"][..], "--port=22 host"),
            (&["host", "-p", "22"], "--port=22 host"),
            (&["--port=22", "host"], "--port=22 host"),
            (&["--port", "22", "host"], "--port=22 host"),
            (&["-46p22", "host"], "--ipv4= --ipv6= --port=22 host"),
            (&["-p", "22", "--", "-host", "--dir"], "--port=22 -host --dir"),
            (&["-p", "22", "-"], "--port=22 -"),
            (&["-p22", "--dir=a=b", "host"], "--dir=a=b --port=22 host"),
        ] {
            assert_eq!(given(args), wanted, "{args:?}");
        }
    }

    #[test]
    fn a_value_may_start_with_a_dash() {
        assert_eq!(given(&["-p", "-4", "--dir", "-foo", "host"]), "--dir=-foo --port=-4 host");
        assert_eq!(given(&["-p22", "--dir", "--", "host"]), "--dir=-- --port=22 host");
        assert_eq!(given(&["-p22", "--dir=--help", "host"]), "--dir=--help --port=22 host");
    }

    #[test]
    fn help_is_found_before_what_is_missing() {
        for args in [&["-h"][..], &["--help"], &["-4h"], &["host", "--help", "--frobnicate"]] {
            assert_eq!(parse(args).unwrap(), None, "{args:?}");
        }
        assert_eq!(given(&["-p22", "help"]), "--port=22 help", "a host may be called so");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (args, why) in [
            (&["--frobnicate"][..], "unknown option \"--frobnicate\""),
            (&["-x"], "unknown option \"-x\""),
            (&["-4x"], "unknown option \"-x\""),
            (&["-4-"], "unknown option \"--\""),
            (&["-p"], "option -p needs a value"),
            (&["--dir"], "option --dir needs a value"),
            (&["--dir="], "option --dir has an empty value"),
            (&["-p", "", "host"], "option -p has an empty value"),
            (&["--ipv4=1"], "option --ipv4 takes no value"),
            (&["-p1", "--port", "2"], "option --port is given twice"),
            (&["host"], "-p PORT is missing"),
            (&["-p", "22"], "HOST is missing"),
            (&["-p", "22", "host", "name", "extra"], "unexpected argument \"extra\""),
        ] {
            assert_eq!(parse(args).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn an_argument_that_is_not_utf8_is_a_path_or_refused() {
        let odd = OsStr::from_bytes(b"x\xff");
        let args = ["-p22".into(), "--dir".into(), odd.to_owned(), odd.to_owned()];
        let parsed = Arguments::parse(&SYNTAX, &args).unwrap().unwrap();
        assert_eq!(parsed.value("--dir"), Some(odd));
        assert_eq!(parsed.operand(0).unwrap_err().to_string(), "argument \"x\\xFF\" is not UTF-8");
        let error = Arguments::parse(&SYNTAX, &[OsStr::from_bytes(b"-\xff").to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "unknown option \"-\\xFF\"");
    }
}
