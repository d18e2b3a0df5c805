// SPDX-License-Identifier: Apache-2.0

//! The client of a registry: the OCI distribution protocol, as far as a pull needs it.

mod access;
mod body;
pub mod challenge;
mod client;
mod connection;
mod error;
mod forward;
mod login;
pub mod manifest;
pub mod platform;
mod reference;
mod resolver;
mod resume;
mod retry;
mod retry_after;
mod roots;
mod times;
mod token;
mod transport;
pub mod url;

pub use client::Client;
pub use error::Error;
pub use login::{Login, Secret};
pub use reference::reference;
pub(crate) use reference::{check_registry, check_repository};
pub use resume::{Blob, is_rest};
pub use retry_after::retry_after;
pub use roots::{PLACES_OF_ROOTS, has_system_roots, roots, system_roots, with_additional};
pub use transport::Options;
pub use url::server;
