// SPDX-License-Identifier: Apache-2.0

//! What is right, case by case: each test has the name of a row of the table in docs/guest-pull.md.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../support/containerd.rs"]
mod containerd;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/raw_tar.rs"]
mod raw_tar;
#[path = "../support/stand_in.rs"]
mod stand_in;

mod archive_oracle;
mod archives;
mod archives_any;
mod archives_bombs;
mod archives_headers;
mod archives_refused;
mod archives_taken;
mod both;
mod compression;
mod foreign;
