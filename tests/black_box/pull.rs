// SPDX-License-Identifier: Apache-2.0

//! The whole way from a resources file to a pulled image of a private registry.

use oci_client::Reference;

use crate::support::daemon::{Root, one, run};
use crate::support::image::{Credential, credential, pull};
use crate::support::registry::{Registry, USER};

/// The pull fails without a credential and with a wrong one, and works with the right one, which `pack`
/// wrote.
#[test]
fn an_image_of_a_private_registry() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let registry = Registry::start();
        let image: Reference = registry.push().await.parse().unwrap();
        let root = Root::new();

        let without = credential(&root.socket(), &image).await;
        assert!(matches!(&without, Credential::Anonymous(why) if why == "no daemon answers"));
        let error = pull(&image, &without).await.err().unwrap();
        assert!(error.to_lowercase().contains("auth"), "{error}");

        let _daemon = root.start();
        let unconfigured = credential(&root.socket(), &image).await;
        assert!(matches!(&unconfigured, Credential::Anonymous(why) if why.contains("is absent")));
        assert!(pull(&image, &unconfigured).await.is_err());

        for (auth_json, good) in [
            (registry.auth_json_with("wrong"), false),
            (registry.auth_json(), true),
        ] {
            std::fs::write(root.path("auth.json"), auth_json).unwrap();
            let (auth_json, resources) = (root.path("auth.json"), root.resources());
            let (_, stderr, code) = run(&[
                "pack".as_ref(),
                "--credential".as_ref(),
                auth_json.as_os_str(),
                "-o".as_ref(),
                resources.as_os_str(),
            ]);
            assert_eq!(code, Some(0), "{stderr}");
            let found = credential(&root.socket(), &image).await;
            assert!(matches!(&found, Credential::User(user, _) if user == USER));
            let pulled = pull(&image, &found).await;
            assert_eq!(pulled.is_ok(), good, "{:?}", pulled.err());
            if let Ok(pulled) = pulled {
                assert_eq!((pulled.layers, pulled.bytes), (2, 4096));
                assert!(pulled.digest.starts_with("sha256:"));
            }
        }
    });
}

/// A credential that was baked into the image and a pull secret of the pod, for two private registries: each gives its
/// image to a client that asks once and `check --image` names the file of each login.
#[test]
fn baked_credential_and_pull_secret_both_serve_their_images() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (baked, pod) = (Registry::start(), Registry::start());
        let images = [baked.push().await, pod.push().await];
        let root = Root::with(&one("default/credential/test", baked.auth_json()));
        let pull_secret = root.path("run/peerpod/auth.json");
        std::fs::create_dir_all(pull_secret.parent().unwrap()).unwrap();
        std::fs::write(&pull_secret, pod.auth_json()).unwrap();
        let _daemon = root.start_as_installed();
        for image in &images {
            let image: Reference = image.parse().unwrap();
            let found = credential(&root.socket(), &image).await;
            let pulled = pull(&image, &found).await;
            assert_eq!(pulled.map(|pulled| pulled.layers).ok(), Some(2), "{image}");
        }
        for (image, file) in images.iter().zip([root.resources(), pull_secret]) {
            let root = root.dir().as_os_str();
            let args = [
                "check".as_ref(),
                "--image".as_ref(),
                image.as_ref(),
                "--root".as_ref(),
            ];
            let (stdout, _, _) = run(&[&args[..], &[root]].concat());
            let said = format!("{image}: the user \"{USER}\" by the entry ");
            let line = stdout.lines().find(|line| line.starts_with(&said));
            let named = format!(" of {},", file.display());
            assert!(line.is_some_and(|line| line.contains(&named)), "{stdout}");
        }
    });
}
