// SPDX-License-Identifier: Apache-2.0

//! Kubernetes manifests that hold a registry credential, as `kubectl get -o yaml` or a person writes them.

mod node;

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::json::{self, Position};
use crate::resource::name::{ALIASES, Name};
use crate::resource::problem::{Problem, Severity};
use crate::text::{EntryName, count};
use common::base64;
use node::{Node, Value};

/// The largest manifest that is read. One Secret has at most 1 MiB, in base64 a third more; a List has several.
pub const MAX_BYTES: usize = 16 << 20;

/// The most objects that are read of one file.
const MAX_OBJECTS: usize = 1_000;

/// What a manifest holds, as far as it has to do with registry credentials.
#[derive(Debug, Default)]
pub struct Manifest {
    /// The Secrets.
    pub secrets: Vec<Secret>,
    /// What is wrong with them, and what the other objects are. That a file is a manifest is not among these.
    pub problems: Vec<Problem>,
}

/// A Secret.
#[derive(Debug)]
pub struct Secret {
    /// Its namespace, if the file says one.
    pub namespace: Option<String>,
    /// Its name; empty if the file has none.
    pub name: String,
    /// Its type, as `kubernetes.io/dockerconfigjson`; that of Secrets without one is `Opaque`.
    pub kind_of_secret: String,
    /// The registry credentials, and what holds one.
    pub credentials: Vec<Item>,
}

/// What an item of a Secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An `auth.json`, as Docker's config.json has it.
    AuthJson,
    /// The older `.dockercfg`, without `auths` around the registries.
    DockerCfg,
    /// A resources file, which may hold a credential.
    Resources,
}

impl Form {
    /// The name that a file of this form usually has.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::AuthJson => "auth.json",
            Self::DockerCfg => "dockercfg.json",
            Self::Resources => "aa-offline_fs_kbc-resources.json",
        }
    }
}

/// One item of a Secret's data.
pub struct Item {
    /// Its key.
    pub key: String,
    /// What it is, by its key or its content.
    pub form: Form,
    /// Its bytes, decoded.
    pub value: Zeroizing<Vec<u8>>,
    /// Where the value begins in the file.
    pub position: Option<Position>,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("key", &self.key)
            .field("form", &self.form)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Why a file is not read as a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing in it is an object of Kubernetes.
    #[error("not a Kubernetes manifest")]
    NotAManifest,
    /// It is neither JSON nor YAML.
    #[error("neither JSON nor YAML: {what}")]
    Syntax {
        /// What is wrong, without any part of the text.
        what: String,
        /// Where.
        position: Option<Position>,
    },
    /// It is over a limit of this program, which need not be a fault of the file.
    #[error("{0}")]
    Limit(String),
}

/// Why there is no one credential to take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Choice {
    /// There is none.
    #[error("it holds no registry credential")]
    None,
    /// There are several, and they differ; their places.
    #[error("it holds several different registry credentials: {}", .0.join(", "))]
    Several(Vec<String>),
}

/// Reads a manifest: JSON or YAML, one object, a `List` of them, or several documents.
///
/// # Errors
///
/// Where it is no manifest, or can't be read. The error holds no part of the text.
pub fn read(text: &[u8]) -> Result<Manifest, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::Limit(format!("more than {MAX_BYTES} bytes")));
    }
    let roots = node::documents(text)?;
    let mut objects = Vec::new();
    for root in &roots {
        collect(root, &mut objects)?;
    }
    if objects.is_empty() {
        return Err(Error::NotAManifest);
    }
    let mut manifest = Manifest::default();
    for object in objects {
        manifest.take(object);
    }
    manifest.report_several();
    Ok(manifest)
}

/// The objects of a document: itself, or those of a List.
fn collect<'n>(node: &'n Node, objects: &mut Vec<&'n Node>) -> Result<(), Error> {
    let is_object = |node: &Node| {
        let text = |name| node.get(name).and_then(Node::text);
        text("apiVersion").is_some() && text("kind").is_some()
    };
    if !is_object(node) {
        return Ok(());
    }
    let items = node.get("items").filter(|_| {
        let kind = node.get("kind").and_then(Node::text);
        kind.is_some_and(|kind| kind.ends_with("List"))
    });
    match items.map(|items| &items.value) {
        Some(Value::List(items)) => {
            // The items of a SecretList need no kind of their own.
            objects.extend(
                items
                    .iter()
                    .filter(|item| matches!(item.value, Value::Map(_))),
            );
            if items.is_empty() {
                objects.push(node);
            }
        }
        _ => objects.push(node),
    }
    match objects.len() > MAX_OBJECTS {
        true => Err(Error::Limit(format!("more than {MAX_OBJECTS} objects"))),
        false => Ok(()),
    }
}

impl Manifest {
    fn take(&mut self, object: &Node) {
        let kind = object.get("kind").and_then(Node::text).unwrap_or("Secret");
        let metadata = object.get("metadata");
        let meta = |name| metadata?.get(name)?.text().map(str::to_owned);
        let name = meta("name").unwrap_or_default();
        let namespace = meta("namespace");
        let mut note = |severity, code, what: String, fix: String| {
            let mut problem = Problem::of_file(severity, code, what, fix);
            problem.position = object.position;
            self.problems.push(problem);
        };
        match kind {
            "Secret" => self.take_secret(object, namespace, name),
            "SealedSecret" | "ExternalSecret" | "SecretProviderClass" | "VaultStaticSecret" => {
                // Such an object makes a Secret, in general of its own name.
                let command = kubectl(
                    namespace.as_deref(),
                    &name,
                    ".dockerconfigjson",
                    "auth.json",
                );
                note(
                    Severity::Note,
                    "kubernetes-no-credential",
                    format!(
                        "is a {kind}, from which the cluster makes a Secret: the credential is not in this file, \
                         or not readable"
                    ),
                    format!("get it out of that Secret: `{command}`"),
                );
            }
            "ConfigMap" => {
                let has_one = object.get("data").is_some_and(|data| {
                    data.members().iter().any(|(key, value)| {
                        let content = value.text().map(str::as_bytes);
                        content.is_some_and(|content| form(key, content).is_some())
                    })
                });
                match has_one {
                    true => note(
                        Severity::Warning,
                        "kubernetes-config-map",
                        "is a ConfigMap that holds a registry credential: every account that may read \
                         ConfigMaps can read it, and neither clients in the VM nor pack take it from here"
                            .to_owned(),
                        "put it into a Secret: `kubectl create secret generic NAME --from-file=auth.json`"
                            .to_owned(),
                    ),
                    false => note(
                        Severity::Note,
                        "kubernetes-no-credential",
                        "is a ConfigMap without a registry credential".to_owned(),
                        "name the Secret that holds the credential".to_owned(),
                    ),
                }
            }
            _ => note(
                Severity::Note,
                "kubernetes-no-credential",
                format!(
                    "is a Kubernetes {}, which holds no registry credential",
                    EntryName(kind)
                ),
                "name the Secret that holds the credential".to_owned(),
            ),
        }
    }

    fn take_secret(&mut self, object: &Node, namespace: Option<String>, name: String) {
        let kind_of_secret = object.get("type").and_then(Node::text).unwrap_or("Opaque");
        let mut secret = Secret {
            namespace,
            name,
            kind_of_secret: kind_of_secret.to_owned(),
            credentials: Vec::new(),
        };
        let before = self.problems.len();
        let plain = object
            .get("stringData")
            .map(Node::members)
            .unwrap_or_default();
        for (key, value) in plain {
            match (value.text(), &value.value) {
                (Some(text), _) => secret.add(key, Zeroizing::new(text.as_bytes().to_vec()), value),
                (None, Value::Null) => {}
                (None, _) => self.problems.push(not_a_string(key, value)),
            }
        }
        let winners: BTreeMap<&str, &Node> = plain
            .iter()
            .rev()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        for (key, value) in object.get("data").map(Node::members).unwrap_or_default() {
            // As the API server does: stringData replaces what data has of the same key.
            if let Some(winner) = winners.get(key.as_str()) {
                if form(key, winner.text().unwrap_or_default().as_bytes()).is_some() {
                    let problem = Problem::of_file(
                        Severity::Note,
                        "kubernetes-twice",
                        "is in data and in stringData; the cluster takes the one of stringData, and so does pack",
                        "leave out the one in data",
                    );
                    self.problems.push(problem.about_entry(key, value.position));
                }
                continue;
            }
            match (value.text(), &value.value) {
                (Some(text), _) => match base64::decode(text) {
                    Ok(bytes) => secret.add(key, bytes, value),
                    Err(error) => {
                        let fix = match error {
                            base64::Error::PlainJson => {
                                "move it to stringData, which takes plain text"
                            }
                            _ => "encode the file again: `base64 -w 0 auth.json`",
                        };
                        let what = format!("{error}; neither the cluster nor pack can read it");
                        let problem =
                            Problem::of_file(Severity::Error, "kubernetes-base64", what, fix);
                        self.problems.push(problem.about_entry(key, value.position));
                    }
                },
                (None, Value::Null) => {}
                (None, _) => self.problems.push(not_a_string(key, value)),
            }
        }
        if secret.credentials.is_empty() && self.problems.len() == before {
            let expected = match kind_of_secret {
                "kubernetes.io/dockerconfigjson" => Some(".dockerconfigjson"),
                "kubernetes.io/dockercfg" => Some(".dockercfg"),
                _ => None,
            };
            let mut problem = match expected {
                Some(key) => Problem::of_file(
                    Severity::Error,
                    "kubernetes-no-credential",
                    format!(
                        "is a Secret of the type {} without {}, or with nothing in it; the cluster refuses it, \
                         and pack finds no credential",
                        EntryName(kind_of_secret),
                        EntryName(key)
                    ),
                    "make it anew: `kubectl create secret docker-registry NAME --docker-server=…`",
                ),
                None => Problem::of_file(
                    Severity::Note,
                    "kubernetes-no-credential",
                    format!(
                        "is a Secret of the type {} that holds no registry credential",
                        EntryName(kind_of_secret)
                    ),
                    "name the Secret that the pod's imagePullSecrets name",
                ),
            };
            problem.position = object.position;
            self.problems.push(problem);
        }
        self.secrets.push(secret);
    }

    /// All credentials of the manifest, each with its Secret.
    fn credentials(&self) -> impl Iterator<Item = (&Secret, &Item)> {
        self.secrets
            .iter()
            .flat_map(|secret| secret.credentials.iter().map(move |item| (secret, item)))
    }

    /// The credential that the manifest holds.
    ///
    /// # Errors
    ///
    /// Where it holds none, or several that differ.
    pub fn credential(&self) -> Result<(&Secret, &Item), Choice> {
        let mut credentials = self.credentials();
        let first = credentials.next().ok_or(Choice::None)?;
        let is_same = |(_, item): (&Secret, &Item)| *item.value == *first.1.value;
        match credentials.all(is_same) {
            true => Ok(first),
            false => Err(Choice::Several(
                self.credentials()
                    .map(|(secret, item)| {
                        format!("{} of {}", EntryName(&item.key), EntryName(&secret.name))
                    })
                    .collect(),
            )),
        }
    }

    fn report_several(&mut self) {
        if let Err(Choice::Several(places)) = self.credential() {
            self.problems.push(Problem::of_file(
                Severity::Warning,
                "kubernetes-several",
                format!(
                    "holds {}, which differ: {}; pack takes none of them",
                    count(places.len(), "registry credential", "registry credentials"),
                    places.join(", ")
                ),
                "leave one of them in the file, or merge their \"auths\" into one auth.json",
            ));
        }
    }
}

fn not_a_string(key: &str, value: &Node) -> Problem {
    Problem::of_file(
        Severity::Error,
        "kubernetes-value",
        format!(
            "is {} where a Secret has a string; the cluster refuses it",
            value.kind()
        ),
        "write the value in quotes",
    )
    .about_entry(key, value.position)
}

impl Secret {
    fn add(&mut self, key: &str, value: Zeroizing<Vec<u8>>, node: &Node) {
        if let Some(form) = form(key, &value) {
            self.credentials.push(Item {
                key: key.to_owned(),
                form,
                value,
                position: node.position,
            });
        }
    }

    /// The command that gets the credential out of the cluster, and writes it as a file.
    pub fn command(&self) -> String {
        let item = self.credentials.first();
        let (key, file) = match item {
            Some(item) => (item.key.as_str(), item.form.file_name()),
            None => (".dockerconfigjson", Form::AuthJson.file_name()),
        };
        kubectl(self.namespace.as_deref(), &self.name, key, file)
    }

    /// The finding that a file is this Secret and not what it was taken for; `file` is its path as the user gave it,
    /// for the command that packs it.
    pub fn finding(&self, severity: Severity, file: &str) -> Problem {
        let what = format!(
            "the Kubernetes Secret {} (type {}) is in a form that no component in a VM reads",
            EntryName(&self.name),
            EntryName(&self.kind_of_secret)
        );
        let fix = match self.credentials.first() {
            Some(item) if item.form != Form::Resources => format!(
                "pack it as it is: `{}`; or get the {} out of the cluster: `{}`",
                pack_command(file),
                item.form.file_name(),
                self.command()
            ),
            Some(_) => format!(
                "get the resources file out of the cluster: `{}`",
                self.command()
            ),
            None => "name the Secret that the pod's imagePullSecrets name".to_owned(),
        };
        Problem::of_file(severity, "kubernetes-secret", what, fix)
    }
}

/// The command that packs a file which holds one credential.
pub fn pack_command(file: &str) -> String {
    format!(
        "offline-fs-kbc pack --credential {} -o aa-offline_fs_kbc-resources.json",
        quoted(file, "FILE")
    )
}

fn kubectl(namespace: Option<&str>, name: &str, key: &str, file: &str) -> String {
    let namespace = namespace.map_or_else(String::new, |namespace| {
        format!(" -n {}", quoted(namespace, "NAMESPACE"))
    });
    let name = quoted(name, "NAME");
    let path = format!("{{.data.{}}}", key.replace('.', "\\."));
    let path = shell_quoted(&path).unwrap_or_else(|| "'{.data.KEY}'".to_owned());
    format!("kubectl get secret {name}{namespace} -o jsonpath={path} | base64 -d >{file}")
}

/// A word for a shell, quoted where that is needed; the placeholder where it can't be shown in one line, or would be
/// taken for an option.
fn quoted(word: &str, placeholder: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    match word.is_empty() || word.starts_with('-') {
        true => placeholder.to_owned(),
        false if word.chars().all(is_plain) => word.to_owned(),
        false => shell_quoted(word).unwrap_or_else(|| placeholder.to_owned()),
    }
}

/// The longest word that a command shows.
const MAX_WORD: usize = 300;

fn shell_quoted(word: &str) -> Option<String> {
    let is_shown = word.len() <= MAX_WORD && !word.contains(char::is_control);
    is_shown.then(|| format!("'{}'", word.replace('\'', "'\\''")))
}

/// What an item of a Secret is, by its key, and where that says nothing by its content.
fn form(key: &str, value: &[u8]) -> Option<Form> {
    if value.trim_ascii().is_empty() {
        return None;
    }
    match key {
        ".dockerconfigjson" | "auth.json" | "config.json" => return Some(Form::AuthJson),
        ".dockercfg" => return Some(Form::DockerCfg),
        "aa-offline_fs_kbc-resources.json" => return Some(Form::Resources),
        _ => {}
    }
    // Operators name the item by the tag of the resource: `test`, of default/credential/test.
    let members = json::members(value, MAX_OBJECTS).ok()?;
    if json::value(&members, "auths").is_some_and(|auths| auths.starts_with('{')) {
        return Some(Form::AuthJson);
    }
    let is_resource = |name: &str| {
        let path = Name::parse(name).ok();
        path.is_some_and(|path| ALIASES.iter().any(|(_, known)| *known == path.as_str()))
    };
    members
        .iter()
        .any(|member| is_resource(&member.name))
        .then_some(Form::Resources)
}

#[cfg(test)]
mod tests;
