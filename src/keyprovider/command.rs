// SPDX-License-Identifier: Apache-2.0

//! ocicrypt's key-provider protocol with a command, over standard input and output: byte values are base64 in
//! requests and answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::json;
use crate::keyprovider::annotation::Packet;
use crate::keyprovider::parameters::{self, PROVIDER, Parameters};
use crate::keyprovider::protocol::{self, MAX_MEMBERS};
use crate::keyprovider::{Error as Fault, KEY_BYTES, cipher};
use crate::text::Quoted;
use common::base64 as encoded;

/// The largest request that is read. A layer's key with its parameters is under 4 KiB; the caller's own
/// private keys, which ocicrypt adds, are a few KiB each.
pub const MAX_REQUEST_BYTES: u64 = 1 << 20;

/// Why a request can't be answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The request or its packet is malformed.
    #[error(transparent)]
    Request(#[from] Fault),
    /// The parameters that the user gave skopeo are wrong.
    #[error(transparent)]
    Parameters(#[from] parameters::Error),
}

/// A request to a key provider.
pub enum Request {
    /// Wrap a layer's key.
    Wrap {
        /// The key to use.
        parameters: Parameters,
        /// The layer's key, and the other data that ocicrypt keeps with it.
        data: Zeroizing<Vec<u8>>,
    },
    /// Unwrap a layer's key.
    Unwrap {
        /// The key to use instead of the one that the packet names.
        parameters: Parameters,
        /// The wrapped key.
        packet: Packet,
    },
}

impl Request {
    /// Parses a request.
    ///
    /// # Errors
    ///
    /// If the request, its packet or its parameters are malformed.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let fault = |text: &str| Fault::Protocol(text.to_owned());
        let request =
            json::members(text, MAX_MEMBERS).map_err(|error| Fault::Protocol(error.to_string()))?;
        let (member, wraps) = match json::string(&request, "op").as_deref() {
            Some("keywrap") => ("keywrapparams", true),
            Some("keyunwrap") => ("keyunwrapparams", false),
            Some(other) => {
                let other = Quoted(other);
                return Err(Fault::Protocol(format!(
                    "its op {other} is neither \"keywrap\" nor \"keyunwrap\""
                ))
                .into());
            }
            None => return Err(fault("no string \"op\"").into()),
        };
        let members = json::value(&request, member)
            .and_then(|value| json::members(value.as_bytes(), MAX_MEMBERS).ok())
            .ok_or_else(|| Fault::Protocol(format!("no object \"{member}\"")))?;
        if !wraps {
            let parameters = Parameters::of_configuration(json::value(&members, "dc"))?;
            return Ok(Self::Unwrap {
                parameters: parameters.unwrap_or_default(),
                packet: protocol::packet(&members)?,
            });
        }
        let parameters = Parameters::of_configuration(json::value(&members, "ec"))?;
        let parameters = parameters
            .ok_or_else(|| Fault::Protocol(format!("no parameters of the provider {PROVIDER}")))?;
        let data = json::string(&members, "optsdata").map(Zeroizing::new);
        let data = data.ok_or_else(|| fault("no string \"optsdata\" in \"keywrapparams\""))?;
        let data = encoded::decode(&data)
            .map_err(|error| Fault::Protocol(format!("\"optsdata\" is {error}")))?;
        Ok(Self::Wrap { parameters, data })
    }
}

/// Wraps `data` with `key`, into a packet with the key id `kid`.
///
/// # Errors
///
/// If the kernel gives no random bytes.
pub fn wrap(
    kid: &str,
    key: &[u8; KEY_BYTES],
    algorithm: cipher::Algorithm,
    data: &[u8],
) -> std::io::Result<Packet> {
    let (wrapped_data, iv) = cipher::encrypt(algorithm, key, data)?;
    Ok(Packet {
        kid: kid.to_owned(),
        wrapped_data: Zeroizing::new(wrapped_data),
        iv: Zeroizing::new(iv),
        wrap_type: algorithm.name().to_owned(),
    })
}

/// The answer to a request to wrap.
pub fn write_wrapped(packet: &Packet) -> String {
    let annotation = STANDARD.encode(packet.write());
    format!(r#"{{"keywrapresults":{{"annotation":"{annotation}"}}}}"#)
}

/// The answer to a request to unwrap.
pub fn write_unwrapped(data: &[u8]) -> Zeroizing<String> {
    let data = Zeroizing::new(STANDARD.encode(data));
    Zeroizing::new(format!(
        r#"{{"keyunwrapresults":{{"optsdata":"{}"}}}}"#,
        *data
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::keyprovider::cipher::Algorithm;
    use crate::keyprovider::unwrap;

    /// The daemon's own code unwraps what `wrap` makes, and each iv is fresh.
    #[test]
    fn round_trip() {
        for (algorithm, iv_bytes, more) in [(Algorithm::Gcm, 12, 16), (Algorithm::Ctr, 16, 0)] {
            let packets = [(); 2].map(|()| wrap("k", &[7; 32], algorithm, b"hello").unwrap());
            assert_ne!(*packets[0].iv, *packets[1].iv);
            let packet = Packet::parse(packets[0].write().as_bytes()).unwrap();
            assert_eq!(packet.iv.len(), iv_bytes);
            assert_eq!(packet.wrapped_data.len(), 5 + more);
            assert_eq!(*unwrap(&packet, &[7; 32]).unwrap(), *b"hello");
        }
        let packet = wrap("k", &[7; 32], Algorithm::Gcm, b"hello").unwrap();
        assert!(unwrap(&packet, &[8; 32]).is_err());
    }
}
