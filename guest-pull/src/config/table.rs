// SPDX-License-Identifier: Apache-2.0

//! The keys of `[image]`.

use std::fmt;

use common::text::Escaped;
use serde_json::{Map, Value};
use ureq::tls::{PemItem, parse_pem};

use crate::config::{Image, Registries};
use crate::memory::LAYERS_AT_ONCE;
use crate::proxy::{Exceptions, Proxy};
use crate::resource::{Source, Text};

/// A key that has a value which it can't have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The key, with its table.
    pub key: String,
    /// What it can have.
    pub wanted: &'static str,
}

impl Wrong {
    pub(super) fn new(key: String, wanted: &'static str) -> Self {
        Self { key, wanted }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.key, self.wanted)
    }
}

/// What a proxy's URL must be.
pub(super) const PROXY: &str = "http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ before HOST if it wants a login, \
     and signs that URLs have themselves written as %XX there";

/// Takes the keys over.
pub fn take(image: &mut Image, value: Value) -> Result<(), Wrong> {
    let Value::Object(table) = value else {
        return Err(Wrong::new("image".to_owned(), "a table"));
    };
    let (mut policy, mut sigstore) = (Given::default(), Given::default());
    for (key, value) in table {
        let name = format!("[image] {key}");
        let wrong = |wanted| Wrong::new(name.clone(), wanted);
        let text = || value.as_str().ok_or_else(|| wrong("a text"));
        let uri = || source(&name, &value);
        match key.as_str() {
            "work_dir" => {
                let path = value.as_str().filter(|path| path.starts_with('/'));
                image.work_dir = path.ok_or_else(|| wrong("an absolute path"))?.into();
            }
            "extra_root_certificates" => {
                let texts = value.as_array().map(|texts| texts.iter().map(certificate));
                let texts = texts.and_then(Iterator::collect::<Option<_>>);
                image.extra_root_certificates =
                    texts.ok_or_else(|| wrong("a list of certificates in PEM"))?;
            }
            "max_concurrent_layer_downloads_per_image" => {
                let number = value.as_u64().filter(|number| *number > 0);
                let number = number.ok_or_else(|| wrong("a number above 0"))?;
                image.layers_at_once = usize::try_from(number).unwrap_or(usize::MAX);
                if image.layers_at_once > LAYERS_AT_ONCE {
                    image.layers_at_once = LAYERS_AT_ONCE;
                    let text = format!("{name}: {LAYERS_AT_ONCE} are fetched at once at most");
                    image.warnings.push(text);
                }
            }
            "authenticated_registry_credentials_uri" => image.credential = uri()?,
            "registry_config" => {
                let table = value.as_object().ok_or_else(|| wrong("a table"))?;
                let before = "[image.registry_config] ";
                image.registries = Some(Registries::take(table, before, &mut image.warnings)?);
            }
            "registry_configuration_uri" => image.registries_at = Some(uri()?),
            "image_security_policy" => policy.text = Some(text()?.to_owned()),
            "image_security_policy_uri" => policy.source = Some(uri()?),
            "sigstore_config" => sigstore.text = Some(text()?.to_owned()),
            "sigstore_config_uri" => sigstore.source = Some(uri()?),
            "image_pull_proxy" => {
                take_proxies(image, value.as_object().ok_or_else(|| wrong("a table"))?)?;
            }
            _ => {
                let text = format!("[image] {}: unknown, and ignored", Escaped(&key));
                image.warnings.push(text);
            }
        }
    }
    image.policy = policy.chosen("image_security_policy", &mut image.warnings);
    image.sigstore = sigstore.chosen("sigstore_config", &mut image.warnings);
    if image.registries.is_some() && image.registries_at.take().is_some() {
        let text = "[image] registry_configuration_uri: ignored, since registry_config counts";
        image.warnings.push(text.to_owned());
    }
    Ok(())
}

/// A text that can be given in two ways.
#[derive(Default)]
struct Given {
    text: Option<String>,
    source: Option<Source>,
}

impl Given {
    /// As the stock puller has it, the URI counts before the text.
    fn chosen(self, key: &str, warnings: &mut Vec<String>) -> Option<Text> {
        if self.text.is_some() && self.source.is_some() {
            warnings.push(format!("[image] {key}: ignored, since {key}_uri counts"));
        }
        let source = self.source.map(Text::At);
        source.or_else(|| self.text.map(Text::Inline))
    }
}

fn source(name: &str, value: &Value) -> Result<Source, Wrong> {
    let source = value.as_str().and_then(Source::parse);
    source.ok_or_else(|| Wrong::new(name.to_owned(), Source::FORM))
}

/// A text with one certificate or more, and nothing that can't be read.
fn certificate(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let items: Result<Vec<_>, _> = parse_pem(text.as_bytes()).collect();
    let mut items = items.ok()?.into_iter();
    let has_one = items.any(|item| matches!(item, PemItem::Certificate(_)));
    has_one.then(|| text.to_owned())
}

fn take_proxies(image: &mut Image, table: &Map<String, Value>) -> Result<(), Wrong> {
    for (key, value) in table {
        let name = format!("[image.image_pull_proxy] {key}");
        let text = || {
            let text = value.as_str();
            text.ok_or_else(|| Wrong::new(name.clone(), "a text"))
        };
        let proxy = || proxy(text()?).map_err(|wanted| Wrong::new(name.clone(), wanted));
        match key.as_str() {
            "https_proxy" => image.proxies.https = proxy()?,
            "http_proxy" => image.proxies.http = proxy()?,
            "no_proxy" => image.proxies.except = exceptions(&name, text()?, &mut image.warnings),
            _ => image.warnings.push(format!(
                "[image.image_pull_proxy] {}: unknown, and ignored",
                Escaped(key)
            )),
        }
    }
    Ok(())
}

/// A proxy, or none where there is no text.
pub(super) fn proxy(text: &str) -> Result<Option<Proxy>, &'static str> {
    match text {
        "" => Ok(None),
        text => Proxy::parse(text).map(Some).ok_or(PROXY),
    }
}

/// What goes past the proxies.
pub(super) fn exceptions(name: &str, text: &str, warnings: &mut Vec<String>) -> Exceptions {
    let exceptions = Exceptions::parse(text);
    for number in exceptions.not_understood() {
        warnings.push(format!(
            "{name}: number {number} of the list is no HOST, .DOMAIN, ADDRESS or ADDRESS/BITS, and ignored"
        ));
    }
    exceptions
}
