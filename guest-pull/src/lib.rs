// SPDX-License-Identifier: Apache-2.0

//! Pulls container images into compressed read-only layers, and mounts them.

pub mod digest;
pub mod erofs;
pub mod layer;
pub mod registry;
