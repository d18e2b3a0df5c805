// SPDX-License-Identifier: Apache-2.0

//! The ttrpc services, one file each. They decode a request, ask the store, and encode the answer.

pub mod attestation;
pub mod getresource;
pub mod keyprovider;
mod lookup;
pub mod pull;
pub mod report;
pub mod resource;
pub mod sealedsecret;
pub mod status;
pub mod unavailable;
