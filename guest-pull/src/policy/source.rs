// SPDX-License-Identifier: Apache-2.0

//! Where the policy and its keys are, and the rules for an image that come of them.

use std::fmt;
use std::path::Path;

use common::auth_json::image::ImageName;
use common::base64;
use common::text::{Escaped, RegistryName};
use zeroize::Zeroizing;

use crate::credential::{self, Source};
use crate::failure::{Failure, Kind};
use crate::policy::keys::PublicKey;
use crate::policy::parse::{Key, Policy, Requirement};
use crate::policy::rules::{Rules, Signed};
use crate::policy::signed_by::SignedBy;

/// The largest rules with their keys: they go to the worker in a line with other things, which has a limit too. A key has a
/// few hundred bytes, and a key ring of GPG a few KiB for each key.
const MAX_RULES_BYTES: usize = 512 << 10;

/// A text in the configuration, or where one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The text itself.
    Inline(String),
    /// Where it is.
    At(Source),
}

/// What is configured about signatures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// `image_security_policy_uri`, or `image_security_policy`. Without any, all images are pulled.
    pub policy: Option<Text>,
    /// `sigstore_config_uri`, or `sigstore_config`: where GPG's signatures are.
    pub sigstore: Option<Text>,
}

impl Text {
    /// The text, whose kind is `what`.
    fn get(&self, what: &str, daemon: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self {
            Self::Inline(text) => Ok(Zeroizing::new(text.clone().into_bytes())),
            Self::At(source) => get(what, source, daemon),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("in the configuration"),
            Self::At(source) => source.fmt(f),
        }
    }
}

/// The signatures that the image must have; none if nothing is asked of it. The daemon at the socket `daemon` is asked for
/// what is there.
///
/// # Errors
///
/// If the policy refuses the image whatever its signatures are, can't be had, or isn't understood.
pub fn rules_for(
    configured: &Configured,
    daemon: &Path,
    image: &ImageName,
) -> Result<Option<Rules>, Failure> {
    let Some(text) = &configured.policy else {
        return Ok(None);
    };
    let failed = |what: String| {
        let text = format!("the image policy {text}: {what}");
        Failure::new(Kind::Configuration, text)
    };
    let bytes = text.get("the image policy", daemon)?;
    let policy = Policy::parse(&bytes)
        .map_err(|what| failed(format!("{what}; nothing is pulled until that is repaired")))?;
    let (scope, requirements) = policy.of(image);
    let refused = |what: &str| failed(format!("it does not allow {image}: {scope}: {what}"));
    let mut signed = Vec::new();
    for requirement in requirements {
        match requirement {
            Requirement::Accept => {}
            Requirement::Reject => return Err(refused("reject")),
            Requirement::Unsupported(what) => {
                return Err(refused(&format!("guest-pull does not support {what}")));
            }
            Requirement::Sigstore { keys, identity } => {
                let keys = keys.iter().map(|key| {
                    let (name, text) = key_text(key, daemon, true)?;
                    let key = PublicKey::parse(&name, &text);
                    key.map_err(|what| refused(&format!("the key {name} is {what}")))
                });
                signed.push(Signed::Sigstore {
                    keys: keys.collect::<Result<_, _>>()?,
                    identity: identity.clone(),
                });
            }
            Requirement::SignedBy { keys, identity } => {
                let keys = keys.iter().map(|key| key_text(key, daemon, false));
                let keys = keys.collect::<Result<Vec<_>, _>>()?;
                let lookaside = configured.sigstore.as_ref();
                let lookaside =
                    lookaside.map(|text| text.get("the sigstore configuration", daemon));
                let lookaside = lookaside.transpose()?;
                let by = SignedBy::new(
                    keys,
                    identity.clone(),
                    lookaside.as_deref().map(Vec::as_slice),
                    image,
                );
                signed.push(Signed::By(by.map_err(|what| refused(&what))?));
            }
        }
    }
    if signed.is_empty() {
        return Ok(None);
    }
    let rules = Rules {
        image: image.clone(),
        scope: scope.clone(),
        signed,
    };
    match rules.to_json().to_string().len() > MAX_RULES_BYTES {
        true => Err(refused(
            "its keys are too large; use key rings with the keys that are needed",
        )),
        false => Ok(Some(rules)),
    }
}

fn get(what: &str, source: &Source, daemon: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    credential::text(what, source, daemon)?.ok_or_else(|| {
        let text = format!("there is no {source}, which is {what}; nothing is pulled without it");
        Failure::new(Kind::Configuration, text)
    })
}

/// The name of a key, and its bytes.
fn key_text(
    key: &Key,
    daemon: &Path,
    may_be_pem: bool,
) -> Result<(String, Zeroizing<Vec<u8>>), Failure> {
    match key {
        Key::Path(path) => {
            let source = match path.starts_with('/') {
                true => Some(Source::File(path.into())),
                false => Source::parse(path),
            };
            let source = source.ok_or_else(|| {
                let path = RegistryName(path).plain();
                let path = Escaped(&path);
                let text = format!(
                    "the image policy names the key {path}, which is not kbs:///REPOSITORY/TYPE/TAG, file:///PATH or /PATH"
                );
                Failure::new(Kind::Configuration, text)
            })?;
            Ok((
                source.to_string(),
                get("a key of the image policy", &source, daemon)?,
            ))
        }
        // The stock puller takes the key itself here, others take base64 of it.
        Key::Data(name, data) if may_be_pem && data.trim_start().starts_with("-----BEGIN") => {
            Ok((name.clone(), Zeroizing::new(data.clone().into_bytes())))
        }
        Key::Data(name, data) => {
            let bytes = base64::decode(data).map_err(|error| {
                let text = format!("{name} of the image policy: {error}");
                Failure::new(Kind::Configuration, text)
            })?;
            Ok((name.clone(), bytes))
        }
    }
}
