// SPDX-License-Identifier: Apache-2.0

//! Annotation packets: the wrapped key of a layer, in the manifest of an encrypted image.

use zeroize::Zeroizing;

use crate::json;
use crate::keyprovider::Error;
use crate::text::Quoted;
use common::base64;

/// The most members of a packet. Eight are known.
const MAX_MEMBERS: usize = 100;

/// A wrapped key, with the parameters to unwrap it.
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
    /// Parses a packet of any version. Only `kid`, `wrapped_data`, `iv` and `wrap_type` are used. The
    /// `provider` must be `kbs` or missing.
    ///
    /// # Errors
    ///
    /// [`Error::Packet`] if the text is not such a packet.
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
                "its provider is {provider}; only \"kbs\" is supported"
            )));
        }
        Ok(Self {
            kid: required("kid")?,
            wrapped_data: decoded("wrapped_data")?,
            iv: decoded("iv")?,
            wrap_type: required("wrap_type")?,
        })
    }

    /// The packet as JSON with all members: later clients require them, and clients of 2023 ignore those that
    /// they do not know.
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
