// SPDX-License-Identifier: Apache-2.0

//! Where images are pulled from: registries.conf, cdh.toml, the kernel command line, proxies and their exceptions. What is
//! read is the same when it is sent on, and no error contains a value.
//!
//! The first byte selects the rest: a registries.conf; a cdh.toml; a kernel command line; or lines of two proxies, of
//! exceptions and of a server.

#![no_main]

use common::auth_json::image::ImageName;
use guest_pull::config::{Image, Registries, command_line};
use guest_pull::proxy::{Exceptions, Proxies, Proxy};
use guest_pull::spelling::plainest;
use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked};

const NAMES: [&str; 6] = [
    "a",
    "docker.io/a:1",
    "r.example/a/b",
    "R.example:443/a/b:1",
    "x.corp.example:5000/a",
    "r.example/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
];

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    let text = marked(rest);
    match first % 4 {
        0 => {
            let mut warnings = Vec::new();
            match Registries::parse(&text, "file", &mut warnings) {
                Ok(registries) => places(&registries),
                Err(error) => said(&error),
            }
            warnings.iter().for_each(|warning| assert_one_line(warning));
        }
        1 => match Image::parse(&text, "file") {
            Ok(image) => image.iter().for_each(read),
            Err(failure) => said(&failure.message),
        },
        2 => match command_line::parse(&String::from_utf8_lossy(&text)) {
            Ok(image) => {
                read(&image);
                image
                    .warnings
                    .iter()
                    .for_each(|warning| assert_no_secret(warning));
            }
            Err(failure) => said(&failure.message),
        },
        _ => proxies(&String::from_utf8_lossy(&text)),
    }
});

fn said(error: &str) {
    assert_one_line(error);
    assert_no_secret(error);
}

fn read(image: &Image) {
    image
        .warnings
        .iter()
        .for_each(|warning| assert_one_line(warning));
    same_proxies(&image.proxies);
    image.registries.iter().for_each(places);
    assert!(image.layers_at_once > 0);
}

/// Each place is a name that is read again, and another spelling of a registry evades nothing that is blocked.
fn places(registries: &Registries) {
    for name in NAMES {
        let found = registries.places(name);
        match &found {
            Ok(places) => {
                assert!(!places.is_empty() || !name.contains('/'));
                for place in places {
                    for image in [&place.image, &place.named] {
                        let again = ImageName::parse(&image.to_string());
                        assert_eq!(again.as_ref(), Ok(image));
                    }
                }
            }
            Err(error) => assert_one_line(error),
        }
        let named = ImageName::parse(name).expect("a name");
        if ImageName::names_registry(name) && found.is_ok() {
            let plain = plainest(&named).to_string();
            let plain = registries.places(&plain);
            assert!(!is_blocked(&plain), "{name} evades what is blocked");
        }
    }
}

fn is_blocked<T>(places: &Result<T, String>) -> bool {
    places
        .as_ref()
        .err()
        .is_some_and(|error| error.contains("blocked"))
}

fn proxies(text: &str) {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let [https, http] = [line(), line()].map(Proxy::parse);
    for proxy in https.iter().chain(&http) {
        let shown = format!("{proxy} {proxy:?}");
        assert_one_line(&shown);
        let host = proxy.to_string();
        // A host is shown, and a password is not.
        if !host.contains("hunter2") {
            assert_no_secret(&shown);
        }
        assert_eq!(
            Proxy::parse(&host).map(|again| again.to_string()),
            Some(host)
        );
    }
    let (except, server) = (line(), line());
    let all = Proxies {
        https,
        http,
        except: Exceptions::parse(except),
    };
    same_proxies(&all);
    let everything = Proxies {
        except: Exceptions::parse(&format!("{except},*")),
        ..all.clone()
    };
    for has_tls in [true, false] {
        let _ = all.of(has_tls, server);
        assert_eq!(everything.of(has_tls, server), None);
    }
    let count = except.split(',').count();
    assert!(
        all.except
            .not_understood()
            .iter()
            .all(|at| (1..=count).contains(at))
    );
}

/// What is sent to the worker is what it reads.
fn same_proxies(proxies: &Proxies) {
    assert_eq!(Proxies::of_json(&proxies.to_json()).as_ref(), Some(proxies));
}
