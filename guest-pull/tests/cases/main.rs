// SPDX-License-Identifier: Apache-2.0

//! What is right, case by case: each test has the name of a row of the table in docs/guest-pull.md.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../support/caller.rs"]
mod caller;
#[path = "../support/containerd.rs"]
mod containerd;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/played.rs"]
mod played;
#[path = "../support/registry.rs"]
mod registry;
#[path = "../support/repositories.rs"]
mod repositories;
#[path = "../support/stand_in.rs"]
mod stand_in;

mod credentials;
mod credentials_changed;
mod indexes;
mod manifests;
mod network;
mod redirects;
mod references;
mod registries;
mod registries_of_clouds;
