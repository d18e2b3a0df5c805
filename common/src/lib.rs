// SPDX-License-Identifier: Apache-2.0

//! What offline-fs-kbc and guest-pull share: the registry credential as clients read it, the messages between processes
//! and a client for them, the heap, and helpers for JSON, TOML, base64 and texts.

pub mod auth_json;
pub mod base64;
pub mod client;
pub mod heap;
pub mod json;
pub mod text;
pub mod toml;

/// Messages and services generated from `protos/`.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}
