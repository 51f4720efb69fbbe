//! Checks the config parser: accepted values are within their limits, comments and empty lines change nothing, and an
//! error names an existing line.
#![no_main]

use knockknock::config::Config;
use knockknock::ini;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok((config, warnings)) => {
            assert!((1..=900).contains(&config.delay) && (1..=10_000).contains(&config.window));
            assert!(config.resync_window <= 1_000_000);
            assert!(config.mark.is_power_of_two());
            assert!(!config.guard.contains(0));
            let fits =
                |name: &String| (1..=15).contains(&name.len()) && !name.contains(['"', '\\', '/', ' ', '\n', ';']);
            assert!(config.interfaces.iter().all(fits), "{:?}", config.interfaces);
            assert!(warnings.iter().all(|warning| !warning.is_empty()));
            // Comments and empty lines are ignored, even inside a value that continues on the next line.
            let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
            let commented: String = lines.map(|line| format!("# comment\n{line}\n\n; comment\n")).collect();
            let (again, warned) = Config::parse(&commented).unwrap();
            assert_eq!(again, config, "{text:?}");
            assert_eq!(warned.len(), warnings.len());
        }
        Err((line, why)) => assert!(line <= text.lines().count() && !why.is_empty()),
    }
    for setting in ini::settings(text, &["guard"]).unwrap_or_default().0 {
        assert!(!setting.key.is_empty() && setting.key == setting.key.trim());
        assert!(setting.value == setting.value.trim() && !setting.value.contains('\n'));
        assert!((1..=text.lines().count()).contains(&setting.line));
    }
});
