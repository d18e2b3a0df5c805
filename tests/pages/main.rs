// SPDX-License-Identifier: Apache-2.0

//! The documents that are ordered by task: their commands are run in order, and what they show is what comes.
//!
//! Each page runs in a mount and a network namespace of its own, with real registries under names that look real
//! (`world`). `page` has the marks that a page can have for what only a VM does by itself. `PAGES=overwrite` writes what
//! comes into the pages: read it before you commit it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../black_box/support/mod.rs"]
#[allow(
    dead_code,
    reason = "the black-box tests use more of the shared support code"
)]
mod support;

mod coverage;
mod level;
mod page;
mod world;

use std::panic::resume_unwind;
use std::thread;

use nix::unistd::geteuid;

/// The pages that are walked here, by their file names without the end.
const PAGES: [&str; 8] = [
    "bake-a-credential",
    "image-pull-secrets",
    "encrypted-images",
    "signed-images",
    "mirrors-and-proxies",
    "pull-problems",
    "memory",
    "migrate",
];

/// Runs the commands of one page.
fn walk(name: &'static str) {
    assert!(PAGES.contains(&name), "{name}");
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("docs/{name}.md is not walked: that needs root");
        return;
    }
    // A thread can leave the namespaces of the others alone.
    let walked = thread::spawn(move || page::run(name, &mut world::World::enter()));
    if let Err(panicked) = walked.join() {
        resume_unwind(panicked);
    }
}

#[test]
fn bake_a_credential() {
    walk("bake-a-credential");
}

#[test]
fn image_pull_secrets() {
    walk("image-pull-secrets");
}

#[test]
fn encrypted_images() {
    walk("encrypted-images");
}

#[test]
fn signed_images() {
    walk("signed-images");
}

#[test]
fn mirrors_and_proxies() {
    walk("mirrors-and-proxies");
}

#[test]
fn pull_problems() {
    walk("pull-problems");
}

#[test]
fn memory() {
    walk("memory");
}

#[test]
fn migrate() {
    walk("migrate");
}
