// SPDX-License-Identifier: Apache-2.0

//! The client of a registry: the OCI distribution protocol, as far as a pull needs it.

mod challenge;
mod client;
pub mod manifest;
pub mod platform;
mod roots;

pub use client::{Blob, Client, Error, Login, Options};
pub use roots::roots;
