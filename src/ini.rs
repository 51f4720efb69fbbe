//! Parses INI files as version 0.8 did (with Python 2's ConfigParser).
//!
//! It accepts `key=value`, `key = value` and `key: value`, with keys in any case. Lines that start with `#`, `;` or
//! `rem ` are comments, and so is the text after ` ;` or ` #` in a value. A line that starts with white space continues
//! the previous value.

use crate::error::quoted;

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key, in lower case.
    pub key: String,
    /// The value, trimmed; continued lines are joined by a space.
    pub value: String,
    /// The line number, counted from 1.
    pub line: usize,
}

/// The number of an invalid line, counted from 1, and the reason.
pub type BadLine = (usize, String);

/// Returns the settings of section `[main]` in order, after those of `[DEFAULT]` that `[main]` does not override, and
/// warnings. If a key occurs twice, its values are joined if it is one of `lists`; otherwise it is an error. Other
/// sections are ignored with a warning.
pub fn settings(text: &str, lists: &[&str]) -> Result<(Vec<Setting>, Vec<String>), BadLine> {
    let mut settings: Vec<(bool, Setting)> = Vec::new();
    let mut warnings = Vec::new();
    // `Some(true)` in [main], `Some(false)` in [DEFAULT], `None` in other sections. Before the first section no setting
    // is allowed.
    let (mut section, mut begun) = (None, false);
    // Whether the previous line can be continued.
    let mut open = false;
    // Some editors start a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        let trimmed = line.trim_ascii();
        if trimmed.contains('\r') {
            return Err((number, "contains a carriage return before its end".into()));
        }
        if trimmed.is_empty() || line.starts_with(['#', ';']) || is_rem(line) {
            continue;
        }
        if line.starts_with([' ', '\t']) && open {
            if let Some((_, last)) = settings.last_mut().filter(|_| section.is_some()) {
                last.value = format!("{} {}", last.value, without_comment(trimmed)).trim_ascii().into();
            }
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[') {
            begun = true;
            let (name, after) = name.split_once(']').ok_or_else(|| bad(number))?;
            if !after.trim_ascii_start().is_empty() && !after.trim_ascii_start().starts_with(['#', ';']) {
                return Err((number, format!("has text after \"[{name}]\", which belongs on a line of its own")));
            }
            section = match name {
                "main" => Some(true),
                "DEFAULT" => Some(false),
                main if main.trim_ascii().eq_ignore_ascii_case("main") => {
                    return Err((number, format!("section {} is not read: write \"[main]\"", quoted(main))));
                }
                other => {
                    warnings.push(format!("line {number}: section {} is ignored; only [main] is read", quoted(other)));
                    None
                }
            };
            open = false;
            continue;
        }
        let (key, value) = match trimmed.split_once(['=', ':']) {
            _ if !begun => return Err((number, "is before \"[main]\"".into())),
            Some((key, value)) if !key.trim_ascii().is_empty() => (key, value),
            _ => return Err(bad(number)),
        };
        open = true;
        if let Some(in_main) = section {
            let value = without_comment(value);
            settings.push((in_main, Setting { key: key.trim_ascii().to_ascii_lowercase(), value, line: number }));
        }
    }
    let (mut defaults, mut main): (Vec<Setting>, Vec<Setting>) = (Vec::new(), Vec::new());
    for (in_main, setting) in settings {
        let section = if in_main { &mut main } else { &mut defaults };
        let (key, line) = (&setting.key, setting.line);
        match section.iter_mut().find(|first| first.key == *key) {
            None => section.push(setting),
            Some(first) if lists.contains(&key.as_str()) => {
                first.value.push_str(", ");
                first.value.push_str(&setting.value);
            }
            Some(first) => return Err((line, format!("{} is already set on line {}", quoted(key), first.line))),
        }
    }
    defaults.retain(|default| !main.iter().any(|setting| setting.key == default.key));
    defaults.append(&mut main);
    Ok((defaults, warnings))
}

#[cold]
fn bad(line: usize) -> BadLine {
    (line, "is not of the form \"key = value\"".into())
}

fn is_rem(line: &str) -> bool {
    line.split_ascii_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("rem"))
        && line.starts_with(['r', 'R'])
}

fn without_comment(value: &str) -> String {
    let begins = |pair: &[u8]| matches!(pair, [before, b';' | b'#'] if before.is_ascii_whitespace());
    let comment = value.as_bytes().windows(2).position(begins);
    let value = value.get(..comment.unwrap_or(value.len())).unwrap_or_default().trim_ascii();
    if value == "\"\"" { String::new() } else { value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        settings(text, &["guard"]).unwrap().0.into_iter().map(|setting| (setting.key, setting.value)).collect()
    }

    #[test]
    fn files_of_version_0_8_are_accepted() {
        let text =
            "# c\n; c\nrem c\n[main]\nknock_port = 666\nDelay:15 ; seconds\nerror_window=20\nempty=\"\"\nlog = a;b\n";
        let wanted = [("knock_port", "666"), ("delay", "15"), ("error_window", "20"), ("empty", ""), ("log", "a;b")];
        assert_eq!(pairs(text), wanted.map(|(key, value)| (key.into(), value.into())));
    }

    #[test]
    fn lines_are_continued() {
        assert_eq!(
            pairs("[main]\nguard = 22,\n  443 # web\n\n\t80\nmark = 1"),
            [("guard".into(), "22, 443 80".into()), ("mark".into(), "1".into())]
        );
    }

    #[test]
    fn other_sections_are_ignored_with_a_warning() {
        let text = "[x]\nb = 2\n  more\n[main]\nc = 3\n[y]\nd = 4";
        assert_eq!(pairs(text), [("c".into(), "3".into())]);
        let [x, y] = &settings(text, &[]).unwrap().1[..] else { panic!() };
        assert_eq!(x, "line 1: section \"x\" is ignored; only [main] is read");
        assert!(y.starts_with("line 6: section \"y\""));
        for text in ["\n[Main]\na = 1", "\n[ main ]\na = 1"] {
            assert_eq!(settings(text, &[]).unwrap_err().0, 2, "{text:?}");
        }
    }

    #[test]
    fn duplicate_lists_are_joined_and_other_duplicates_are_errors() {
        assert_eq!(
            pairs("[main]\nguard = 22\ndelay = 5\n[main]\nGuard = 443"),
            [("guard".into(), "22, 443".into()), ("delay".into(), "5".into())]
        );
        let (line, why) = settings("[main]\ndelay = 5\n\ndelay = 9", &["guard"]).unwrap_err();
        assert_eq!((line, why.as_str()), (4, "\"delay\" is already set on line 2"));
    }

    #[test]
    fn a_setting_before_the_first_section_is_an_error() {
        assert_eq!(settings("# c\n\nguard = 22\n[main]\n", &[]).unwrap_err().0, 3);
        assert_eq!(settings(" guard = 22\n", &[]).unwrap_err().0, 1);
    }

    #[test]
    fn only_a_comment_may_follow_a_section_name() {
        for text in [
            "[main] # of us\na = 1",
            "[main];\na = 1",
            "[main] \na = 1",
            "\u{feff}[main]\na = 1",
            "[main]\r\na = 1\r\n",
        ] {
            assert_eq!(pairs(text), [("a".into(), "1".into())], "{text:?}");
        }
        assert_eq!(settings("\n[main] a = 1", &[]).unwrap_err().0, 2);
    }

    #[test]
    fn a_carriage_return_inside_a_line_is_an_error() {
        for text in ["[main]\rguard = 22\r", "# a comment\r[main]\rguard = 22", "[main]\nguard = 22\rdelay = 5\n"] {
            assert!(settings(text, &[]).unwrap_err().1.contains("carriage return"), "{text:?}");
        }
    }

    #[test]
    fn defaults_apply_to_keys_missing_in_main() {
        assert_eq!(
            pairs("[main]\ndelay = 5\n[DEFAULT]\ndelay = 9\nmark = 1"),
            [("mark".into(), "1".into()), ("delay".into(), "5".into())]
        );
    }

    #[test]
    fn an_invalid_line_is_reported_by_number() {
        for (text, line) in [("[main]\n\nword\n", 3), ("[main\n", 1), ("[main]\n= 5\n", 2)] {
            assert_eq!(settings(text, &[]), Err(bad(line)), "{text:?}");
        }
    }
}
