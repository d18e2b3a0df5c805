// SPDX-License-Identifier: Apache-2.0

//! The configuration files of the components that this program replaces, `aa.toml` and `cdh.toml`: the
//! settings that it can use, and the names of the others.

use std::path::Path;

use clap::ValueEnum as _;
use offline_fs_kbc::resource::file;
use offline_fs_kbc::text::{Escaped, Quoted};
use offline_fs_kbc::toml;
use serde_json::Value;

use crate::config::{Choice, kbc};
use crate::logging::LogLevel;

/// The settings of a configuration file that this program can use.
#[derive(Debug, Default)]
pub struct ComponentFile {
    /// `socket`: where the component listens.
    pub socket: Option<Choice>,
    /// `skip_sealed_secret_verification`.
    pub skip_sealed_secret_verification: bool,
    /// `level` of `[log]`.
    pub log_level: Option<LogLevel>,
    /// The settings that are ignored.
    pub warnings: Vec<String>,
    /// What is wrong in the file.
    pub mistakes: Vec<String>,
}

impl ComponentFile {
    /// Reads the file. A missing or broken file does not keep the daemon from starting.
    pub fn read(path: &Path) -> Self {
        let mut found = Self::default();
        // kata-agent passes the path on, so it is escaped for the log.
        let shown = path.display().to_string();
        let shown = Escaped(&shown);
        let table = file::read(path)
            .map_err(|error| format!("{shown}: can't read the file: {error}; defaults are used"))
            .and_then(|content| {
                toml::table(&content.text, toml::MAX_COMPONENT_BYTES)
                    .map_err(|error| format!("{shown}: {error}; defaults are used"))
            });
        match table {
            Ok(table) => {
                for (name, value) in table {
                    found.take(&shown.to_string(), &name, value);
                }
            }
            Err(mistake) => found.mistakes.push(mistake),
        }
        found
    }

    fn take(&mut self, file: &str, name: &str, value: Value) {
        match (name, value) {
            ("socket", Value::String(address)) => match address.parse() {
                Ok(choice) => self.socket = Some(choice),
                Err(error) => self.mistakes.push(format!(
                    "{file}: socket = {}: {error}; the default address is used",
                    Quoted(&address)
                )),
            },
            ("skip_sealed_secret_verification", Value::Bool(skip)) => {
                self.skip_sealed_secret_verification = skip;
            }
            ("kbc", Value::Object(kbc)) => {
                for (key, value) in kbc {
                    match (key.as_str(), value) {
                        ("name", Value::String(name)) => {
                            let place = format!("{file}: [kbc] name");
                            self.mistakes.extend(kbc::mismatch(&place, &name));
                        }
                        // The URL of a key broker, which this daemon does not use.
                        (key, _) => self.ignore(file, &format!("{key} in [kbc]")),
                    }
                }
            }
            ("log", Value::Object(log)) => {
                for (key, value) in log {
                    let level = value.as_str().filter(|_| key == "level").and_then(level);
                    match level {
                        Some(level) => self.log_level = Some(level),
                        None => self.ignore(file, &format!("{key} in [log]")),
                    }
                }
            }
            // Where confidential-data-hub finds the attestation-agent; this daemon asks none.
            // Nor has it a use for what guest-pull reads in the same file.
            ("aa" | "image", _) => {}
            (name, Value::Array(items)) if items.iter().any(Value::is_object) => {
                self.ignore(file, &format!("[[{name}]]"));
            }
            (name, Value::Object(_)) => self.ignore(file, &format!("[{name}]")),
            (name, _) => self.ignore(file, name),
        }
    }

    fn ignore(&mut self, file: &str, what: &str) {
        let what = Escaped(what);
        self.warnings.push(format!("{file}: ignored: {what}"));
    }
}

/// The log level of this name. `trace` becomes `debug`, the finest level here.
fn level(name: &str) -> Option<LogLevel> {
    match name.to_ascii_lowercase().as_str() {
        "trace" => Some(LogLevel::Debug),
        "warning" => Some(LogLevel::Warn),
        name => LogLevel::from_str(name, true).ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> ComponentFile {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cdh.toml");
        std::fs::write(&path, text).unwrap();
        ComponentFile::read(&path)
    }

    /// Known settings are used. The others are reported by name, without their values.
    #[test]
    fn a_file_of_the_stock_component() {
        let file = read(
            "socket = \"unix:///run/x/cdh.sock\"\nskip_sealed_secret_verification = true\n\
             [kbc]\nname = \"offline_fs_kbc\"\nurl = \"hunter2\"\n\
             [[credentials]]\npath = \"/run/x\"\nresource_uri = \"kbs:///a/b/c\"\n\
             [image]\nmax_concurrent_layer_downloads_per_image = 3\n\
             [log]\nlevel = \"trace\"\n",
        );
        assert!(
            matches!(file.socket, Some(Choice::At(address)) if address.path() == Path::new("/run/x/cdh.sock"))
        );
        assert!(file.skip_sealed_secret_verification);
        assert_eq!(file.log_level, Some(LogLevel::Debug));
        assert!(file.mistakes.is_empty(), "{:?}", file.mistakes);
        let warnings = file.warnings.join("\n");
        for part in ["ignored: url in [kbc]", "ignored: [[credentials]]"] {
            assert!(warnings.contains(part), "{warnings}");
        }
        assert_eq!(file.warnings.len(), 2);
        assert!(!warnings.contains("hunter2"));
    }

    #[test]
    fn another_kbc_is_a_mistake() {
        let file = read("[kbc]\nname = \"cc_kbc\"\n");
        assert!(
            file.mistakes[0].contains("\"cc_kbc\""),
            "{:?}",
            file.mistakes
        );
        assert!(
            read("[kbc]\nname = \"offline_fs_kbc\"\n")
                .mistakes
                .is_empty()
        );
    }

    /// A broken file is reported without any of its text.
    #[test]
    fn a_broken_file_is_reported_without_its_text() {
        for text in ["hunter2", "socket = hunter2\n", "x = \"hunter2", "[kbc\n"] {
            let file = read(text);
            assert!(file.socket.is_none());
            let mistakes = file.mistakes.join("\n");
            assert!(mistakes.contains("can't be parsed as TOML"), "{mistakes}");
            assert!(!mistakes.contains("hunter2"), "{mistakes}");
        }
        for text in [
            format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
            format!("a = {}", "{a = ".repeat(10_000)),
            format!("[{}]", vec!["a"; 20_000].join(".")),
            "# ".repeat(40_000),
        ] {
            assert!(read(&text).mistakes[0].contains("too deeply nested"));
        }
        let missing = ComponentFile::read(Path::new("/nonexistent/aa\n.toml"));
        assert!(missing.mistakes[0].contains("/nonexistent/aa\\n.toml: can't read the file"));
        let odd = read("\"a\\nb\" = 1\n");
        assert!(odd.warnings[0].ends_with("ignored: a\\nb"), "{odd:?}");
        let file = read("socket = \"vsock://1:2\"\nsurprise = 1\n");
        assert_eq!((file.mistakes.len(), file.warnings.len()), (1, 1));
    }
}
