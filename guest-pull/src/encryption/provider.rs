// SPDX-License-Identifier: Apache-2.0

//! Asks the daemon, which is the key provider, to unwrap a layer's key. The mounter does this: the worker can't reach the
//! daemon.

use std::mem::take;
use std::path::Path;
use std::time::Duration;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use common::base64;
use common::client::{self, Error};
use common::json;
use common::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use common::text::Escaped;
use serde_json::json;
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};

/// How long the daemon may take. It answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The most members of an object of the answer. One is known.
const MAX_MEMBERS: usize = 100;

/// Asks the daemon at the socket `daemon` to unwrap a packet that the image has for `provider`: gives the secret options of
/// the layer.
///
/// # Errors
///
/// If the daemon refuses, which is [`Kind::Configuration`], or can't be asked.
pub fn unwrap_key(
    daemon: &Path,
    provider: &str,
    packet: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let parameters = json!({"dc": {"Parameters": {}}, "annotation": STANDARD.encode(packet)});
    let request = json!({"op": "keyunwrap", "keywrapparams": {}, "keyunwrapparams": parameters});
    let request = KeyProviderKeyWrapProtocolInput {
        KeyProviderKeyWrapProtocolInput: request.to_string().into_bytes(),
        ..Default::default()
    };
    let method = ("keyprovider.KeyProviderService", "UnWrapKey");
    let shown = daemon.display();
    let asking = format!("the key provider {}", Escaped(provider));
    let answer: Result<KeyProviderKeyWrapProtocolOutput, _> =
        client::call(daemon, method, &request, ANSWER_TIME);
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(Error::Refused(status)) => {
            let (code, message) = (status.code(), &status.message);
            let text = format!("{asking}: the daemon refuses: {code:?}: {message}");
            return Err(Failure::new(Kind::Configuration, text));
        }
        // The advice for what can't be reached is about the registry.
        Err(Error::Connect(error)) => {
            let text = format!(
                "{asking}: nobody answers at {shown}: {error}; start offline-fs-kbc, or name its socket (--cdh-sock)"
            );
            return Err(Failure::new(Kind::Other, text));
        }
        Err(error) => {
            let text = format!("{asking}: no answer from {shown}: {error}; see the daemon's log");
            return Err(Failure::new(Kind::Other, text));
        }
    };
    let answer = Zeroizing::new(take(&mut answer.KeyProviderKeyWrapProtocolOutput));
    options(&answer).ok_or_else(|| {
        let text = format!(
            "{asking}: the answer from {shown} is not of the key-provider protocol; is another program there?"
        );
        Failure::new(Kind::Other, text)
    })
}

/// The unwrapped options in an answer: an array of numbers as services write it, or base64 as commands do.
fn options(answer: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let members = json::members(answer, MAX_MEMBERS).ok()?;
    let results = json::value(&members, "keyunwrapresults")?;
    let results = json::members(results.as_bytes(), MAX_MEMBERS).ok()?;
    let options = json::value(&results, "optsdata")?;
    match options.strip_prefix('[') {
        Some(numbers) => numbers_of(numbers.strip_suffix(']')?),
        None => base64::decode(&Zeroizing::new(json::string(&results, "optsdata")?)).ok(),
    }
}

fn numbers_of(list: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Room for all of it, since a vector that grows leaves copies behind: each number has a digit and a comma.
    let mut bytes = Zeroizing::new(Vec::with_capacity(list.len() / 2 + 1));
    for number in list.split(',') {
        bytes.push(number.trim().parse().ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both forms of the protocol give the same, and anything else nothing.
    #[test]
    fn answers_have_two_forms() {
        let of = |text: &str| options(text.as_bytes()).map(|options| options.to_vec());
        for text in [
            r#"{"keyunwrapresults":{"optsdata":[104,105, 0]}}"#,
            r#"{"keywrapresults":null,"keyunwrapresults":{"optsdata":"aGkA"}}"#,
        ] {
            assert_eq!(of(text).as_deref(), Some(&b"hi\0"[..]), "{text}");
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keyunwrapresults":null}"#,
            r#"{"keyunwrapresults":{"optsdata":[]}}"#,
            r#"{"keyunwrapresults":{"optsdata":[256]}}"#,
            r#"{"keyunwrapresults":{"optsdata":[[1]]}}"#,
            r#"{"keyunwrapresults":{"optsdata":"!"}}"#,
            r#"{"keyunwrapresults":{"optsdata":7}}"#,
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
