// SPDX-License-Identifier: Apache-2.0

//! The services: a file each, and thin. Decode, ask the store, encode.

pub mod attestation;
pub mod getresource;
pub mod keyprovider;
mod lookup;
pub mod report;
pub mod resource;
pub mod sealedsecret;
pub mod status;
pub mod unavailable;
