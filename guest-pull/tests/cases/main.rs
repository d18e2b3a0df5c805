// SPDX-License-Identifier: Apache-2.0

//! What is right, case by case: each test has the name of a row of the table in docs/guest-pull.md.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod bundles;
#[path = "../support/caller.rs"]
mod caller;
mod cosign;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/image.rs"]
mod image;
mod policy;
#[path = "../support/registry.rs"]
mod registry;
mod signatures;
mod signed_by;
#[path = "../support/signing.rs"]
mod signing;
#[path = "../support/stand_in.rs"]
mod stand_in;
