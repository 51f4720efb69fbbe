//! Formats keys and values, as text or as JSON.

use crate::ports::Ports;
use crate::say::{self, Terminal};
use crate::search;

/// An output value.
pub(super) enum Value {
    /// A word or a sentence.
    Text(String),
    /// A number.
    Number(u64),
    /// Ports; `None` for any.
    Ports(Option<Ports>),
    /// A time in the past, in seconds since 1970.
    Time(u64),
    /// A duration in seconds.
    Seconds(u64),
    /// Yes or no.
    Flag {
        value: bool,
        /// Which of them is the good state.
        good: bool,
    },
    /// It has not happened yet.
    Never,
    /// Unknown or empty.
    Nothing,
}

/// The output of one refresh.
pub(super) struct Output {
    json: bool,
    terminal: Option<Terminal>,
    /// Seconds since 1970.
    pub(super) now: u64,
    text: String,
}

impl Output {
    /// Creates empty output: one JSON object, or text for a terminal.
    pub(super) fn new(json: bool, terminal: Option<Terminal>, now: u64) -> Self {
        Self { json, terminal, now, text: if json { "{" } else { "" }.into() }
    }

    /// Returns the whole text.
    pub(super) fn end(mut self) -> String {
        if self.json {
            self.text.push_str("}\n");
        }
        self.text
    }

    /// Adds an object. An object without values is omitted.
    pub(super) fn object(&mut self, title: &str, keys: &[&str], values: &[Value]) {
        if self.json {
            self.json_key(title);
            return self.json_object(keys, values);
        }
        if !values.is_empty() {
            self.line(title, BOLD);
        }
        for (key, value) in keys.iter().zip(values) {
            let is_bad = matches!(value, Value::Flag { value, good } if value != good);
            let mut line = String::from("  ");
            push_padded(&mut line, &search::replace(key, "_", " "), 14);
            line.push_str(&self.render(value));
            self.line(&line, if is_bad { RED } else { "" });
        }
    }

    /// Adds a list of objects, which is a table in text output.
    pub(super) fn list(&mut self, title: &str, keys: &[&str], rows: &[Vec<Value>]) {
        if self.json {
            self.json_key(title);
            self.text.push('[');
            for row in rows {
                self.json_comma();
                self.json_object(keys, row);
            }
            return self.text.push(']');
        }
        self.line(title, BOLD);
        if rows.is_empty() {
            return self.line("  none", "");
        }
        let mut columns = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let mut cells = vec![search::replace(key, "_", " ")];
            for row in rows {
                cells.push(self.render(row.get(at).unwrap_or(&Value::Nothing)));
            }
            let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
            columns.push((cells, width));
        }
        for at in 0..=rows.len() {
            let mut line = String::new();
            for (cells, width) in &columns {
                line.push_str("  ");
                push_padded(&mut line, cells.get(at).map_or("", String::as_str), *width);
            }
            self.line(&line, if at == 0 { DIM } else { "" });
        }
    }

    /// Adds a line, cut to the width of the terminal.
    fn line(&mut self, line: &str, colour: &str) {
        let (columns, colours) =
            self.terminal.map_or((usize::MAX, false), |terminal| (terminal.columns, terminal.colours));
        let colour = if colours { colour } else { "" };
        self.text.push_str(colour);
        self.text.extend(line.trim_ascii_end().chars().take(columns));
        self.text.push_str(if colour.is_empty() { "\n" } else { "\x1b[0m\n" });
    }

    fn json_comma(&mut self) {
        if !self.text.ends_with(['{', '[']) {
            self.text.push(',');
        }
    }

    fn json_key(&mut self, key: &str) {
        self.json_comma();
        self.text.push_str(&say::json_string(key));
        self.text.push(':');
    }

    fn json_object(&mut self, keys: &[&str], values: &[Value]) {
        if values.is_empty() {
            return self.text.push_str("null");
        }
        self.text.push('{');
        for (key, value) in keys.iter().zip(values) {
            self.json_key(key);
            self.text.push_str(&self.render(value));
        }
        self.text.push('}');
    }

    fn render(&self, value: &Value) -> String {
        let word = match (value, self.json) {
            (Value::Text(text), true) => return say::json_string(text),
            (Value::Text(text), false) => return say::escaped(text),
            (Value::Ports(Some(ports)), true) => return ["[", &ports.to_string(), "]"].concat(),
            (Value::Ports(Some(ports)), false) if !ports.is_empty() => return ports.to_string(),
            (Value::Time(time), false) => return duration(self.now.saturating_sub(*time)) + " ago",
            (Value::Seconds(seconds), false) => return duration(*seconds),
            (Value::Number(number) | Value::Time(number) | Value::Seconds(number), _) => return number.to_string(),
            (Value::Flag { value: true, .. }, true) => "true",
            (Value::Flag { value: false, .. }, true) => "false",
            (Value::Flag { value: true, .. }, false) => "yes",
            (Value::Flag { value: false, .. }, false) => "no",
            (_, true) => "null",
            (Value::Ports(None), false) => "any",
            (Value::Ports(_), false) => "none",
            (Value::Never, false) => "never",
            (Value::Nothing, false) => "-",
        };
        word.into()
    }
}

/// Escape sequences for colours.
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";

fn push_padded(line: &mut String, cell: &str, width: usize) {
    line.push_str(cell);
    for _ in cell.chars().count()..width {
        line.push(' ');
    }
}

/// Formats a duration in its largest unit.
fn duration(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..120 => (seconds, " s"),
        120..7200 => (seconds / 60, " min"),
        7200..172_800 => (seconds / 3600, " h"),
        _ => (seconds / 86_400, " days"),
    };
    number.to_string() + unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn output(json: bool, terminal: Option<Terminal>) -> String {
        let mut output = Output::new(json, terminal, NOW);
        let problem = Value::Text("a \"b\"\\\n\u{7f}é".into());
        output.object("daemon", &["running", "a_problem"], &[Value::Flag { value: false, good: true }, problem]);
        output.object("missing", &["left"], &[]);
        let phone = vec![
            Value::Text("phone".into()),
            Value::Number(7),
            Value::Ports(Some(Ports::parse("22,443").unwrap())),
            Value::Time(NOW - 200),
        ];
        let other = vec![Value::Text("é".into()), Value::Number(65535), Value::Ports(None), Value::Nothing];
        output.list("profiles", &["name", "knock_port", "ports", "last_knock"], &[phone, other]);
        output.list("openings", &["port"], &[]);
        output.end()
    }

    #[test]
    fn json_is_one_line_with_escaped_strings() {
        let wanted = [
            r#"{"daemon":{"running":false,"a_problem":"a \"b\"\\\u000a\u007fé"},"missing":null,"profiles":["#,
            r#"{"name":"phone","knock_port":7,"ports":[22,443],"last_knock":999800},"#,
            r#"{"name":"é","knock_port":65535,"ports":null,"last_knock":null}],"openings":[]}"#,
            "\n",
        ];
        assert_eq!(output(true, None), wanted.concat());
    }

    #[test]
    fn columns_are_aligned() {
        let wanted = "daemon\n  running       no\n  a problem     a \"b\"\\\\x0a\\x7fé\nprofiles\n  \
            name   knock port  ports   last knock\n  phone  7           22,443  3 min ago\n  é      65535       any     -\n\
            openings\n  none\n";
        assert_eq!(output(false, None), wanted);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let on = |colours| output(false, Some(Terminal { columns: 12, colours }));
        assert!(on(false).lines().all(|line| line.chars().count() <= 12));
        assert!(on(false).contains("\n  é      655\n"));
        assert!(on(true).contains("\x1b[31m  running   \x1b[0m\n"));
    }

    #[test]
    fn durations_have_one_unit() {
        let all = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(duration);
        assert_eq!(all, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
