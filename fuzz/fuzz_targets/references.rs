// SPDX-License-Identifier: Apache-2.0

//! Names of images, scopes of policies, platforms and digests: what is read is the same when it is printed and read again.

#![no_main]

use common::auth_json::image::ImageName;
use guest_pull::config::Registries;
use guest_pull::digest::Digest;
use guest_pull::registry::platform::Platform;
use guest_pull::registry::{reference, server};
use guest_pull::spelling::{check_scope, plainest};
use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::assert_one_line;

fuzz_target!(|text: &str| {
    if let Some(platform) = Platform::parse(text) {
        assert_eq!(
            Platform::parse(&platform.to_string()),
            Some(platform.clone())
        );
        assert_eq!(platform.rank(&platform), Some(u32::MAX));
    }
    if let Some(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
    }
    scope(text);
    let places = Registries::default().places(text);
    let Ok(name) = ImageName::parse(text) else {
        let error = places.expect_err("no place of what is no name");
        assert_one_line(&error);
        return;
    };
    let places = places.expect("a name has a place");
    assert_eq!(places.len(), 1);
    assert_eq!(places[0].image, name);
    match reference(&name) {
        Ok(wanted) => {
            let again = ImageName::parse(&name.to_string()).expect("what is printed is a name");
            assert_eq!(again, name);
            assert_eq!(reference(&again), Ok(wanted));
            assert!(!server(&name.registry).is_empty());
            let plain = plainest(&name);
            assert_eq!(plainest(&plain), plain);
            assert_eq!(plain.suffix, name.suffix);
            assert!(reference(&plain).is_ok(), "{plain}");
            // Nothing that leads out of the path of a URL.
            let path = format!("{}/manifests/{wanted}", name.repository);
            let is_good = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
            assert!(path.chars().all(is_good), "{path}");
            assert!(
                !path.split('/').any(|part| ["", ".", ".."].contains(&part)),
                "{path}"
            );
        }
        Err(error) => assert_one_line(&error),
    }
});

/// A scope in which there can be an image is left alone, and one that is suggested is such a scope.
fn scope(text: &str) {
    let Err(error) = check_scope(text) else {
        return;
    };
    assert_one_line(&error);
    let Some((_, better)) = error.split_once(": write \"") else {
        return;
    };
    let better = better.trim_end_matches('"');
    // What is long is not shown.
    if better.chars().all(|c| c.is_ascii_graphic()) && !better.contains('\\') {
        assert_eq!(check_scope(better), Ok(()), "{text}");
    }
}
