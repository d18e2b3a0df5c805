// SPDX-License-Identifier: Apache-2.0

//! Annotation packets: what an encrypted image's manifest holds for each layer.

use zeroize::Zeroizing;

use crate::json;
use crate::keyprovider::Error;
use crate::resource::base64;
use crate::text::Quoted;

/// The most members of a packet. Eight are known.
const MAX_MEMBERS: usize = 100;

/// A wrapped key with what it takes to unwrap it.
pub struct Packet {
    /// The id of the key-encryption key: an id of the keys file, or a `kbs://` URI.
    pub kid: String,
    /// The wrapped key.
    pub wrapped_data: Zeroizing<Vec<u8>>,
    /// The initialisation vector.
    pub iv: Zeroizing<Vec<u8>>,
    /// The algorithm.
    pub wrap_type: String,
}

impl Packet {
    /// Parses a packet of any version: `kid`, `wrapped_data`, `iv` and `wrap_type` count. A `provider`
    /// must be `kbs`, which its absence means too.
    ///
    /// # Errors
    ///
    /// [`Error::Packet`] where it is none.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let members =
            json::members(text, MAX_MEMBERS).map_err(|error| Error::Packet(error.to_string()))?;
        let string = |name: &str| json::string(&members, name);
        let required =
            |name: &str| string(name).ok_or_else(|| Error::Packet(format!("no string {name:?}")));
        let decoded = |name: &str| {
            base64::decode(&required(name)?)
                .map_err(|error| Error::Packet(format!("{name:?} is {error}")))
        };
        let provider = json::value(&members, "provider").unwrap_or("null");
        if !["null", r#""""#, r#""kbs""#].contains(&provider) {
            let provider = string("provider").unwrap_or_default();
            let provider = Quoted(&provider);
            return Err(Error::Packet(format!(
                "its provider is {provider}; only \"kbs\" is served from files"
            )));
        }
        Ok(Self {
            kid: required("kid")?,
            wrapped_data: decoded("wrapped_data")?,
            iv: decoded("iv")?,
            wrap_type: required("wrap_type")?,
        })
    }

    /// The packet's text, with all members: those of 2023 take what they know, and later ones want the rest.
    #[cfg(feature = "tools")]
    pub fn write(&self) -> String {
        use ::base64::Engine as _;
        use ::base64::engine::general_purpose::STANDARD;
        serde_json::json!({
            "version": "0.1.0",
            "kid": self.kid,
            "wrapped_data": STANDARD.encode(&*self.wrapped_data),
            "iv": STANDARD.encode(&*self.iv),
            "wrap_type": self.wrap_type,
            "provider": "kbs",
            "provider_settings": {},
            "annotations": {},
        })
        .to_string()
    }
}
