// SPDX-License-Identifier: Apache-2.0

//! What is right, case by case: each test has the name of a row of the table in docs/guest-pull.md.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod both;
mod compression;
#[path = "../support/containerd.rs"]
mod containerd;
mod foreign;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/stand_in.rs"]
mod stand_in;
