// SPDX-License-Identifier: Apache-2.0

//! Where the policy and its keys are, and the rules for an image that come of them.

use std::path::Path;

use common::auth_json::image::ImageName;
use common::base64;
use common::text::{Escaped, RegistryName};
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};
use crate::policy::keys::PublicKey;
use crate::policy::parse::{Key, Policy, Requirement};
use crate::policy::rules::{Rules, Signed};
use crate::policy::signed_by::SignedBy;
use crate::resource::{self, Source, Text};
use crate::spelling::plainest;

/// What the policy is called in messages.
const POLICY: &str = "the image policy";

/// The largest rules with their keys: they go to the worker in a line of 4 MiB, once for each place where the image may be,
/// so that six places have room for the largest; the plan looks at all places together. A key has a few hundred bytes, and a
/// key ring of GPG a few KiB for each key.
const MAX_RULES_BYTES: usize = 512 << 10;

/// The signatures that the image must have; none if nothing is asked of it: by the configured policy, and by where GPG's
/// signatures are configured to be (`sigstore`). The daemon at the socket `daemon` is asked for
/// what is there.
///
/// # Errors
///
/// If the policy refuses the image whatever its signatures are, can't be had, or isn't understood.
pub fn rules_for(
    policy: Option<&Text>,
    sigstore: Option<&Text>,
    daemon: &Path,
    image: &ImageName,
) -> Result<Option<Rules>, Failure> {
    let Some(text) = policy else {
        return Ok(None);
    };
    let failed = |what: String| {
        let text = format!("the image policy {text}: {what}");
        Failure::new(Kind::Configuration, text)
    };
    let bytes = text.fetch(daemon, POLICY)?;
    let policy = Policy::parse(&bytes)
        .map_err(|what| failed(format!("{what}; nothing is pulled until that is repaired")))?;
    let (scope, requirements) = policy.of(image);
    let plain = plainest(image);
    if policy.of(&plain).1 != requirements {
        let registry = &plain.registry;
        return Err(failed(format!(
            "it has other requirements for {plain} than for {image}, which is the same registry: write the registry as {registry}"
        )));
    }
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
                let lookaside = sigstore;
                let lookaside =
                    lookaside.map(|text| text.fetch(daemon, "the sigstore configuration"));
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
    match rules.bytes() > MAX_RULES_BYTES {
        true => Err(refused(
            "its keys are too large; use key rings with the keys that are needed",
        )),
        false => Ok(Some(rules)),
    }
}

/// Whether a policy refuses every image, whatever its name and signatures are.
///
/// # Errors
///
/// If it isn't understood, which refuses every image too.
pub fn refuses_all(text: &[u8]) -> Result<bool, String> {
    let policy = Policy::parse(text)?;
    Ok(policy.all().all(|requirements| {
        let refuses = |it| matches!(it, &Requirement::Reject | &Requirement::Unsupported(_));
        requirements.iter().any(refuses)
    }))
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
                resource::fetch_required(&source, daemon, "a key of the image policy")?,
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
