// SPDX-License-Identifier: Apache-2.0

//! Serves registry credentials and other KBS resources from files to kata-agent, over ttrpc on unix
//! sockets, inside a pod VM.
//!
//! Bytes flow one way: **files → store → service → socket**.
//!
//! - [`json`] splits a JSON object into its members, with their positions and without copying values.
//! - [`resource`] reads the files, repairs a credential that clients would reject, and holds the snapshot that is served.
//! - [`keyprovider`] unwraps image layers' keys and [`sealedsecret`] opens sealed secrets; the caller gives
//!   both of them the key.
//! - [`credential`] merges the credentials of several files and has what is served of them; [`lint`] finds what is wrong
//!   with resources.
//! - `kubernetes` and `initdata` read, on a build host, what people have in place of an auth.json or a cdh.toml.
//! - `userdata` writes the cloud-config by which a cloud hands a resources file to a VM, and reads user data in all forms as
//!   cloud-init reads it, on a build host.
//! - [`proto`] is generated from `common/protos/`; [`rpc`] implements its methods.
//! - [`server`] handles sockets, frames and peers, and knows nothing of resources.
//! - [`watch`] wakes the daemon when a watched file changes (inotify).
//! - [`pulls`] passes requests for images on to guest-pull, and knows how they go.
//! - [`child`] starts other programs.
//! - [`rate`] limits how often messages are logged that peers and files cause.
//! - [`text`] escapes untrusted text for messages.
//! - [`client`] is a ttrpc client for one request.
//! - [`toml`] parses configuration files of limited depth.
//!
//! docs/design.md has the layers. `resource` does not depend on ttrpc, and `server` does not depend on `resource`; `rpc`
//! depends on both and connects them. The library takes listeners and a shutdown signal; the binary owns the sockets, the signals
//! and the environment.

pub mod child;
pub mod credential;
#[cfg(feature = "tools")]
pub mod encoding;
#[cfg(feature = "tools")]
pub mod initdata;
pub mod keyprovider;
#[cfg(feature = "tools")]
pub mod kubernetes;
pub mod lint;
pub mod pulls;
#[cfg(feature = "tools")]
pub mod random;
pub mod rate;
pub mod resource;
pub mod rpc;
pub mod sealedsecret;
pub mod server;
#[cfg(feature = "tools")]
pub mod userdata;
pub mod watch;
#[cfg(feature = "tools")]
pub mod yaml;

pub use common::{client, json, proto, text, toml};
