// SPDX-License-Identifier: Apache-2.0

//! The URIs by which `cdh.toml` names resources and files.

use super::File;
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::problem::Severity;
use crate::text::EntryName;

/// What `[image]` asks a resource or a file for.
pub(super) struct Asked {
    /// The key of `[image]`.
    pub key: &'static str,
    /// What is served by this name where nothing else was said.
    default: &'static str,
    /// What it is, for messages.
    what: &'static str,
    /// The option of `pack` that packs it; a general one is right for any.
    option: Option<&'static str>,
}

/// The keys whose value is a URI.
pub(super) const ASKED: [Asked; 4] = [
    Asked {
        key: "authenticated_registry_credentials_uri",
        default: CREDENTIAL,
        what: "the registry credential",
        option: Some("--credential"),
    },
    Asked {
        key: "image_security_policy_uri",
        default: "default/security-policy/test",
        what: "the image policy",
        option: Some("--policy"),
    },
    Asked {
        key: "sigstore_config_uri",
        default: "default/sigstore-config/test",
        what: "the sigstore configuration",
        option: Some("--sigstore-config"),
    },
    Asked {
        key: "registry_configuration_uri",
        default: "default/registry-configuration/test",
        what: "the registry configuration",
        option: None,
    },
];

/// Checks such a URI.
pub(super) fn check(file: &mut File<'_>, asked: &Asked, uri: &str) {
    let Asked {
        key,
        default,
        what,
        option,
    } = asked;
    let path = format!("image.{key}");
    let mut add =
        |severity, code, text: String, fix: String| file.add(severity, code, &path, text, fix);
    let fails = "every pull fails";
    let write = format!("write \"kbs:///{default}\", or file:/// and a path in the VM");
    let is_credential = *default == CREDENTIAL;
    match uri.split_once("://") {
        _ if uri.is_empty() => add(
            Severity::Error,
            "uri",
            format!("is empty; {fails}"),
            "leave the line out, or ".to_owned() + &write,
        ),
        Some((scheme, _)) if scheme.starts_with("kbs+") => add(
            Severity::Error,
            "uri",
            format!("names a plugin of a key broker, and offline-fs-kbc has no plugins; {fails}"),
            write,
        ),
        Some(("kbs", _)) => match Name::parse(uri) {
            Ok(Name::Path(name)) if is_credential && &*name == CREDENTIAL => {}
            Ok(Name::Path(name)) => {
                let how = match option.filter(|_| &*name == *default) {
                    Some(option) => format!("{option} FILE"),
                    None => format!("--resource {name}=FILE"),
                };
                add(
                    Severity::Note,
                    "asks-for",
                    format!(
                        "asks for {what} as {}; if no such resource is served, {fails}",
                        EntryName(&name)
                    ),
                    format!("pack it if it is not there yet: `offline-fs-kbc pack {how} …`"),
                );
            }
            _ => add(
                Severity::Error,
                "uri",
                format!("names no <repository>/<type>/<tag>; {fails}"),
                write,
            ),
        },
        Some(("file", rest)) if rest.starts_with('/') => {
            if is_credential {
                add(
                    Severity::Note,
                    "credential-file",
                    format!(
                        "is the file {}: the image puller reads it there, and does not ask offline-fs-kbc for \
                         the credential",
                        EntryName(rest)
                    ),
                    format!(
                        "write \"kbs:///{CREDENTIAL}\" if the credential that is packed is meant"
                    ),
                );
            }
        }
        Some(("file", _)) => add(
            Severity::Error,
            "uri",
            format!(
                "is a file URL without an absolute path (file:// and a path that begins with /); {fails}"
            ),
            write,
        ),
        Some((scheme, _)) => add(
            Severity::Error,
            "uri",
            format!(
                "has the scheme {}, where image-rs knows kbs and file; {fails}",
                EntryName(scheme)
            ),
            write,
        ),
        None if matches!(Name::parse(uri), Ok(Name::Path(_))) => {
            let name = Name::parse(uri).map_or_else(|_| String::new(), |name| name.to_string());
            add(
                Severity::Error,
                "uri",
                format!(
                    "has no scheme; image-rs looks for a file of that path, and if there is none {fails}"
                ),
                format!("write \"kbs:///{name}\" for the resource, or file:/// for a file"),
            );
        }
        None if uri.starts_with('/') => add(
            Severity::Warning,
            "uri",
            "has no scheme; image-rs takes it for a file, another image puller may not".to_owned(),
            format!("write \"file://{uri}\""),
        ),
        None => add(
            Severity::Error,
            "uri",
            format!("is neither a kbs:/// nor a file:/// URI; {fails}"),
            write,
        ),
    }
}
