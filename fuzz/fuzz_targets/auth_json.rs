// SPDX-License-Identifier: Apache-2.0

//! Credentials: what is said of one holds no login.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::credential::{self, AuthFile};
use offline_fs_kbc_fuzz::{assert_one_line, assert_unsaid, marked};

fuzz_target!(|input: &[u8]| {
    let text = marked(input);
    let findings = credential::lint(&text);
    let file = match AuthFile::parse(&text) {
        Ok(file) => file,
        Err(error) => {
            // Its Debug has the name of a member, which here may be a value; it is not printed.
            assert_unsaid(&error.to_string());
            findings.iter().for_each(|finding| assert_unsaid(finding));
            return;
        }
    };
    let is_rejected = file.entries.iter().any(|entry| entry.login.is_err());
    assert_eq!(findings.is_empty(), !is_rejected);
    findings.iter().for_each(|finding| assert_one_line(finding));
    // A registry is named, whatever it is.
    if !file
        .entries
        .iter()
        .any(|entry| entry.key.contains("hunter2"))
    {
        findings.iter().for_each(|finding| assert_unsaid(finding));
    }
    for entry in &file.entries {
        if let Ok(login) = &entry.login {
            assert!(!login.user.contains(':'));
            let shown = format!("{login:?}");
            assert!(
                !shown.contains(&*login.password)
                    || login.user.contains(&*login.password)
                    || "[redacted]:\"\"".contains(&*login.password)
            );
        }
        // A repository of the registry that the key is finds a login there.
        if let Some((found, _)) = file.find(&entry.key, "a") {
            assert!(file.entries.iter().any(|other| other.key == found.key));
        } else {
            panic!("{:?} is not found", entry.key);
        }
    }
});
