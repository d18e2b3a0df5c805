// SPDX-License-Identifier: Apache-2.0

//! What offline-fs-kbc and guest-pull share: the registry credential as clients read it, and helpers for JSON, base64 and
//! messages.

pub mod auth_json;
pub mod base64;
pub mod json;
pub mod text;
