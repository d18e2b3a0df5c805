// SPDX-License-Identifier: Apache-2.0

//! Pulls container images into compressed read-only layers, and mounts them.

pub mod check;
pub mod claim;
pub mod compression;
pub mod config;
pub mod credential;
pub mod digest;
mod directories;
mod document;
pub mod encryption;
pub mod erofs;
pub mod failure;
pub mod layer;
pub mod limits;
mod links;
pub mod lookup;
pub mod measure;
pub mod memory;
pub mod mount;
pub mod pipe;
pub mod plan;
pub mod policy;
pub mod privileges;
pub mod proxy;
pub mod pull;
pub mod question;
pub mod registry;
pub mod resource;
pub mod serve;
pub mod spelling;
pub mod store;
mod sys;
pub mod until;
mod upper;
pub mod verify;
pub mod worker;
pub mod writable;
