// SPDX-License-Identifier: Apache-2.0

//! The registry credential: how those of several files become one, and what is served of it.
//!
//! How clients read an `auth.json` is in the crate `common`, since guest-pull is such a client.

pub mod merge;
pub mod served;

pub use common::auth_json::*;

/// What gives an `auth.json` with the login itself in it.
pub use crate::resource::form::AUTH_JSON_FIX as FIX;
/// Loading a file has to tell whether it is a credential that clients can use, so this is below.
pub use crate::resource::repair;
