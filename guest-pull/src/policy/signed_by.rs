// SPDX-License-Identifier: Apache-2.0

//! `signedBy`: signatures by GPG, which are beside no image but in a storage of their own.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::auth_json::image::ImageName;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::policy::identity::Identity;
use crate::policy::openpgp::{self, Key};
use crate::policy::payload::{Claim, OF_SIMPLE_SIGNING};
use crate::policy::problems::Problems;
use crate::policy::{Error, MAX_SIGNATURE_BYTES, MAX_SIGNATURES, lookaside};
use crate::question::{Answer, Ask, Question, Wanted};
use crate::registry::{self, Client};

/// How the URL of a storage in the VM's own file system begins.
const FILE: &str = "file://";

/// A signature by GPG that there must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedBy {
    /// Where the key rings are from, for messages.
    names: Vec<String>,
    /// The key rings as they are.
    rings: Vec<Vec<u8>>,
    keys: Vec<Key>,
    identity: Identity,
    /// The URL of the storage.
    base: String,
}

impl SignedBy {
    /// The signature by a key of one of the rings, whose names are for messages. `lookaside` says where signatures are.
    pub(super) fn new(
        rings: Vec<(String, Zeroizing<Vec<u8>>)>,
        identity: Identity,
        lookaside: Option<&[u8]>,
        image: &ImageName,
    ) -> Result<Self, String> {
        let lookaside = lookaside.ok_or(
            "signedBy needs sigstore_config or sigstore_config_uri in [image] of cdh.toml, which says where signatures are",
        )?;
        let base = lookaside::base_url(lookaside, image)
            .map_err(|what| format!("the sigstore configuration: {what}"))?;
        let base = base.ok_or("the sigstore configuration has no lookaside for it")?;
        let (names, rings): (Vec<_>, Vec<_>) = rings.into_iter().unzip();
        let rings = rings.into_iter().map(|ring| ring.to_vec()).collect();
        Self::with(names, rings, identity, base)
    }

    fn with(
        names: Vec<String>,
        rings: Vec<Vec<u8>>,
        identity: Identity,
        base: String,
    ) -> Result<Self, String> {
        let named = names.iter().map(String::as_str);
        let keys = openpgp::keys(named.zip(rings.iter().map(Vec::as_slice)))?;
        Ok(Self {
            names,
            rings,
            keys,
            identity,
            base,
        })
    }

    /// What it is, for messages.
    pub(super) fn shown(&self) -> String {
        format!("signedBy by {}", self.names.join(" or "))
    }

    /// Looks for it; none if there is a good one, else what is wrong with those that there are.
    pub(super) fn check(
        &self,
        client: &Client,
        ask: &Ask<'_>,
        image: &ImageName,
        documents: &[(Digest, Vec<u8>)],
    ) -> Result<Option<Vec<String>>, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |time| time.as_secs());
        let mut problems = Problems::default();
        for (digest, _) in documents {
            for number in 1..=MAX_SIGNATURES {
                let Some(signature) = self.fetch(client, ask, image, digest, number)? else {
                    break;
                };
                let checked = openpgp::verify(&signature, &self.keys, now).and_then(|payload| {
                    let claim = Claim::parse(&payload, OF_SIMPLE_SIGNING)?;
                    claim.check(image, &self.identity, documents)
                });
                match checked {
                    Ok(()) => return Ok(None),
                    Err(problem) => {
                        problems.add(&format!("signature {number} of {digest}"), problem)
                    }
                }
            }
        }
        if problems.0.is_empty() {
            let digests: Vec<_> = documents.iter().map(|(id, _)| id.to_string()).collect();
            let digests = digests.join(" or ");
            problems.0.push(format!(
                "there is no signature of {digests} in {}",
                self.base
            ));
        }
        Ok(Some(problems.0))
    }

    /// A signature, if it is there: from a server, or by way of the mounter from the VM's own file system, which the worker
    /// can't read.
    fn fetch(
        &self,
        client: &Client,
        ask: &Ask<'_>,
        image: &ImageName,
        digest: &Digest,
        number: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        if self.base.starts_with(FILE) {
            let wanted = Wanted {
                storage: self.base.clone(),
                digest: *digest,
                number,
            };
            return match ask(&Question::Signature(wanted)) {
                Ok(Answer::Signature(signature)) => Ok(signature),
                Ok(_) => Err(Error::Refused(
                    "the mounter answers something else".to_owned(),
                )),
                Err(failure) => Err(Error::Refused(failure.message)),
            };
        }
        match client.public(&self.url(image, digest, number)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(registry::Error::Missing { .. }) => Ok(None),
            Err(error) => Err(Error::Registry(error)),
        }
    }

    fn url(&self, image: &ImageName, digest: &Digest, number: usize) -> String {
        let (base, repository) = (&self.base, &image.repository);
        format!(
            "{base}/{repository}@sha256={}/signature-{number}",
            digest.hex()
        )
    }

    /// The file of a signature, if that is what this rule looks for.
    pub(super) fn local(&self, image: &ImageName, wanted: &Wanted) -> Option<String> {
        let is_ours = self.base == wanted.storage && (1..=MAX_SIGNATURES).contains(&wanted.number);
        let url = is_ours.then(|| self.url(image, &wanted.digest, wanted.number))?;
        url.strip_prefix(FILE).map(str::to_owned)
    }

    /// As a value that [`SignedBy::of_json`] takes.
    pub(super) fn to_json(&self) -> Value {
        let rings: Vec<_> = self
            .rings
            .iter()
            .map(|ring| STANDARD.encode(ring))
            .collect();
        json!({"signed_by": self.names, "rings": rings, "identity": self.identity.text(), "base": self.base})
    }

    /// What is in a value; none if it is something else.
    pub(super) fn of_json(value: &Value) -> Option<Self> {
        let texts = |name: &str| {
            let texts = value[name].as_array()?.iter();
            texts
                .map(|text| text.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        };
        let rings = texts("rings")?
            .into_iter()
            .map(|ring| STANDARD.decode(ring).ok());
        let identity = match &value["identity"] {
            Value::Null => Identity::repo_digest_or_exact(),
            text => Identity::parse(text.as_str()?).ok()?,
        };
        let base = value["base"].as_str()?.to_owned();
        Self::with(
            texts("signed_by")?,
            rings.collect::<Option<_>>()?,
            identity,
            base,
        )
        .ok()
    }
}

/// What a file has, if it is there.
pub(super) fn read(path: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIGNATURE_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
