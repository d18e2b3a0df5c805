// SPDX-License-Identifier: Apache-2.0

//! `signedBy`: signatures by GPG, which this program does not support yet.

use common::auth_json::image::ImageName;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::policy::Error;
use crate::policy::identity::Identity;
use crate::registry::Client;

/// A signature by GPG that there must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedBy {}

impl SignedBy {
    /// The signature by one of the keys.
    ///
    /// # Errors
    ///
    /// Always: it is not supported.
    pub fn new(
        _keys: Vec<(String, Zeroizing<Vec<u8>>)>,
        _identity: Identity,
        _lookaside: Option<&[u8]>,
        _image: &ImageName,
    ) -> Result<Self, String> {
        Err("guest-pull does not support signedBy (signatures by GPG); sign with cosign, and use sigstoreSigned".to_owned())
    }

    /// What it is, for messages.
    pub fn shown(&self) -> String {
        match *self {}
    }

    /// Looks for it.
    ///
    /// # Errors
    ///
    /// If signatures can't be had.
    pub fn check(
        &self,
        _client: &Client,
        _image: &ImageName,
        _documents: &[(Digest, Vec<u8>)],
    ) -> Result<Option<Vec<String>>, Error> {
        match *self {}
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        match *self {}
    }

    /// Of JSON.
    pub fn of_json(_value: &Value) -> Option<Self> {
        None
    }
}
