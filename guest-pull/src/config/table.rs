// SPDX-License-Identifier: Apache-2.0

//! The keys of `[image]`.

use std::fmt;

use common::text::Escaped;
use serde_json::{Map, Value};

use crate::config::{Image, registries};
use crate::credential::Source;
use crate::policy::Text;

/// The most layers of one image that are fetched at once, whatever is configured: each takes a connection, threads, and
/// the memory of its archive's names.
const MAX_LAYERS_AT_ONCE: usize = 16;

/// A key that has a value which it can't have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The key, with its table.
    pub key: String,
    /// What it can have.
    pub wanted: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.key, self.wanted)
    }
}

/// A reason why nothing is pulled.
fn refusal(key: &str, what: &str) -> String {
    format!(
        "[image] {key} is configured, and guest-pull does not support {what} yet; remove the key, or use the stock puller"
    )
}

/// Takes the keys over.
pub fn take(image: &mut Image, value: Value) -> Result<(), Wrong> {
    let wrong = |key: &str, wanted| Wrong {
        key: key.to_owned(),
        wanted,
    };
    let Value::Object(table) = value else {
        return Err(wrong("image", "a table"));
    };
    for (key, value) in table {
        let wrong = |wanted| wrong(&format!("[image] {key}"), wanted);
        match key.as_str() {
            "work_dir" => {
                let path = value.as_str().filter(|path| path.starts_with('/'));
                image.work_dir = path.ok_or_else(|| wrong("an absolute path"))?.into();
            }
            "extra_root_certificates" => {
                let texts = value
                    .as_array()
                    .ok_or_else(|| wrong("a list of texts in PEM"))?;
                let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
                let texts: Option<Vec<_>> = texts.collect();
                image.extra_root_certificates =
                    texts.ok_or_else(|| wrong("a list of texts in PEM"))?;
            }
            "max_concurrent_layer_downloads_per_image" => {
                let number = value.as_u64().filter(|number| *number > 0);
                let number = number.ok_or_else(|| wrong("a number above 0"))?;
                image.layers_at_once = usize::try_from(number).unwrap_or(usize::MAX);
                if image.layers_at_once > MAX_LAYERS_AT_ONCE {
                    image.layers_at_once = MAX_LAYERS_AT_ONCE;
                    let text =
                        format!("[image] {key}: {MAX_LAYERS_AT_ONCE} are fetched at once at most");
                    image.warnings.push(text);
                }
            }
            "authenticated_registry_credentials_uri" => {
                let source = value.as_str().and_then(Source::parse);
                image.credential =
                    source.ok_or_else(|| wrong("kbs:///REPOSITORY/TYPE/TAG or file:///PATH"))?;
            }
            "registry_config" => registries::take(image, value)?,
            "image_security_policy" | "image_security_policy_uri" => {
                take_text(&mut image.signatures.policy, &key, &value).map_err(wrong)?;
            }
            "sigstore_config" | "sigstore_config_uri" => {
                take_text(&mut image.signatures.sigstore, &key, &value).map_err(wrong)?;
            }
            "registry_configuration_uri" => {
                image
                    .refusals
                    .push(refusal(&key, "registry configurations outside of cdh.toml"));
            }
            "image_pull_proxy" => {
                let table = value.as_object().ok_or_else(|| wrong("a table"))?;
                if names_proxy(table) {
                    image.refusals.push(refusal(&key, "proxies"));
                }
            }
            _ => {
                let text = format!("[image] {}: unknown, and ignored", Escaped(&key));
                image.warnings.push(text);
            }
        }
    }
    Ok(())
}

/// A text, or its URI, which wins over the text, as it does with the stock puller.
fn take_text(place: &mut Option<Text>, key: &str, value: &Value) -> Result<(), &'static str> {
    let text = value.as_str();
    if key.ends_with("_uri") {
        let source = text.and_then(Source::parse);
        let source = source.ok_or("kbs:///REPOSITORY/TYPE/TAG or file:///PATH")?;
        *place = Some(Text::At(source));
    } else {
        let text = text.ok_or("a text")?;
        place.get_or_insert_with(|| Text::Inline(text.to_owned()));
    }
    Ok(())
}

/// `no_proxy` alone says nothing.
fn names_proxy(table: &Map<String, Value>) -> bool {
    let is_set = |value: &Value| value.as_str() != Some("");
    table
        .iter()
        .any(|(key, value)| key != "no_proxy" && is_set(value))
}
