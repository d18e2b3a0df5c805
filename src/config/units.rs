// SPDX-License-Identifier: Apache-2.0

//! Reads systemd's units as far as `check` needs them: which are there, which are enabled, and their settings. It knows
//! the places of a pod VM's image, and neither masked drop-ins nor quoted words with spaces.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use offline_fs_kbc::resource::file;

use crate::config::Root;

/// The places of units, lowest precedence first.
const PLACES: [&str; 4] = [
    "/usr/lib/systemd/system",
    "/usr/local/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
];

/// The settings of a unit: the lines of its file, then those of its drop-ins. None if the unit is not there.
pub fn settings(root: &Root, unit: &str) -> Option<String> {
    let mut paths: Vec<(OsString, PathBuf)> = Vec::new();
    let mut file = None;
    for place in PLACES {
        let path = root.path(&format!("{place}/{unit}"));
        // A link to /dev/null masks the unit, so what is there counts and not what it leads to.
        if fs::symlink_metadata(&path).is_ok() {
            file = Some(path);
        }
        let drop_ins = fs::read_dir(root.path(&format!("{place}/{unit}.d")));
        for drop_in in drop_ins.into_iter().flatten().flatten() {
            // By their names, wherever they are. There are few, so no map is needed.
            let new = (drop_in.file_name(), drop_in.path());
            match paths.iter().position(|(name, _)| *name >= new.0) {
                Some(at) if paths[at].0 == new.0 => paths[at] = new,
                Some(at) => paths.insert(at, new),
                None => paths.push(new),
            }
        }
    }
    let mut text = file::read(&file?).ok()?.text.to_vec();
    paths.retain(|(name, _)| name.as_encoded_bytes().ends_with(b".conf"));
    for (_, path) in &paths {
        if let Ok(drop_in) = file::read(path) {
            text.push(b'\n');
            text.extend_from_slice(&drop_in.text);
        }
    }
    Some(String::from_utf8_lossy(&text).replace("\\\n", " "))
}

/// Whether the unit is enabled for one of these targets.
pub fn is_enabled(root: &Root, unit: &str) -> bool {
    PLACES.iter().any(|place| {
        ["multi-user", "sockets"].iter().any(|target| {
            let link = root.path(&format!("{place}/{target}.target.wants/{unit}"));
            fs::symlink_metadata(link).is_ok()
        })
    })
}

/// The value of a variable in the environment of the unit with these settings.
pub fn variable<'a>(settings: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    for line in settings.lines() {
        let Some(words) = line.trim().strip_prefix("Environment=") else {
            continue;
        };
        // An empty setting removes those before it.
        if words.trim().is_empty() {
            found = None;
        }
        for word in words.split_whitespace() {
            let value = word.trim_matches(['"', '\'']).strip_prefix(name);
            found = value.and_then(|rest| rest.strip_prefix('=')).or(found);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(root: &Root, path: &str, text: &str) {
        let path = root.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The file of the highest place counts, and each drop-in by its name, in the order of the names.
    #[test]
    fn places_and_drop_ins() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root {
            root: Some(dir.path().to_owned()),
        };
        assert_eq!(settings(&root, "a.service"), None);
        write(&root, "/usr/lib/systemd/system/a.service", "low\n");
        write(&root, "/etc/systemd/system/a.service", "X=1 \\\n 2");
        let drop_ins = "/usr/local/lib/systemd/system/a.service.d";
        write(&root, &format!("{drop_ins}/20-b.conf"), "hidden\n");
        write(&root, &format!("{drop_ins}/30-c.conf"), "last\n");
        write(&root, &format!("{drop_ins}/40-d.bak"), "no drop-in\n");
        write(&root, "/etc/systemd/system/a.service.d/20-b.conf", "b\n");
        write(&root, "/run/systemd/system/a.service.d/10-a.conf", "a\n");
        let found = settings(&root, "a.service").unwrap();
        let lines: Vec<_> = found.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, ["X=1   2", "a", "b", "last"]);

        assert!(!is_enabled(&root, "a.service"));
        let wants = root.path("/etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        std::os::unix::fs::symlink("/nowhere", wants.join("a.service")).unwrap();
        assert!(is_enabled(&root, "a.service"));

        let masked = root.path("/etc/systemd/system/b.service");
        std::os::unix::fs::symlink("/dev/null", masked).unwrap();
        write(&root, "/usr/lib/systemd/system/b.service", "low\n");
        assert_eq!(settings(&root, "b.service"), None);
    }

    /// The last setting wins, in whichever form, and an empty one removes all before it.
    #[test]
    fn variables() {
        let text = "Environment=A=1 B=2\n Environment=\"A=file:///x\" 'C=3'\nExecStart=A=4\n";
        assert_eq!(variable(text, "A"), Some("file:///x"));
        assert_eq!(variable(text, "B"), Some("2"));
        assert_eq!(variable(text, "C"), Some("3"));
        assert_eq!(variable(text, "D"), None);
        let text = format!("{text}Environment=\nEnvironment=B=5\n");
        assert_eq!(variable(&text, "A"), None);
        assert_eq!(variable(&text, "B"), Some("5"));
    }
}
