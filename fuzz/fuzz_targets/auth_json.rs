// SPDX-License-Identifier: Apache-2.0

//! Credentials: what is served can be read by clients, readable logins are kept, and no message contains a
//! login.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::credential::AuthFile;
use offline_fs_kbc::credential::repair::{Served, decoded_again, repair};
use offline_fs_kbc::lint::credential::lint;
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked};

fuzz_target!(|input: &[u8]| {
    let text = marked(input);
    let inner = decoded_again(&text);
    let file = AuthFile::parse(&text);
    let readable = file.as_ref().is_ok_and(AuthFile::is_readable);
    let said = sayable(&text) && inner.as_ref().is_none_or(|inner| sayable(inner));
    let say = |message: &str| {
        assert_one_line(message);
        if said {
            assert_no_secret(message);
        }
    };
    match repair(&text) {
        Served::Untouched => assert!(readable, "what clients reject is served as it is"),
        Served::Repaired {
            text: repaired,
            changes,
        } => {
            assert!(!readable, "what clients can read is changed");
            assert!(!changes.is_empty());
            changes.iter().for_each(|change| say(change));
            let again = AuthFile::parse(&repaired)
                .ok()
                .expect("what is served parses");
            assert!(again.is_readable(), "clients reject what is served");
            assert!(matches!(repair(&repaired), Served::Untouched));
            // Of several entries with the same name, clients use the last.
            for entry in file.iter().flat_map(|file| &file.entries) {
                let Ok(login) = &entry.login else { continue };
                let kept = again.entries.iter().any(|other| {
                    other.key == entry.key
                        && other.login.as_ref().is_ok_and(|other| {
                            (&other.user, &other.password) == (&login.user, &login.password)
                        })
                });
                assert!(kept, "a good login is lost");
            }
        }
        Served::Refused(reason) => {
            assert!(!readable, "what clients can read is refused");
            say(&reason);
        }
    }
    let findings = lint(&text, true);
    assert!(
        readable || !findings.is_empty(),
        "nothing is said of what clients reject"
    );
    for finding in &findings {
        say(&finding.to_string());
        say(&finding.what);
    }
    if let Ok(file) = &file {
        for entry in &file.entries {
            // A repository of the registry that the key names finds the login of that entry, or of a more
            // specific one.
            let (found, _) = file.find(&entry.key, "a").expect("a key finds itself");
            assert!(found.key == entry.key || found.key == format!("{}/a", entry.key));
        }
    }
});

/// Whether no registry's name, and no spelling that may be suggested for one, contains the mark, since messages
/// show those.
fn sayable(text: &[u8]) -> bool {
    let Ok(file) = AuthFile::parse(text) else {
        return true;
    };
    !file.entries.iter().any(|entry| {
        let plain = entry.key.chars().filter(char::is_ascii_alphanumeric);
        let plain: String = plain.map(|c| c.to_ascii_lowercase()).collect();
        plain.contains("hunter2")
    })
}
