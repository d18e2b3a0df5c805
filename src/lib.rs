// SPDX-License-Identifier: Apache-2.0

//! Serves registry credentials and other KBS resources from files to kata-agent, over ttrpc on unix
//! sockets, inside a pod VM.
//!
//! Bytes flow one way: **files → store → service → socket**.
//!
//! - [`json`] takes an object apart without losing a place or copying a value.
//! - [`resource`] reads the files, and holds the snapshot that is served.
//! - [`keyprovider`] unwraps image layers' keys, [`sealedsecret`] opens sealed secrets; both are told
//!   which key is meant.
//! - [`credential`] reads `auth.json` as clients do, and repairs what they would reject; [`lint`] finds what is
//!   wrong with resources.
//! - [`userdata`] is how a cloud hands a resources file to a VM: cloud-config and its other forms, written and, on a
//!   build host, read as cloud-init reads them.
//! - [`proto`] is what `protos/` generates; [`rpc`] gives its methods their meaning.
//! - [`server`] knows sockets, frames and peers, and no resource.
//! - [`watch`] notices that something happens beside files.
//! - [`rate`] is how often messages come that peers and files cause.
//! - [`text`] is how messages show what came from outside.
//!
//! `resource` knows no ttrpc and `server` no resource; `rpc`, which knows both, brings them together. The
//! library takes listeners and a shutdown signal; the program around it owns the sockets, the signals and
//! the environment.

pub mod credential;
#[cfg(feature = "tools")]
pub mod encoding;
pub mod json;
pub mod keyprovider;
pub mod lint;
#[cfg(feature = "tools")]
pub mod random;
pub mod rate;
pub mod resource;
pub mod rpc;
pub mod sealedsecret;
pub mod server;
pub mod text;
pub mod userdata;
pub mod watch;
#[cfg(feature = "tools")]
pub mod yaml;

/// Messages and services generated from `protos/`.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}
