// SPDX-License-Identifier: Apache-2.0

//! The services: a file each, and thin. Decode, ask the store, encode.

pub mod getresource;
pub mod status;
