// SPDX-License-Identifier: Apache-2.0

//! Policies, from the configuration to the mount: `guest-pull serve` as the daemon calls it.

use std::fs;

use ttrpc::Code;

use crate::caller::{Place, daemon_with, recorded};
use crate::host::{Mounted, is_root, run, support};
use crate::registry::Registry;
use crate::signing::{Pushed, SigningKey, digest_of, payload, put_signatures};

/// A registry with an image, and the configuration that lets it be asked, with more keys of `[image]`.
fn registry(place: &Place) -> (Registry, String) {
    let layout = place.at("layout");
    run(support("make-image").arg(&layout));
    let registry = Registry::start();
    let image = registry.push(&layout);
    (registry, image)
}

fn configure(place: &Place, registry: &Registry, more: &str) {
    place.configure(&format!(
        "[image]\n{more}\n[[image.registry_config.registry]]\nlocation = \"{}\"\ninsecure = true\n",
        registry.address
    ));
}

/// The policy and its key are the daemon's resources; the image is pulled and mounted once it is signed, and not before.
#[test]
fn policy_json_by_the_daemon() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let (registry, image) = registry(&place);
    let key = SigningKey::new();
    let (policy, pem) = (
        format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{
                "{}/a": [{{"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign-key/1"}}]}}}}}}"#,
            registry.address
        ),
        key.pem(),
    );
    let asked = daemon_with(&place, move |path| match path {
        "kbs:///default/security-policy/test" => Ok(policy.clone().into_bytes()),
        "kbs:///default/cosign-key/1" => Ok(pem.clone().into_bytes()),
        _ => Err(Code::NOT_FOUND),
    });
    configure(
        &place,
        &registry,
        "image_security_policy_uri = \"kbs:///default/security-policy/test\"",
    );
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(answer.code(), Code::FAILED_PRECONDITION);
    for what in [
        image.as_str(),
        "the policy does not allow this image",
        &format!("transports.docker \"{}/a\"", registry.address),
        "sigstoreSigned by kbs:///default/cosign-key/1",
        "there is no signature of sha256:",
    ] {
        assert!(answer.text().contains(what), "{what}: {}", answer.text());
    }
    // Nothing was fetched, since the policy is checked before.
    assert!(
        !place.at("store/layers").exists()
            || fs::read_dir(place.at("store/layers")).unwrap().count() == 0
    );
    place.assert_nothing_left();
    let digest = digest_of(&registry.address, "a/b", "1");
    let payload = payload(&format!("{}/a/b", registry.address), &digest);
    let signature = key.sign(&payload);
    let address = registry.address.clone();
    let mut repository = Pushed {
        address,
        repository: "a/b",
    };
    put_signatures(&mut repository, &digest, &[(payload, signature)]);
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(answer.digest(), digest);
    drop(Mounted(place.rootfs()));
    // The image is stored now, and is checked all the same.
    fs::remove_dir_all(place.bundle()).unwrap();
    fs::create_dir(place.bundle()).unwrap();
    put_signatures(&mut repository, &digest, &[]);
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(
        answer.code(),
        Code::FAILED_PRECONDITION,
        "{}",
        answer.text()
    );
    let asked: Vec<_> = asked.try_iter().collect();
    for path in [
        "kbs:///default/security-policy/test",
        "kbs:///default/cosign-key/1",
    ] {
        assert_eq!(
            asked.iter().filter(|asked| *asked == path).count(),
            3,
            "{asked:?}"
        );
    }
}

/// A policy in the configuration itself, and one that isn't there or isn't understood: the registry is not asked.
#[test]
fn policy_json_in_the_configuration() {
    let place = Place::new(false);
    let (registry, image) = registry(&place);
    daemon_with(&place, |_| Err(Code::NOT_FOUND));
    // Nobody listens there: a request to it would be another failure.
    let away = image.replace(&registry.address, "127.0.0.1:1");
    for (more, what) in [
        (
            r#"image_security_policy = '{"default": [{"type": "reject"}]}'"#,
            "the image policy in the configuration: it does not allow",
        ),
        (
            r#"image_security_policy = '{"default": [{"type": "insecureAcceptAnything"}], "x": 1}'"#,
            "\"x\" is not known; nothing is pulled until that is repaired",
        ),
        (
            r#"image_security_policy_uri = "kbs:///default/security-policy/test""#,
            "the image policy kbs:///default/security-policy/test: there is none",
        ),
        (
            r#"image_security_policy_uri = "file:///nowhere/policy.json""#,
            "the image policy /nowhere/policy.json: there is none",
        ),
    ] {
        configure(&place, &registry, more);
        let answer = place.ask(&recorded(&away, &place.bundle()));
        assert_eq!(
            answer.code(),
            Code::FAILED_PRECONDITION,
            "{}",
            answer.text()
        );
        assert!(answer.text().contains(what), "{what}: {}", answer.text());
    }
    if !is_root() {
        return;
    }
    let accept = r#"image_security_policy = '{"default": [{"type": "insecureAcceptAnything"}]}'"#;
    configure(&place, &registry, accept);
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(answer.digest(), digest_of(&registry.address, "a/b", "1"));
    drop(Mounted(place.rootfs()));
}
