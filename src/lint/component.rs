// SPDX-License-Identifier: Apache-2.0

//! The configuration files of the components in a VM, `cdh.toml` and `aa.toml`: as confidential-data-hub, image-rs and
//! attestation-agent read them, and what they mean where offline-fs-kbc stands in for these.

mod uri;

use serde_json::{Map, Value};

use super::keys::Keys;
use super::registries::{registries_table, sigstore, strings, unknown, unread};
use crate::resource::name::KBC_NAME;
use crate::resource::problem::{Problem, Severity};
use crate::text::EntryName;
use crate::{lint, toml};

/// The socket that kata-agent connects to, whatever the file says.
const CDH_SOCKET: &str = "unix:///run/confidential-containers/cdh.sock";

/// Which program reads `cdh.toml`.
const HUB: &str = "confidential-data-hub";

/// The keys of `cdh.toml`, table by table; of guest-components 8246e5e0 (August 2026).
const CDH: &[&str] = &[
    "aa",
    "credentials",
    "image",
    "kbc",
    "log",
    "skip_sealed_secret_verification",
    "socket",
];
const KBC: &[&str] = &["kbs_cert", "name", "url"];
const AA_OF_CDH: &[&str] = &["aa_socket"];
const LOG: &[&str] = &["level"];
const IMAGE: &[&str] = &[
    "authenticated_registry_credentials_uri",
    "extra_root_certificates",
    "image_pull_proxy",
    "image_security_policy",
    "image_security_policy_uri",
    "kbc",
    "kbs_uri",
    "max_concurrent_layer_downloads_per_image",
    "registry_config",
    "registry_configuration_uri",
    "sigstore_config",
    "sigstore_config_uri",
    "work_dir",
];
const PROXY: &[&str] = &["http_proxy", "https_proxy", "no_proxy"];

/// The keys of `aa.toml`; `socket` is one that offline-fs-kbc reads, and upstream ignores.
const AA: &[&str] = &["eventlog_config", "log", "socket", "token_configs"];
const TOKENS: &[&str] = &["coco_as", "kbs"];
const KBS: &[&str] = &["cert", "tee_key_algorithm", "url"];
const COCO_AS: &[&str] = &["url"];
/// `eventlog_algorithm` was read until August 2025.
const EVENT_LOG: &[&str] = &["enable_eventlog", "eventlog_algorithm", "init_pcr"];

/// What a wrong type does.
const REJECTED: &str = "confidential-data-hub rejects the whole file, and no image is pulled";

/// A configuration file that is checked.
struct File<'a> {
    keys: Keys<'a>,
    reader: &'static str,
    is_cdh: bool,
    found: Vec<Problem>,
}

impl<'a> File<'a> {
    fn new(text: &'a str, reader: &'static str) -> Self {
        Self {
            keys: Keys::of(text),
            reader,
            is_cdh: reader == HUB,
            found: Vec::new(),
        }
    }

    /// A finding about a key, given by its path.
    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        path: &str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let key = path.rsplit('.').next().unwrap_or(path);
        let position = self.keys.position(key).or_else(|| self.keys.header(path));
        let problem = Problem::of_file(severity, code, what, fix);
        self.found.push(problem.about_entry(path, position));
    }

    /// Names the keys of a table that nobody reads there, and among them those that belong to `[image]`: in TOML a key
    /// belongs to the table above it, which is often not the one that was meant.
    fn keys_of(&mut self, table: &Map<String, Value>, within: &str, known: &[&str]) {
        let mut known = known.to_vec();
        for key in table.keys().map(String::as_str) {
            if IMAGE.contains(&key) && !known.contains(&key) && self.is_cdh {
                known.push(key);
                self.add(
                    Severity::Error,
                    "misplaced-key",
                    &format!("{within}{key}"),
                    "has no effect here: it is a key of [image]",
                    "move it right below the line [image]",
                );
            }
        }
        let reader = self.reader;
        unknown(
            table,
            &known,
            &[],
            within,
            &self.keys,
            reader,
            &mut self.found,
        );
    }

    /// The table of this path; none if it is absent. One that is no table is an error.
    fn table<'v>(
        &mut self,
        parent: &'v Map<String, Value>,
        path: &str,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let key = path.rsplit('.').next().unwrap_or(path);
        match parent.get(key)? {
            Value::Object(table) => {
                self.keys_of(table, &format!("{path}."), known);
                Some(table)
            }
            _ => {
                let what = format!("is not a table; {} rejects the whole file", self.reader);
                self.add(
                    Severity::Error,
                    "wrong-type",
                    path,
                    what,
                    format!("write a line [{path}], and its keys below"),
                );
                None
            }
        }
    }

    /// The text of a key; none if it is absent. One that is no string is an error.
    fn string<'v>(&mut self, parent: &'v Map<String, Value>, path: &str) -> Option<&'v str> {
        let key = path.rsplit('.').next().unwrap_or(path);
        match parent.get(key)? {
            Value::String(text) => Some(text),
            _ => {
                let what = format!("is not a string; {} rejects the whole file", self.reader);
                self.add(
                    Severity::Error,
                    "wrong-type",
                    path,
                    what,
                    "write it in quotes",
                );
                None
            }
        }
    }
}

/// What is wrong with a `cdh.toml`.
pub fn cdh(text: &str) -> Vec<Problem> {
    let top: Map<String, Value> = match toml::table(text.as_bytes(), toml::MAX_COMPONENT_BYTES) {
        Ok(table) => table.into_iter().collect(),
        Err(error) => {
            let meaning = "confidential-data-hub does not start with it, and offline-fs-kbc uses its defaults";
            return vec![unread(&error, "component-toml", meaning)];
        }
    };
    let mut file = File::new(text, HUB);
    file.keys_of(&top, "", CDH);
    kbc(&mut file, &top);
    if let Some(socket) = file.string(&top, "socket") {
        if socket != CDH_SOCKET {
            file.add(
                Severity::Warning,
                "cdh-socket",
                "socket",
                format!("is {}, where kata-agent does not look", EntryName(socket)),
                format!("write socket = \"{CDH_SOCKET}\", or leave the line out"),
            );
        }
    }
    if let Some(skip) = top.get("skip_sealed_secret_verification") {
        if !is_bool(skip) {
            file.add(
                Severity::Error,
                "wrong-type",
                "skip_sealed_secret_verification",
                format!("is neither true nor false; {REJECTED}"),
                "write true or false",
            );
        }
    }
    match top.get("credentials") {
        Some(Value::Array(list)) if list.is_empty() => {}
        Some(Value::Array(_)) => file.add(
            Severity::Warning,
            "cdh-credentials",
            "credentials",
            "names resources that confidential-data-hub writes into files at its start; offline-fs-kbc writes no \
             files",
            "put these files into the image, or have what needs them ask for the resources",
        ),
        Some(_) => file.add(
            Severity::Error,
            "wrong-type",
            "credentials",
            format!("is not a list; {REJECTED}"),
            "write credentials = [], or [[credentials]] with path and resource_uri",
        ),
        None => {}
    }
    if let Some(aa) = file.table(&top, "aa", AA_OF_CDH) {
        file.string(aa, "aa.aa_socket");
    }
    if let Some(log) = file.table(&top, "log", LOG) {
        file.string(log, "log.level");
    }
    if let Some(image) = file.table(&top, "image", IMAGE) {
        check_image(&mut file, image);
    }
    file.found
}

fn kbc(file: &mut File<'_>, top: &Map<String, Value>) {
    let write = format!("write [kbc] and name = \"{KBC_NAME}\" below it");
    let missing =
        "is missing; confidential-data-hub does not start without it (offline-fs-kbc does)";
    if !top.contains_key("kbc") {
        return file.add(Severity::Warning, "kbc-missing", "kbc", missing, write);
    }
    let Some(kbc) = file.table(top, "kbc", KBC) else {
        return;
    };
    if !kbc.contains_key("name") {
        return file.add(Severity::Warning, "kbc-missing", "kbc.name", missing, write);
    }
    let Some(name) = file.string(kbc, "kbc.name") else {
        return;
    };
    if name.trim() != KBC_NAME {
        return file.add(
            Severity::Error,
            "another-kbc",
            "kbc.name",
            format!(
                "is {}: the VM is configured for another KBC, and what offline-fs-kbc has is not asked for",
                EntryName(name)
            ),
            format!("write name = \"{KBC_NAME}\", or use the components of that KBC in place of offline-fs-kbc"),
        );
    }
    let is_set = |key: &&&str| {
        kbc.get(**key)
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    };
    if let Some(key) = ["url", "kbs_cert"].iter().find(is_set) {
        file.add(
            Severity::Note,
            "kbc-url",
            &format!("kbc.{key}"),
            format!("is ignored: {KBC_NAME} reads files, and asks no key broker"),
            "leave it out, unless a key broker is meant",
        );
    }
}

fn check_image(file: &mut File<'_>, image: &Map<String, Value>) {
    for asked in &uri::ASKED {
        if let Some(uri) = file.string(image, &format!("image.{}", asked.key)) {
            uri::check(file, asked, uri);
        }
    }
    for (uri, inline, winner) in [
        (
            "image_security_policy_uri",
            "image_security_policy",
            "the URI",
        ),
        ("sigstore_config_uri", "sigstore_config", "the URI"),
        (
            "registry_configuration_uri",
            "registry_config",
            "this table",
        ),
    ] {
        if image.contains_key(uri) && image.contains_key(inline) {
            file.add(
                Severity::Warning,
                "given-twice",
                &format!("image.{inline}"),
                format!("is given beside {uri}; image-rs uses {winner} alone"),
                "leave one of them out",
            );
        }
    }
    if let Some(policy) = file.string(image, "image.image_security_policy") {
        let found = lint::policy::lint(policy.as_bytes(), &|_| Some(&[]));
        inline(file, "image.image_security_policy", found);
    }
    if let Some(config) = file.string(image, "image.sigstore_config") {
        inline(file, "image.sigstore_config", sigstore(config));
    }
    match image.get("registry_config") {
        None => {}
        Some(Value::Object(table)) => {
            let found = registries_table(table, &file.keys, "image.registry_config.");
            file.found.extend(found);
        }
        Some(_) => file.add(
            Severity::Error,
            "wrong-type",
            "image.registry_config",
            format!("is not a table; {REJECTED}"),
            "write a line [image.registry_config], and its keys below; a file is named by \
             registry_configuration_uri",
        ),
    }
    if image.get("image_pull_proxy").is_some_and(Value::is_string) {
        file.add(
            Severity::Error,
            "wrong-type",
            "image.image_pull_proxy",
            "is a string, which confidential-data-hub no longer reads; it rejects the whole file, and no \
             image is pulled",
            "write a line [image.image_pull_proxy], and https_proxy = \"http://…\" below it",
        );
    } else if let Some(proxy) = file.table(image, "image.image_pull_proxy", PROXY) {
        for key in PROXY {
            file.string(proxy, &format!("image.image_pull_proxy.{key}"));
        }
    }
    if let Some(certificates) = image.get("extra_root_certificates") {
        let are_pem = strings(certificates).is_some_and(|list| {
            list.iter()
                .all(|text| text.contains("-----BEGIN CERTIFICATE-----"))
        });
        if !are_pem {
            file.add(
                Severity::Error,
                "root-certificates",
                "image.extra_root_certificates",
                "is not a list of certificates in PEM; registries with such a certificate can't be reached",
                "write [\"\"\"-----BEGIN CERTIFICATE-----…\"\"\"], the text of each certificate, not its path",
            );
        }
    }
    if let Some(most) = image.get("max_concurrent_layer_downloads_per_image") {
        let number = most.as_u64().or_else(|| most.as_str()?.parse().ok());
        if number.is_none_or(|number| number == 0) {
            file.add(
                Severity::Error,
                "wrong-type",
                "image.max_concurrent_layer_downloads_per_image",
                "is not a number of at least 1; layers can't be fetched",
                "write 3, which is the default, or leave the line out",
            );
        }
    }
    if let Some(directory) = file.string(image, "image.work_dir") {
        if !directory.starts_with('/') {
            file.add(
                Severity::Warning,
                "work-dir",
                "image.work_dir",
                "is not an absolute path; where images go depends on how the component is started",
                "write an absolute path, or leave the line out",
            );
        }
    }
}

/// Findings about a text in a string, whose own places say nothing about the file.
fn inline(file: &mut File<'_>, path: &str, found: Vec<Problem>) {
    let position = file.keys.position(path.rsplit('.').next().unwrap_or(path));
    file.found.extend(found.into_iter().map(|problem| {
        let within = problem.entry.as_ref().map(|entry| format!(" ({entry})"));
        let path = format!("{path}{}", within.unwrap_or_default());
        problem.about_entry(path, position)
    }));
}

/// Whether confidential-data-hub takes it for a truth value; its reader of configuration takes words for them.
fn is_bool(value: &Value) -> bool {
    value.is_boolean()
        || value
            .as_str()
            .is_some_and(|text| matches!(text, "true" | "false"))
}

/// What is wrong with an `aa.toml`.
pub fn aa(text: &str) -> Vec<Problem> {
    let top: Map<String, Value> = match toml::table(text.as_bytes(), toml::MAX_COMPONENT_BYTES) {
        Ok(table) => table.into_iter().collect(),
        Err(error) => {
            let meaning =
                "attestation-agent does not start with it, and offline-fs-kbc uses its defaults";
            return vec![unread(&error, "component-toml", meaning)];
        }
    };
    let mut file = File::new(text, "attestation-agent");
    file.keys_of(&top, "", AA);
    if let Some(tokens) = file.table(&top, "token_configs", TOKENS) {
        let mut brokers = Vec::new();
        for (path, known) in [
            ("token_configs.coco_as", COCO_AS),
            ("token_configs.kbs", KBS),
        ] {
            let Some(table) = file.table(tokens, path, known) else {
                continue;
            };
            match table.get("url") {
                Some(Value::String(url)) if !url.is_empty() => brokers.push(path),
                Some(Value::String(_)) => {}
                _ => file.add(
                    Severity::Warning,
                    "url-missing",
                    path,
                    "has no url; attestation-agent does not start with it (offline-fs-kbc does)",
                    "write url = \"…\", or leave the table out",
                ),
            }
        }
        if let Some(path) = brokers.first() {
            file.add(
                Severity::Note,
                "network-kbs",
                path,
                "names a service on the network, which attestation-agent asks for tokens; offline-fs-kbc asks \
                 nobody and attests nothing, and ignores it",
                "leave [token_configs] out, unless that service is meant",
            );
        }
    }
    if let Some(log) = file.table(&top, "eventlog_config", EVENT_LOG) {
        if log
            .get("enable_eventlog")
            .is_some_and(|on| *on == Value::Bool(true))
        {
            file.add(
                Severity::Note,
                "event-log",
                "eventlog_config.enable_eventlog",
                "turns on a log of events that attestation-agent keeps; offline-fs-kbc keeps none",
                "leave it out, unless attestation-agent is meant",
            );
        }
    }
    if let Some(log) = file.table(&top, "log", LOG) {
        file.string(log, "log.level");
    }
    file.found
}

/// Where the line of a key is, or of a table, in a TOML file; none if several lines can be it.
pub fn position_of(text: &str, key: &str) -> Option<crate::json::Position> {
    let keys = Keys::of(text);
    keys.position(key).or_else(|| keys.header(key))
}

/// Whether a table can be the top of a `cdh.toml`: what no other file here has.
pub fn is_cdh(table: &std::collections::BTreeMap<String, Value>) -> bool {
    table.get("kbc").is_some_and(Value::is_object)
        || table.get("image").is_some_and(Value::is_object)
        || (table.contains_key("socket") && table.contains_key("credentials"))
}

#[cfg(test)]
mod tests;
