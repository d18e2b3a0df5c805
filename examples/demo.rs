// SPDX-License-Identifier: Apache-2.0

//! `make demo`: pulls an image of a private registry as kata-agent does: without and with the daemon, in the way of 2023 and in
//! today's.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
#![allow(
    dead_code,
    reason = "the tests use more of the shared support code than this program"
)]

#[path = "../tests/black_box/support/mod.rs"]
mod support;

use std::error::Error;
use std::fs;
use std::process::Command;

use nix::unistd::geteuid;
use oci_client::Reference;
use support::both::{Both, Mounted, guest_pull, program_layer};
use support::daemon::{Root, one, output, run};
use support::image::{credential, pull};
use support::registry::{MOTD, Registry, tar};

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let registry = Registry::start();
    runtime.block_on(way_of_2023(&registry))?;
    let layers = vec![tar("etc/motd", MOTD.as_bytes()), program_layer("/bin/cat")];
    let image = runtime.block_on(registry.push_layers(layers));
    todays_way(registry, &image)
}

/// The way of the kata-agents of 2023: they ask for the credential, and pull by themselves.
async fn way_of_2023(registry: &Registry) -> Result<(), Box<dyn Error>> {
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

/// The way of kata-agents since 3.18: they ask whoever serves cdh.sock to pull the image.
fn todays_way(registry: Registry, image: &str) -> Result<(), Box<dyn Error>> {
    let before = registry.host.clone();
    let registry = registry.with_tls();
    let image = &image.replace(&before, &registry.host);
    println!("\nToday's kata-agent has the image pulled. The registry has TLS now: {image}.");
    let root = Root::with(&one("Credential", registry.auth_json()));
    if !geteuid().is_root() {
        return layers_alone(&root, &registry, image);
    }
    let both = Both::start(&root, &registry);
    let (bundle, answer) = both.pull(image, "bundle");
    let digest = answer.map_err(|(code, text)| format!("{code:?}: {text}"))?;
    println!("  PullImage over cdh.sock: {digest}");
    let rootfs = Mounted(bundle.join("rootfs"));
    let mut cat = Command::new("chroot");
    cat.arg(&rootfs.0).args(["/bin/cat", "/etc/motd"]);
    let (stdout, stderr, code) = output(&mut cat);
    if code != Some(0) {
        return Err(stderr.into());
    }
    println!(
        "  a program of the mounted image says: {}",
        stdout.trim_end()
    );
    println!("\nWhat the daemon and guest-pull logged:");
    for line in both.daemon.log().lines() {
        println!("  {}", line.replace(&root.dir().display().to_string(), ""));
    }
    Ok(())
}

/// Without root nothing can be mounted; the layers are made all the same.
fn layers_alone(root: &Root, registry: &Registry, image: &str) -> Result<(), Box<dyn Error>> {
    let auth_file = root.path("auth.json");
    fs::write(&auth_file, registry.auth_json())?;
    let mut pull = Command::new(guest_pull());
    pull.arg("pull")
        .arg(image)
        .arg("--auth-file")
        .arg(auth_file);
    pull.arg("--ca-file")
        .arg(registry.cert_dir().join("ca.crt"));
    pull.arg("--store").arg(root.path("store"));
    let (stdout, stderr, code) = output(&mut pull);
    if code != Some(0) {
        return Err(stderr.into());
    }
    println!("  mounting needs root, so guest-pull alone makes the layers:");
    for line in stdout.lines() {
        println!("  {}", line.replace(&root.dir().display().to_string(), ""));
    }
    Ok(())
}
