// SPDX-License-Identifier: Apache-2.0

//! Pulls container images into compressed read-only layers, and mounts them.

pub mod compression;
pub mod digest;
mod directories;
pub mod erofs;
pub mod layer;
mod loop_device;
pub mod mount;
pub mod pipe;
pub mod pull;
pub mod registry;
pub mod store;
pub mod worker;
