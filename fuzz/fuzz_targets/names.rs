// SPDX-License-Identifier: Apache-2.0

//! Names: a path parses back from each of its spellings, and prints as one short line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc_fuzz::assert_one_line;

/// The longest form in which a name is shown: 200 bytes with up to six characters each, and some text around
/// them.
const MOST_SHOWN: usize = 1500;

fuzz_target!(|text: &str| {
    let name = match Name::parse(text) {
        Ok(name) => name,
        Err(error) => {
            assert!(text.starts_with("kbs+") && text.contains("://"));
            assert_one_line(&error.to_string());
            assert!(error.to_string().len() < MOST_SHOWN);
            return;
        }
    };
    assert_one_line(&name.to_string());
    assert!(name.to_string().len() < MOST_SHOWN);
    match &name {
        Name::Path(path) => {
            assert_eq!(path.split('/').count(), 3);
            for spelling in [
                path.to_string(),
                format!("/{path}"),
                format!("kbs:///{path}?a=b/c"),
            ] {
                assert_eq!(Name::parse(&spelling).as_ref(), Ok(&name), "{spelling:?}");
            }
            if let Some(old) = name.old() {
                assert!(Name::is_old(old));
                assert_eq!(Name::parse(old).as_ref(), Ok(&name));
            }
        }
        Name::Other(other) => {
            assert_eq!(&**other, text);
            assert_eq!(name.old(), None);
        }
    }
});
