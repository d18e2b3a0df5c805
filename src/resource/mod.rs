// SPDX-License-Identifier: Apache-2.0

//! What is served: the names, the files it comes from, and the snapshot that requests look into.
//!
//! Nothing here knows who asks or how.

pub mod directory;
pub mod entries;
pub mod exposure;
pub mod file;
pub mod form;
mod loaded;
pub mod merge;
pub mod name;
pub mod parse;
mod parsed;
pub mod problem;
pub mod repair;
pub mod secret;
pub mod snapshot;
pub mod store;

pub use common::base64;
