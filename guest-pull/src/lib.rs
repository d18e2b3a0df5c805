// SPDX-License-Identifier: Apache-2.0

//! Pulls container images into compressed read-only layers, and mounts them.

pub mod compression;
pub mod digest;
pub mod erofs;
pub mod layer;
pub mod pipe;
pub mod registry;
pub mod store;
