// SPDX-License-Identifier: Apache-2.0

//! The signatures that an image must have, and the check of them.

use common::auth_json::image::ImageName;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::policy::identity::Identity;
use crate::policy::keys::{Checker, PublicKey};
use crate::policy::payload::{Claim, OF_COSIGN};
use crate::policy::problems::Problems;
use crate::policy::signed_by::{self, SignedBy};
use crate::policy::{Error, MAX_SIGNATURES, bundle, cosign};
use crate::question::{Ask, Wanted};
use crate::registry::Client;

/// The signatures that an image must have, by a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The image that was asked for, whatever place it comes from.
    pub(super) image: ImageName,
    /// The part of the policy, for messages.
    pub(super) scope: String,
    /// All of them must hold.
    pub(super) signed: Vec<Signed>,
}

fn by_sigstore(keys: &[PublicKey]) -> String {
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    format!("sigstoreSigned by {}", names.join(" or "))
}

/// A signature that there must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    /// By cosign.
    Sigstore {
        keys: Vec<PublicKey>,
        identity: Identity,
    },
    /// By GPG.
    By(SignedBy),
}

/// A signature in the file system, if it is there. Only what the rules name is looked for.
///
/// # Errors
///
/// If no rule names the storage, or the file can't be read.
pub fn local_signature<'r>(
    rules: impl IntoIterator<Item = &'r Rules>,
    wanted: &Wanted,
) -> Result<Option<Vec<u8>>, Failure> {
    for rules in rules {
        for signed in &rules.signed {
            if let Signed::By(by) = signed {
                if let Some(path) = by.local(&rules.image, wanted) {
                    return signed_by::read(&path).map_err(|error| {
                        let text = format!("the signature {path} can't be read: {error}");
                        Failure::new(Kind::Configuration, text)
                    });
                }
            }
        }
    }
    Err(Failure::new(
        Kind::Other,
        "no rule names this storage of signatures",
    ))
}

impl Rules {
    /// What must hold, for people: the part of the policy, and the keys.
    pub fn shown(&self) -> Vec<String> {
        let by = self.signed.iter().map(|signed| match signed {
            Signed::Sigstore { keys, .. } => by_sigstore(keys),
            Signed::By(by) => by.shown(),
        });
        by.map(|by| format!("{}, {by}", self.scope)).collect()
    }

    /// Checks what a registry has under the image's name: `documents` are indexes, and at last the image's manifest, each
    /// of them bound to the one before by its digest.
    ///
    /// A signature of any of them counts. Who signs an index vouches for all images that it names; cosign signs that,
    /// unless told otherwise, and others sign the manifest.
    ///
    /// # Errors
    ///
    /// If one of the signatures is missing, with what was found in its place; or if the registry can't be asked.
    pub fn check(
        &self,
        client: &Client,
        ask: &Ask<'_>,
        documents: &[(Digest, Vec<u8>)],
    ) -> Result<(), Error> {
        for signed in &self.signed {
            let (by, problems) = match signed {
                Signed::Sigstore { keys, identity } => {
                    let by = by_sigstore(keys);
                    (by, self.check_sigstore(client, documents, keys, identity)?)
                }
                Signed::By(by) => (by.shown(), by.check(client, ask, &self.image, documents)?),
            };
            let Some(problems) = problems else {
                continue;
            };
            let digests: Vec<_> = documents.iter().map(|(id, _)| id.to_string()).collect();
            let what = match problems.is_empty() {
                true => format!("there is no signature of {}", digests.join(" or ")),
                false => problems.join("; "),
            };
            return Err(Error::Refused(format!("{}, {by}: {what}", self.scope)));
        }
        Ok(())
    }

    /// Looks for a good signature; none if there is one, else what is wrong with those that there are.
    fn check_sigstore(
        &self,
        client: &Client,
        documents: &[(Digest, Vec<u8>)],
        keys: &[PublicKey],
        identity: &Identity,
    ) -> Result<Option<Vec<String>>, Error> {
        let mut problems = Problems::default();
        let checker = Checker::new(keys);
        let mut looked_at = 0;
        for (digest, _) in documents {
            let places = cosign::places(client, digest)?.unwrap_or_else(|problem| {
                problems.add(&format!("the signatures of {digest}"), problem);
                Vec::new()
            });
            for place in places {
                looked_at += 1;
                if looked_at > MAX_SIGNATURES {
                    problems.too_many();
                    break;
                }
                let checked = cosign::fetch(client, &place)?.and_then(|found| {
                    if !checker.verifies(&found.payload, &found.signature)? {
                        return Err("it is by another key".to_owned());
                    }
                    self.check_claim(
                        &Claim::parse(&found.payload, OF_COSIGN)?,
                        identity,
                        documents,
                    )
                });
                match checked {
                    Ok(()) => return Ok(None),
                    Err(problem) => problems.add(&format!("a signature of {digest}"), problem),
                }
            }
        }
        let mut looked_at = 0;
        let mut busy = None;
        for (digest, _) in documents {
            let referrers = bundle::referrers(client, digest)?;
            busy = busy.or(referrers.busy);
            if let Some(problem) = referrers.problem {
                problems.add(&format!("the list of bundles of {digest}"), problem);
            }
            for manifest in referrers.manifests {
                looked_at += 1;
                if looked_at > MAX_SIGNATURES {
                    problems.too_many();
                    break;
                }
                let Some(found) = bundle::fetch(client, &manifest)? else {
                    continue;
                };
                let checked = found.and_then(|found| {
                    bundle::verify(&found, &checker, documents)?;
                    identity.check_nameless()
                });
                match checked {
                    Ok(()) => return Ok(None),
                    Err(problem) => problems.add(&format!("a bundle of {digest}"), problem),
                }
            }
        }
        // The good one may be in a list that could not be had.
        match busy {
            Some(error) => Err(Error::Registry(error)),
            None => Ok(Some(problems.0)),
        }
    }

    /// Checks what a good signature claims.
    fn check_claim(
        &self,
        claim: &Claim,
        identity: &Identity,
        documents: &[(Digest, Vec<u8>)],
    ) -> Result<(), String> {
        claim.check(&self.image, identity, documents)
    }

    /// As a value that [`Rules::of_json`] takes.
    pub fn to_json(&self) -> Value {
        let signed = self.signed.iter().map(|signed| match signed {
            Signed::Sigstore { keys, identity } => {
                let keys = keys.iter().map(|key| json!([key.name, key.pem]));
                json!({"sigstore": keys.collect::<Vec<_>>(), "identity": identity.text()})
            }
            Signed::By(by) => by.to_json(),
        });
        json!({"image": self.image.to_string(), "scope": self.scope, "signed": signed.collect::<Vec<_>>()})
    }

    /// How many bytes they have on the way to the worker.
    pub fn bytes(&self) -> usize {
        self.to_json().to_string().len()
    }

    /// The rules in a value; none if it has none.
    pub fn of_json(value: &Value) -> Option<Self> {
        let signed = value["signed"].as_array()?.iter().map(|value| {
            if value["signed_by"].is_array() {
                return Some(Signed::By(SignedBy::of_json(value)?));
            }
            let keys = value["sigstore"].as_array()?.iter();
            let keys = keys
                .map(|key| PublicKey::parse(key[0].as_str()?, key[1].as_str()?.as_bytes()).ok());
            let identity = match &value["identity"] {
                Value::Null => Identity::unstated(),
                text => Identity::parse(text.as_str()?).ok()?,
            };
            let keys = keys.collect::<Option<_>>()?;
            Some(Signed::Sigstore { keys, identity })
        });
        Some(Self {
            image: ImageName::parse(value["image"].as_str()?).ok()?,
            scope: value["scope"].as_str()?.to_owned(),
            signed: signed.collect::<Option<_>>()?,
        })
    }
}
