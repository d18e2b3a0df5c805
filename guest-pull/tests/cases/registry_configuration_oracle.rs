// SPDX-License-Identifier: Apache-2.0

//! containers-registries.conf, beside a program that its manual page is of.

use std::fs;
use std::sync::{Arc, Mutex};

use ttrpc::Code;

use crate::caller::{Place, daemon, recorded};
use crate::host::{output, tool};
use crate::stand_in::{Answer, StandIn};

/// Which places are asked, and in which order, is what skopeo makes of the same file. All of them have nothing, so that
/// each is asked. (Of a prefix with a tag or digest, and of a blocked
/// one that has mirrors, it makes something else than its manual page says.)
#[test]
fn as_skopeo_reads_the_file() {
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let servers = ["one", "two", "three"].map(|name| {
        let asked = Arc::clone(&asked);
        StandIn::start(move |request| {
            if !request.path.contains("/manifests/") {
                return Answer::new(200, "{}");
            }
            asked
                .lock()
                .unwrap()
                .push(format!("{name} {}", request.path));
            Answer::new(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#,
            )
        })
    });
    let digest = format!("sha256:{}", "0".repeat(64));
    let file = place.at("registries.conf");
    place.configure(&format!(
        "[image]\nregistry_configuration_uri = 'file://{}'\n",
        file.display()
    ));
    let registry = |prefix: &str, location: &str, more: &str| {
        format!(
            "[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\ninsecure = true\n{more}\n"
        )
    };
    let mirror = |location: &str, more: &str| {
        format!("[[registry.mirror]]\nlocation = '{location}'\ninsecure = true\n{more}\n")
    };
    let mirrors =
        |first: &str, second: &str| format!("{}{}", mirror("ONE/m", first), mirror("TWO", second));
    let texts = [
        registry("r.example", "THREE/x", &mirrors("", "")),
        registry(
            "r.example",
            "THREE",
            &mirrors(
                "pull-from-mirror = 'digest-only'",
                "pull-from-mirror = 'tag-only'",
            ),
        ),
        registry(
            "r.example",
            "THREE",
            &format!("mirror-by-digest-only = true\n{}", mirrors("", "")),
        ),
        [
            registry("r.example", "ONE", ""),
            registry("r.example/a", "TWO/y", ""),
            registry("r.example/a/b", "THREE/z", ""),
        ]
        .concat(),
        [
            registry("*.example", "ONE", ""),
            registry("r.example", "TWO", ""),
            registry("*.r.example", "THREE/w", ""),
        ]
        .concat(),
        registry("r.example/a", "ONE", ""),
    ];
    let images = [
        "r.example/a:1".to_owned(),
        "r.example/a/b:1".to_owned(),
        "r.example/a/b:12".to_owned(),
        "r.example/ab/c".to_owned(),
        "x.r.example/a/b:1".to_owned(),
        format!("r.example/a/b@{digest}"),
    ];
    let mut compared = 0;
    for text in &texts {
        let names = ["ONE", "TWO", "THREE"].iter().zip(&servers);
        let text = names.fold(text.clone(), |text, (name, server)| {
            text.replace(name, &server.address)
        });
        fs::write(&file, &text).unwrap();
        for image in &images {
            // What no entry is for would be looked for in the world.
            let is_for_all = text.contains("'r.example'") || text.contains("'*.example'");
            let is_for_below = text.contains("'*.example'");
            if image.starts_with("x.") && !is_for_below || image.contains("ab/") && !is_for_all {
                continue;
            }
            let take = || std::mem::take(&mut *asked.lock().unwrap());
            let mut skopeo = tool("SKOPEO", "skopeo");
            skopeo
                .arg("--registries-conf")
                .arg(&file)
                .arg("--insecure-policy");
            skopeo.args(["inspect", "--raw", &format!("docker://{image}")]);
            let (_, stderr, _) = output(&mut skopeo);
            let theirs = take();
            let answer = place.ask(&recorded(image, &place.bundle()));
            assert_eq!(
                take(),
                theirs,
                "{image}: {text}\nskopeo: {stderr}\nwe: {}",
                answer.text()
            );
            compared += theirs.len();
        }
    }
    assert!(compared > 40, "{compared}");
}
