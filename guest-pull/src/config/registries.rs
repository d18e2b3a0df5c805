// SPDX-License-Identifier: Apache-2.0

//! `[image.registry_config]`: containers-registries.conf(5), as far as it is supported.

use common::auth_json::image::ImageName;
use common::text::{Escaped, RegistryName};
use serde_json::Value;

use crate::config::Image;
use crate::config::table::Wrong;

/// One `[[registry]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// The beginning of the names of images that it is for.
    pub prefix: String,
    /// What the prefix stands for, if that is something else.
    pub location: Option<String>,
    /// Whether it is asked in plain HTTP.
    pub insecure: bool,
    /// Whether nothing is pulled from it.
    pub blocked: bool,
}

/// Takes the table over.
pub fn take(image: &mut Image, value: Value) -> Result<(), Wrong> {
    let wrong = |key: &str, wanted| Wrong {
        key: format!("[image.registry_config] {key}"),
        wanted,
    };
    let Value::Object(table) = value else {
        return Err(Wrong {
            key: "[image] registry_config".to_owned(),
            wanted: "a table",
        });
    };
    for (key, value) in table {
        match key.as_str() {
            "registry" => {
                let list = value.as_array().ok_or_else(|| wrong(&key, "a list of tables"))?;
                for value in list {
                    let registry = one(value, &mut image.warnings)
                        .map_err(|(key, wanted)| wrong(&format!("[[registry]] {key}"), wanted))?;
                    image.registries.push(registry);
                }
            }
            _ => image.warnings.push(format!(
                "[image.registry_config] {}: not supported, and ignored; give images by their full names",
                Escaped(&key)
            )),
        }
    }
    Ok(())
}

fn one(value: &Value, warnings: &mut Vec<String>) -> Result<Registry, (String, &'static str)> {
    let Value::Object(table) = value else {
        return Err(("entry".to_owned(), "a table"));
    };
    let mut registry = Registry::default();
    let mut prefix = None;
    for (key, value) in table {
        let text = || {
            let text = value.as_str().map(|text| text.trim_end_matches('/'));
            let text = text.filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or((key.clone(), "a name"))
        };
        let flag = || value.as_bool().ok_or((key.clone(), "true or false"));
        match key.as_str() {
            "prefix" => prefix = Some(text()?),
            "location" => registry.location = Some(text()?),
            "insecure" => registry.insecure = flag()?,
            "blocked" => registry.blocked = flag()?,
            // The location itself comes after all mirrors, so it is right to ask it.
            _ => warnings.push(format!(
                "[[registry]] {}: not supported, and ignored",
                Escaped(key)
            )),
        }
    }
    registry.prefix = match (prefix, &registry.location) {
        (Some(prefix), _) => prefix,
        (None, Some(location)) => location.clone(),
        (None, None) => return Err(("entry".to_owned(), "one with a prefix or a location")),
    };
    registry
        .location
        .take_if(|location| *location == registry.prefix);
    Ok(registry)
}

/// Whether an image is asked for in plain HTTP; else why it is not pulled. The longest prefix counts.
pub fn allow(registries: &[Registry], image: &ImageName) -> Result<bool, String> {
    let fits = registries
        .iter()
        .filter(|registry| is_for(&registry.prefix, image));
    let Some(registry) = fits.max_by_key(|registry| registry.prefix.len()) else {
        return Ok(false);
    };
    let shown = RegistryName(&registry.prefix).plain();
    let shown = Escaped(&shown);
    if registry.blocked {
        return Err(format!(
            "[[registry]] blocked: the configuration forbids images of {shown}"
        ));
    }
    if registry.location.is_some() {
        return Err(format!(
            "[[registry]] location: {shown} is to be pulled from elsewhere, which guest-pull does not support yet; \
             name the image as it is there"
        ));
    }
    Ok(registry.insecure)
}

/// Whether the name of an image begins with the prefix, as a whole part of it.
fn is_for(prefix: &str, image: &ImageName) -> bool {
    let (host, path) = match prefix.split_once('/') {
        Some((host, path)) => (host, path),
        None => (prefix, ""),
    };
    let is_host = match host.strip_prefix('*') {
        // With or without the port.
        Some(domain) => {
            let bare = image.registry.split(':').next().unwrap_or_default();
            domain.starts_with('.') && (image.registry.ends_with(domain) || bare.ends_with(domain))
        }
        None => image.registry == host,
    };
    let name = format!("{}{}", image.repository, image.suffix);
    let rest = name.strip_prefix(path);
    is_host
        && (path.is_empty()
            || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@'])))
}
