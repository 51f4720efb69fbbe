//! The findings of doctor: for each step, that it works, or what is wrong and what to do.

use crate::error::{Error, Result};
use crate::say;
use std::fmt;

/// Prints findings and counts those that are wrong.
pub struct Diagnosis {
    /// Whether to print JSON: one object a line.
    json: bool,
    wrong: usize,
    printed: Result<()>,
}

impl Diagnosis {
    /// Creates a diagnosis without findings.
    pub fn new(json: bool) -> Self {
        Self { json, wrong: 0, printed: Ok(()) }
    }

    /// Prints that `step` works.
    pub fn ok(&mut self, step: &str, what: fmt::Arguments<'_>) {
        self.print("ok", step, what, None);
    }

    /// Prints a note on `step`: something that may be intended.
    pub fn note(&mut self, step: &str, what: fmt::Arguments<'_>) {
        self.print("note", step, what, None);
    }

    /// Prints what is wrong with `step`, and what to do.
    pub fn wrong(&mut self, step: &str, what: fmt::Arguments<'_>, fix: &str) {
        self.wrong += 1;
        self.print("wrong", step, what, Some(fix));
    }

    /// Prints the error of `step`.
    pub fn error(&mut self, step: &str, error: &Error) {
        self.wrong += 1;
        self.print("wrong", step, format_args!("{error}"), error.advice());
    }

    /// Returns the value of a step that worked, or prints the error.
    pub fn value<T>(&mut self, step: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.error(step, &error)).ok()
    }

    /// Returns the exit code: 0 if nothing is wrong.
    pub fn end(self) -> Result<u8> {
        self.printed.map(|()| u8::from(self.wrong > 0))
    }

    fn print(&mut self, word: &str, step: &str, what: fmt::Arguments<'_>, fix: Option<&str>) {
        let what = what.to_string();
        let line = if self.json {
            let fix = fix.map_or_else(|| "null".to_owned(), say::json_string);
            let what = say::json_string(&what);
            // The other words need no escaping.
            format!("{{\"finding\":\"{word}\",\"step\":\"{step}\",\"what\":{what},\"fix\":{fix}}}\n")
        } else {
            let mut line = format!("{word:<6} {step:<14} {}\n", say::escaped(&what));
            if let Some(fix) = fix {
                line += &format!("{:<21} to fix it: {}\n", "", say::escaped(fix));
            }
            line
        };
        if self.printed.is_ok() {
            self.printed = say::print(&line);
        }
    }
}
