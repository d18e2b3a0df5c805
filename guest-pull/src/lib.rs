// SPDX-License-Identifier: Apache-2.0

//! Pulls container images into compressed read-only layers, and mounts them.

pub mod compression;
pub mod config;
pub mod credential;
pub mod digest;
mod directories;
pub mod erofs;
pub mod failure;
pub mod layer;
mod links;
mod loop_device;
pub mod mount;
pub mod pipe;
pub mod pull;
pub mod question;
pub mod registry;
pub mod serve;
pub mod store;
pub mod until;
pub mod worker;
pub mod writable;
