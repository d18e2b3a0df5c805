// SPDX-License-Identifier: Apache-2.0

//! `make demo`: pulls an image of a private registry as kata-agent does, without and with the daemon.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
#![allow(
    dead_code,
    reason = "the tests use more of the shared support code than this program"
)]

#[path = "../tests/black_box/support/mod.rs"]
mod support;

use std::error::Error;
use std::fs;

use oci_client::Reference;
use support::daemon::{Root, run};
use support::image::{credential, pull};
use support::registry::Registry;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::start();
    println!(
        "A registry that asks for a password runs on {}.",
        registry.host
    );
    let name = registry.push().await;
    let image: Reference = name.parse()?;
    println!("It holds {name}.");

    let root = Root::new();
    println!("\nThe pull without the daemon:");
    let found = credential(&root.socket(), &image).await;
    println!("  kata-agent goes on {found}");
    match pull(&image, &found).await {
        Ok(_) => return Err("the image could be pulled without a credential".into()),
        Err(error) => println!("  refused: {error}"),
    }

    println!("\nThe credential is packed into a resources file, as for an image or user data:");
    fs::write(root.path("auth.json"), registry.auth_json())?;
    let (auth_json, resources) = (root.path("auth.json"), root.resources());
    let auth_json = auth_json.display().to_string();
    let resources = resources.display().to_string();
    let shown = |text: &str| text.replace(&root.dir().display().to_string(), "");
    for args in [
        &["pack", "--credential", &auth_json, "-o", &resources][..],
        &["check", &resources],
    ] {
        println!("  $ offline-fs-kbc {}", shown(&args.join(" ")));
        let (stdout, stderr, code) = run(args);
        for line in stdout.lines() {
            println!("    {}", shown(line));
        }
        if code != Some(0) {
            return Err(stderr.into());
        }
    }

    let daemon = root.start();
    println!("\nThe pull with the daemon:");
    let found = credential(&root.socket(), &image).await;
    println!("  the credential comes over ttrpc from getresource.sock");
    println!("  kata-agent goes on {found}");
    let pulled = pull(&image, &found).await?;
    println!(
        "  pulled: {}, {} layers of {} bytes, all digests verified",
        pulled.digest, pulled.layers, pulled.bytes
    );
    println!("\nWhat the daemon logged:");
    for line in daemon.log().lines() {
        println!("  {}", shown(line));
    }
    Ok(())
}
