// SPDX-License-Identifier: Apache-2.0

//! What a manifest says of a layer's encryption.

use common::base64;
use common::json::{self, Member};
use common::text::{Escaped, Quoted};

use crate::encryption::{OURS, other};
use crate::failure::{Failure, Kind};
use crate::registry::manifest::{ABOUT_ENCRYPTION, Descriptor};

/// Those with wrapped keys: the scheme follows.
const KEYS: &str = "org.opencontainers.image.enc.keys.";

/// The schemes that are key providers: the provider's name follows.
const PROVIDER: &str = "provider.";

/// The one with the options that are no secret.
const PUBLIC_OPTIONS: &str = "org.opencontainers.image.enc.pubopts";

/// The only cipher there is.
const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";

/// The longest annotation about encryption: a packet has less than 1 KiB, so that this is dozens of recipients.
const MAX_BYTES: usize = 64 << 10;

/// The most wrapped keys of a layer. The daemon is asked for each until it has one, and logs each that it hasn't.
const MAX_KEYS: usize = 32;

/// The longest name of a key provider.
const MAX_NAME: usize = 128;

/// The most members of an object of the options. Five are known.
pub(super) const MAX_MEMBERS: usize = 100;

/// A layer's key, wrapped for one recipient.
pub(super) struct Wrapped {
    /// The key provider that is to unwrap it.
    pub(super) provider: String,
    /// The key as the provider wrapped it.
    pub(super) packet: Vec<u8>,
}

/// The options that are no secret.
pub(super) struct Public {
    /// The HMAC of the ciphertext.
    pub(super) hmac: [u8; 32],
    /// The beginning of the counter, if it isn't among the secret options.
    pub(super) nonce: Option<[u8; 16]>,
}

/// What the annotations of an encrypted layer say.
pub(super) struct Annotations {
    /// The keys, those of this VM's provider first. The stock puller takes no notice of the name either.
    pub(super) wrapped: Vec<Wrapped>,
    pub(super) public: Public,
}

impl Annotations {
    /// Reads a layer's annotations; none if it isn't encrypted.
    pub(super) fn of(layer: &Descriptor) -> Result<Option<Self>, Failure> {
        let media_type = Quoted(&layer.media_type);
        let mut about = layer
            .annotations
            .iter()
            .filter(|(name, _)| name.starts_with(ABOUT_ENCRYPTION));
        if !is_encrypted(&layer.media_type) {
            return match about.next() {
                None => Ok(None),
                Some((name, _)) => {
                    let name = Escaped(name);
                    Err(other(format!(
                        "it has the annotation {name}, and the media type {media_type} is not of an encrypted layer; \
                         encrypt the image again, or push it without this annotation"
                    )))
                }
            };
        }
        if let Some((name, value)) = about.find(|(_, value)| value.len() > MAX_BYTES) {
            let (name, length) = (Escaped(name), value.len());
            return Err(other(format!(
                "the annotation {name} has {length} bytes, and at most {MAX_BYTES} are read; encrypt the image for fewer \
                 recipients"
            )));
        }
        let schemes = || {
            let names = layer.annotations.iter();
            names.filter_map(|(name, value)| Some((name.strip_prefix(KEYS)?, value)))
        };
        let mut providers: Vec<_> = schemes()
            .filter_map(|(scheme, value)| Some((scheme.strip_prefix(PROVIDER)?, value)))
            .collect();
        if providers.is_empty() {
            return Err(without_provider(&layer.media_type, schemes()));
        }
        // The others keep the order of their names, which is the same each time.
        providers.sort_by_key(|(name, _)| *name != OURS);
        let mut wrapped = Vec::new();
        for (provider, value) in providers {
            add(&mut wrapped, provider, value)?;
        }
        let public = layer.annotations.get(PUBLIC_OPTIONS);
        let public = public.ok_or_else(|| {
            other(format!(
                "it is encrypted, and the annotation {PUBLIC_OPTIONS} with its HMAC is missing; encrypt the image again"
            ))
        })?;
        let public = Public::parse(public).map_err(|what| {
            other(format!(
                "the annotation {PUBLIC_OPTIONS} {what}; encrypt the image again"
            ))
        })?;
        Ok(Some(Self { wrapped, public }))
    }
}

/// By the media type's end, as containers/image decides; the early form of Docker's types ends otherwise.
fn is_encrypted(media_type: &str) -> bool {
    media_type.ends_with("+encrypted") || media_type.ends_with("+enc")
}

fn without_provider<'a>(
    media_type: &str,
    schemes: impl Iterator<Item = (&'a str, &'a String)>,
) -> Failure {
    let schemes: Vec<_> = schemes
        .take(MAX_KEYS)
        .map(|(scheme, _)| Escaped(scheme).to_string())
        .collect();
    if schemes.is_empty() {
        let media_type = Quoted(media_type);
        return other(format!(
            "it is encrypted by its media type {media_type}, and no annotation {KEYS}{PROVIDER}{OURS} has its key; encrypt \
             the image again"
        ));
    }
    let schemes = schemes.join(", ");
    let text = format!(
        "its key is wrapped by {schemes}, and only keys of key providers can be unwrapped; encrypt the image with \
         --encryption-key provider:{OURS}:keyid=..."
    );
    Failure::new(Kind::Configuration, text)
}

/// Adds the keys of one annotation: base64 each, with commas between them.
fn add(wrapped: &mut Vec<Wrapped>, provider: &str, value: &str) -> Result<(), Failure> {
    if provider.len() > MAX_NAME {
        let name = Quoted(provider);
        return Err(other(format!(
            "the key provider {name} has a name of over {MAX_NAME} bytes"
        )));
    }
    for packet in value.split(',') {
        if wrapped.len() == MAX_KEYS {
            return Err(other(format!(
                "it has more than {MAX_KEYS} wrapped keys; encrypt the image for fewer recipients"
            )));
        }
        let packet = base64::decode(packet).map_err(|error| {
            let provider = Escaped(provider);
            other(format!(
                "the annotation {KEYS}{PROVIDER}{provider} is {error}; encrypt the image again"
            ))
        })?;
        wrapped.push(Wrapped {
            provider: provider.to_owned(),
            packet: packet.to_vec(),
        });
    }
    Ok(())
}

impl Public {
    fn parse(annotation: &str) -> Result<Self, String> {
        let text = base64::decode(annotation).map_err(|error| format!("is {error}"))?;
        let members = json::members(&text, MAX_MEMBERS).map_err(|error| format!("is {error}"))?;
        let cipher = json::string(&members, "cipher").ok_or("has no \"cipher\"")?;
        if cipher != CIPHER {
            let cipher = Quoted(&cipher);
            return Err(format!("has the cipher {cipher}, and {CIPHER} is known"));
        }
        let hmac = json::string(&members, "hmac").ok_or("has no \"hmac\"")?;
        let hmac =
            base64::decode(&hmac).map_err(|error| format!("has an \"hmac\" that is {error}"))?;
        let hmac = hmac.as_slice().try_into().map_err(|_| {
            let length = hmac.len();
            format!("has an \"hmac\" of {length} bytes, and HMAC-SHA256 has 32")
        })?;
        let nonce = nonce(&members).map_err(|what| format!("has {what}"))?;
        Ok(Self { hmac, nonce })
    }
}

/// The nonce among the `cipheroptions` of public or secret options, if it is there.
pub(super) fn nonce(members: &[Member<'_>]) -> Result<Option<[u8; 16]>, String> {
    let Some(options) = json::value(members, "cipheroptions").filter(|value| *value != "null")
    else {
        return Ok(None);
    };
    let options = json::members(options.as_bytes(), MAX_MEMBERS)
        .map_err(|_| "\"cipheroptions\" that are not an object".to_owned())?;
    if json::value(&options, "nonce").is_none() {
        return Ok(None);
    }
    let nonce = json::string(&options, "nonce").and_then(|nonce| base64::decode(&nonce).ok());
    let nonce = nonce.ok_or("a \"nonce\" that is not base64")?;
    let length = nonce.len();
    let nonce = nonce.as_slice().try_into();
    nonce
        .map(Some)
        .map_err(|_| format!("a \"nonce\" of {length} bytes, and AES-CTR has 16"))
}
