// SPDX-License-Identifier: Apache-2.0

//! The parameters that a user gives skopeo for this key provider: `key=value` pairs joined by `::`, after
//! `provider:attestation-agent:`.

use std::path::PathBuf;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::json;
use crate::keyprovider::cipher::Algorithm;
use crate::keyprovider::protocol::MAX_MEMBERS;
use crate::text::Quoted;
use common::base64;

/// The provider's name in requests and in an image's annotations: the one that clients in a pod VM look for.
pub const PROVIDER: &str = "attestation-agent";

/// The KBC's name, which clients of 2023 put among the parameters.
const KBC: &str = "offline_fs_kbc";

/// The value that ocicrypt passes if no parameters follow the provider's name.
const NOTHING: &str = "Enabled";

/// Why the parameters are invalid. The messages show names of parameters, and no keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the parameters of {PROVIDER}: {0}")]
pub struct Error(String);

/// The key and the algorithm to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The key's id in the keys file (`keyid`).
    pub key_id: Option<String>,
    /// A file with the 32 bytes of the key (`keypath`).
    pub key_path: Option<PathBuf>,
    /// The algorithm (`algorithm`).
    pub algorithm: Option<Algorithm>,
}

impl Parameters {
    /// Parses one set of parameters. An empty set, and one with this KBC's name, sets nothing.
    ///
    /// # Errors
    ///
    /// If a parameter is unknown, is given twice, or has no value.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut found = Self::default();
        let kbc = text.split_once("::").map(|(kbc, _)| kbc);
        if text.is_empty() || text == NOTHING || kbc == Some(KBC) {
            return Ok(found);
        }
        for pair in text.split("::") {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let twice = match name {
                "keyid" => found.key_id.replace(value.to_owned()).is_some(),
                "keypath" => found.key_path.replace(value.into()).is_some(),
                "algorithm" => {
                    let algorithm = Algorithm::of_name(value).ok_or_else(|| {
                        let value = Quoted(value);
                        Error(format!(
                            "the algorithm {value} is unknown; A256GCM and A256CTR are known"
                        ))
                    })?;
                    found.algorithm.replace(algorithm).is_some()
                }
                other => {
                    let other = Quoted(other);
                    return Err(Error(format!(
                        "{other} is unknown; write keyid=ID or keypath=FILE, and algorithm=A256GCM or A256CTR, joined by ::"
                    )));
                }
            };
            if value.is_empty() {
                return Err(Error(format!("{name} has no value")));
            }
            if twice {
                return Err(Error(format!("{name} is given twice")));
            }
        }
        Ok(found)
    }

    /// This provider's parameters in ocicrypt's configuration, `ec` or `dc`; none if it has none.
    ///
    /// # Errors
    ///
    /// If they can't be parsed, or there is more than one set: an annotation is made with one key.
    pub fn of_configuration(config: Option<&str>) -> Result<Option<Self>, Error> {
        let fault = |text: &str| Error(text.to_owned());
        let Some(config) = config.filter(|config| *config != "null") else {
            return Ok(None);
        };
        let config = json::members(config.as_bytes(), MAX_MEMBERS)
            .map_err(|_| fault("the configuration is not an object"))?;
        let Some(by_provider) = json::value(&config, "Parameters").filter(|value| *value != "null")
        else {
            return Ok(None);
        };
        let by_provider = json::members(by_provider.as_bytes(), MAX_MEMBERS)
            .map_err(|_| fault("\"Parameters\" is not an object"))?;
        let Some(values) = json::value(&by_provider, PROVIDER).filter(|value| *value != "null")
        else {
            return Ok(None);
        };
        let values: Vec<String> =
            serde_json::from_str(values).map_err(|_| fault("they are not an array of strings"))?;
        let [value] = &values[..] else {
            let count = values.len();
            return Err(Error(format!(
                "{count} sets were given; give one set, with one key"
            )));
        };
        let value = base64::decode(value).map_err(|error| Error(error.to_string()))?;
        let value = String::from_utf8(value.to_vec()).map(Zeroizing::new);
        let value = value.map_err(|_| fault("they are not UTF-8"))?;
        Self::parse(&value).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pairs_come_in_any_order() {
        let both = Parameters {
            key_id: Some("kbs:///default/key/k1".to_owned()),
            key_path: Some("/k".into()),
            algorithm: Some(Algorithm::Ctr),
        };
        for text in [
            "keyid=kbs:///default/key/k1::keypath=/k::algorithm=A256CTR",
            "algorithm=A256CTR::keyid=kbs:///default/key/k1::keypath=/k",
        ] {
            assert_eq!(Parameters::parse(text).unwrap(), both, "{text}");
        }
        for text in ["", "Enabled", "offline_fs_kbc::null"] {
            assert_eq!(Parameters::parse(text).unwrap(), Parameters::default());
        }
    }

    #[test]
    fn invalid_parameters_are_refused() {
        for (text, part) in [
            ("key=x", "\"key\" is unknown"),
            ("keyid", "keyid has no value"),
            ("keyid=", "keyid has no value"),
            ("keyid=a::keyid=b", "keyid is given twice"),
            ("keyid=a::", "\"\" is unknown"),
            ("algorithm=A128GCM", "algorithm \"A128GCM\" is unknown"),
            ("cc_kbc::http://host", "\"cc_kbc\" is unknown"),
        ] {
            let error = Parameters::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn they_are_found_in_the_configuration() {
        let of = Parameters::of_configuration;
        for config in [
            "null",
            "{}",
            r#"{"Parameters":null}"#,
            r#"{"Parameters":{"gpg-recipients":[""]}}"#,
        ] {
            assert_eq!(of(Some(config)).unwrap(), None, "{config}");
        }
        assert_eq!(of(None).unwrap(), None);
        // keyid=a
        let one = of(Some(
            r#"{"Parameters":{"attestation-agent":["a2V5aWQ9YQ=="]}}"#,
        ));
        assert_eq!(one.unwrap().unwrap().key_id.as_deref(), Some("a"));
        for config in [
            "[]",
            r#"{"Parameters":[]}"#,
            r#"{"Parameters":{"attestation-agent":"a2V5aWQ9YQ=="}}"#,
            r#"{"Parameters":{"attestation-agent":["a2V5aWQ9YQ==","a2V5aWQ9YQ=="]}}"#,
            r#"{"Parameters":{"attestation-agent":["!"]}}"#,
            r#"{"Parameters":{"attestation-agent":["/w=="]}}"#,
        ] {
            assert!(of(Some(config)).is_err(), "{config}");
        }
    }
}
