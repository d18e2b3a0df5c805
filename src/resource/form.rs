// SPDX-License-Identifier: Apache-2.0

//! What a file is, by its content: people put all kinds of files where a resources file or an `auth.json` belongs.
//!
//! A file is recognised by what only its kind has, and never by its name. So a file of the right kind with a mistake in
//! it is not taken for another one.

pub use common::auth_json::is_dockercfg;

use crate::json::{self, Member};
use crate::resource::base64;
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};

/// What makes an `auth.json` with the login itself in it. Into an old file, skopeo adds: what is wrong there stays.
pub const AUTH_JSON_FIX: &str = "make it anew: `skopeo login --authfile new.json REGISTRY`, into a file that does not exist yet";

/// How many members of a JSON object are looked at. Every kind is known by its first few.
const MAX_MEMBERS: usize = 10_000;

/// How many lines of a text are looked at, for the same reason.
const MAX_LINES: usize = 2_000;

/// How long a text may be that is decoded to see what is in it. A credential has a few KiB, and memory may be short.
const MAX_ENCODED_BYTES: usize = 256 << 10;

/// The two bytes that gzip begins with (RFC 1952, 2.3.1), and what base64 makes of them and the third.
const GZIP: &[u8] = &[0x1f, 0x8b];
const GZIP_BASE64: &str = "H4sI";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object of base64, by the names of resources.
    Resources,
    /// A containers `auth.json`, or a docker `config.json`.
    AuthJson,
    /// The older `.dockercfg`: registries at the top, without `auths`.
    DockerCfg,
    /// Base64 of one of the two, and nothing around it.
    EncodedAuthJson,
    /// A Kubernetes object: a Secret, mostly.
    Kubernetes,
    /// An image policy, containers-policy.json(5).
    Policy,
    /// containers-registries.conf(5).
    RegistriesConf,
    /// A signature storage configuration, containers-registries.d(5).
    SigstoreConfig,
    /// The configuration of confidential-data-hub.
    CdhToml,
    /// The configuration of the attestation-agent.
    AaToml,
    /// Initdata: a TOML file that carries the two.
    Initdata,
    /// Cloud-config user data.
    CloudConfig,
    /// User data in several parts.
    Multipart,
    /// User data that cloud-init runs.
    Script,
    /// User data that names addresses to get user data from.
    Include,
    /// User data that cloud-init renders first.
    Jinja,
    /// An Ignition configuration.
    Ignition,
    /// Something compressed by gzip: user data or initdata.
    Gzip,
    /// Base64 of that.
    EncodedGzip,
    /// A public key in PEM.
    PublicKey,
    /// An OpenPGP keyring.
    GpgKeyring,
    /// A private key, of whichever sort.
    PrivateKey,
}

impl Form {
    /// What the text is, if that is certain. Text without the marks of any kind is nothing.
    pub fn of(text: &[u8]) -> Option<Self> {
        if text.starts_with(GZIP) {
            return Some(Self::Gzip);
        }
        let Ok(text) = std::str::from_utf8(text) else {
            return is_binary_keyring(text).then_some(Self::GpgKeyring);
        };
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('{') {
            let members = json::members(text.as_bytes(), MAX_MEMBERS).ok()?;
            return Self::of_members(&members);
        }
        of_first_line(text)
            .or_else(|| of_base64(text))
            .or_else(|| of_lines(text))
    }

    /// What a JSON object is that has these members.
    pub fn of_members(members: &[Member<'_>]) -> Option<Self> {
        let begins = |name, first| {
            let value = json::value(members, name);
            value.is_some_and(|value| value.starts_with(first))
        };
        let has = |name| json::value(members, name).is_some();
        // First: one odd entry must not cost the others.
        let is_resource = |member: &Member<'_>| {
            let is_path = matches!(Name::parse(&member.name), Ok(Name::Path(_)));
            is_path && member.value.starts_with('"')
        };
        if members.iter().any(is_resource) {
            Some(Self::Resources)
        } else if begins("apiVersion", '"') && begins("kind", '"') {
            Some(Self::Kubernetes)
        } else if begins("auths", '{') || has("credsStore") || begins("credHelpers", '{') {
            Some(Self::AuthJson)
        } else if begins("ignition", '{') {
            Some(Self::Ignition)
        } else if begins("default", '[') || begins("transports", '{') {
            Some(Self::Policy)
        } else if is_dockercfg(members) {
            Some(Self::DockerCfg)
        } else {
            None
        }
    }

    /// Whether it is user data, in whichever form.
    pub fn is_user_data(self) -> bool {
        matches!(
            self,
            Self::CloudConfig
                | Self::Multipart
                | Self::Script
                | Self::Include
                | Self::Jinja
                | Self::Gzip
                | Self::EncodedGzip
        )
    }

    /// Whether its content may be nobody else's.
    pub fn is_secret(self) -> bool {
        !matches!(
            self,
            Self::Policy
                | Self::RegistriesConf
                | Self::SigstoreConfig
                | Self::PublicKey
                | Self::GpgKeyring
        )
    }

    /// What a person calls it, and what to do with it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Resources => (
                "a resources file",
                "put it at /etc/aa-offline_fs_kbc-resources.json",
            ),
            Self::AuthJson => (
                "an auth.json",
                "make a resources file of it: `offline-fs-kbc pack --credential FILE -o aa-offline_fs_kbc-resources.json`",
            ),
            Self::DockerCfg => (
                "a .dockercfg",
                "make a resources file of it: `offline-fs-kbc pack --credential FILE -o aa-offline_fs_kbc-resources.json`",
            ),
            Self::EncodedAuthJson => (
                "the base64 of an auth.json with nothing around it",
                "decode it: `base64 -d FILE >auth.json`; then `offline-fs-kbc pack --credential auth.json`",
            ),
            Self::Kubernetes => (
                "a Kubernetes object",
                "if it is a pull secret: `offline-fs-kbc pack --credential FILE -o aa-offline_fs_kbc-resources.json`",
            ),
            Self::Policy => (
                "an image policy (policy.json)",
                "make a resources file of it: `offline-fs-kbc pack --policy FILE -o aa-offline_fs_kbc-resources.json`",
            ),
            Self::RegistriesConf => (
                "a registry configuration (registries.conf)",
                "pack it as a resource: `offline-fs-kbc pack --resource default/registry-configuration/test=FILE`",
            ),
            Self::SigstoreConfig => (
                "a sigstore configuration",
                "pack it: `offline-fs-kbc pack --sigstore-config FILE`",
            ),
            Self::CdhToml => (
                "the configuration of confidential-data-hub (cdh.toml)",
                "put it at /run/peerpod/cdh.toml, or into the pod's initdata",
            ),
            Self::AaToml => (
                "the configuration of the attestation-agent (aa.toml)",
                "put it at /run/peerpod/aa.toml, or into the pod's initdata",
            ),
            Self::Initdata => (
                "initdata",
                "give it to the pod in the annotation io.katacontainers.config.hypervisor.cc_init_data",
            ),
            Self::CloudConfig => ("cloud-config user data", USER_DATA_FIX),
            Self::Multipart => ("multipart user data", USER_DATA_FIX),
            Self::Script => ("a script", USER_DATA_FIX),
            Self::Include => ("user data that names addresses (#include)", USER_DATA_FIX),
            Self::Jinja => ("a Jinja template of user data", USER_DATA_FIX),
            Self::Ignition => (
                "an Ignition configuration",
                "give it to the VM as user data, and put here what it is to write to this path",
            ),
            Self::Gzip => (
                "compressed by gzip",
                "decompress it: `gunzip -c FILE`; the file here is read as it is",
            ),
            Self::EncodedGzip => (
                "base64 of something compressed by gzip",
                "decode it: `base64 -d FILE | gunzip -c`; the file here is read as it is",
            ),
            Self::PublicKey => (
                "a public key in PEM",
                "pack it: `offline-fs-kbc pack --cosign-key FILE`, or as another resource with --resource NAME=FILE",
            ),
            Self::GpgKeyring => (
                "an OpenPGP keyring",
                "pack it: `offline-fs-kbc pack --gpg-keyring FILE`",
            ),
            Self::PrivateKey => (
                "a private key",
                "remove it from here: a VM verifies with public keys only",
            ),
        }
    }

    /// What a person calls it.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What to do with it.
    pub fn fix(self) -> &'static str {
        self.words().1
    }

    /// The problem of a file of this form in the place of another.
    pub fn instead_of(self, wanted: &str) -> Problem {
        let (name, fix) = self.words();
        let what = format!("it is {name}, not {wanted}");
        Problem::of_file(Severity::Error, "wrong-form", what, fix)
    }
}

const USER_DATA_FIX: &str =
    "give it to the VM as user data; only the file that it writes belongs here";

/// RFC 9580, 4.2: a packet begins with a set bit; the tag of a public key is 6, in either format.
pub fn is_binary_keyring(bytes: &[u8]) -> bool {
    let first = bytes.first().copied().unwrap_or_default();
    first & 0b1111_1100 == 0b1001_1000 || first == 0b1100_0110
}

/// Kinds that say in their first line what they are.
fn of_first_line(text: &str) -> Option<Form> {
    let line = text.lines().next().unwrap_or_default().trim_end();
    let is_header = |name: &str| {
        let head = line.as_bytes().get(..name.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(name.as_bytes()))
    };
    if let Some(label) = line.strip_prefix("-----BEGIN ") {
        return if label.contains("PRIVATE KEY") {
            Some(Form::PrivateKey)
        } else if label.starts_with("PGP PUBLIC KEY") {
            Some(Form::GpgKeyring)
        } else if label.ends_with("PUBLIC KEY-----") {
            Some(Form::PublicKey)
        } else {
            None
        };
    }
    // cloud-init's user-data formats; it takes `## template: jinja` with any blanks.
    let starts = [
        ("#cloud-config", Form::CloudConfig),
        ("#cloud-boothook", Form::Script),
        ("#part-handler", Form::Script),
        ("#include", Form::Include),
        ("#!", Form::Script),
        ("## template:", Form::Jinja),
    ];
    let start = starts.iter().find(|(start, _)| line.starts_with(start));
    if let Some((_, form)) = start {
        return Some(*form);
    }
    (is_header("content-type: multipart/") || is_header("mime-version:")).then_some(Form::Multipart)
}

/// Base64, with or without line breaks, and nothing around it.
fn of_base64(text: &str) -> Option<Form> {
    if text.starts_with(GZIP_BASE64) {
        return Some(Form::EncodedGzip);
    }
    if text.len() > MAX_ENCODED_BYTES {
        return None;
    }
    let inner = base64::decode(text).ok()?;
    let members = json::members(&inner, MAX_MEMBERS).ok()?;
    match Form::of_members(&members)? {
        Form::AuthJson | Form::DockerCfg => Some(Form::EncodedAuthJson),
        _ => None,
    }
}

/// Kinds of TOML and YAML, by keys at the beginning of a line that no other kind has.
fn of_lines(text: &str) -> Option<Form> {
    let lines = || text.lines().take(MAX_LINES);
    let any = |starts: &[&str]| lines().any(|line| starts.iter().any(|s| line.starts_with(s)));
    let kinds: [(&[&str], Form); 6] = [
        (
            &["\"aa.toml\"", "\"cdh.toml\"", "'aa.toml'", "'cdh.toml'"],
            Form::Initdata,
        ),
        (
            &[
                "[[registry]]",
                "unqualified-search-registries",
                "[registries.",
            ],
            Form::RegistriesConf,
        ),
        (
            &["[token_configs", "[eventlog_config]", "[aa_config"],
            Form::AaToml,
        ),
        (
            &[
                "[kbc]",
                "[image]",
                "[image.",
                "[[credentials]]",
                "credentials = [",
            ],
            Form::CdhToml,
        ),
        (&["write_files:"], Form::CloudConfig),
        (&["docker:", "default-docker:"], Form::SigstoreConfig),
    ];
    if any(&["apiVersion:"]) && any(&["kind:"]) {
        return Some(Form::Kubernetes);
    }
    let found = kinds.iter().find(|(starts, _)| any(starts));
    found.map(|(_, form)| *form)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind in the forms that people have it in.
    #[test]
    fn files_are_known_by_their_content() {
        for (text, expected) in [
            (r#"{"auths":{}}"#, Form::AuthJson),
            ("\u{feff} {\"auths\":{\"q\":{}}}", Form::AuthJson),
            (r#"{"credsStore":"desktop"}"#, Form::AuthJson),
            (r#"{"quay.io":{"auth":"dTpw"}}"#, Form::DockerCfg),
            (
                r#"{"https://index.docker.io/v1/":{"email":"x@y"},"localhost":{}}"#,
                Form::DockerCfg,
            ),
            ("eyJhdXRocyI6IHt9fQ==\n", Form::EncodedAuthJson),
            ("eyJhdXRo\ncyI6IHt9\nfQ==", Form::EncodedAuthJson),
            (
                r#"{"kind":"Secret","apiVersion":"v1","data":{}}"#,
                Form::Kubernetes,
            ),
            ("apiVersion: v1\nkind: Secret\n", Form::Kubernetes),
            ("---\n# x\nkind: List\napiVersion: v1\n", Form::Kubernetes),
            (r#"{"default":[{"type":"reject"}]}"#, Form::Policy),
            (r#"{"transports":{"docker":{}}}"#, Form::Policy),
            (r#"{"ignition":{"version":"3.4.0"}}"#, Form::Ignition),
            (r#"{"Credential":""}"#, Form::Resources),
            (r#"{"a/b/c":"eA==","x":1}"#, Form::Resources),
            (r#"{"auths":{},"Credential":"e30="}"#, Form::Resources),
            ("[[registry]]\nprefix = \"x\"\n", Form::RegistriesConf),
            (
                "# x\nunqualified-search-registries = []\n",
                Form::RegistriesConf,
            ),
            ("docker:\n  quay.io: {}\n", Form::SigstoreConfig),
            ("socket = \"x\"\n[kbc]\nname = \"x\"\n", Form::CdhToml),
            ("credentials = []\n", Form::CdhToml),
            ("[token_configs]\n", Form::AaToml),
            (
                "algorithm = \"sha384\"\n[data]\n\"aa.toml\" = '''\n[token_configs]\n'''\n",
                Form::Initdata,
            ),
            ("#cloud-config\n", Form::CloudConfig),
            ("#cloud-config-archive\n", Form::CloudConfig),
            ("write_files:\n- path: /x\n", Form::CloudConfig),
            ("MIME-Version: 1.0\n", Form::Multipart),
            (
                "content-type: multipart/mixed; boundary=x\n",
                Form::Multipart,
            ),
            ("#!/bin/sh\n", Form::Script),
            ("#cloud-boothook\n", Form::Script),
            ("#include-once\nhttps://x\n", Form::Include),
            ("## template: jinja\n#cloud-config\n", Form::Jinja),
            ("H4sIAAAAAAAAAwMAAAAAAAAAAAA=", Form::EncodedGzip),
            ("-----BEGIN PUBLIC KEY-----\nhunter2\n", Form::PublicKey),
            ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", Form::GpgKeyring),
            (
                "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n",
                Form::PrivateKey,
            ),
            ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n", Form::PrivateKey),
        ] {
            assert_eq!(Form::of(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(Form::of(b"\x1f\x8b\x08"), Some(Form::Gzip));
        assert_eq!(Form::of(b"\x99\x01\xff"), Some(Form::GpgKeyring));
    }

    /// What is half-written, or nothing in particular, is not taken for something.
    #[test]
    fn what_is_not_certain_is_nothing() {
        for text in [
            "",
            " \n",
            "{",
            "{}",
            "[]",
            "null",
            "hunter2",
            "aGVsbG8=",
            r#"{"auths":{"q"#,
            r#"{"auths":"aGVsbG8="}"#,
            r#"{"kind":"x"}"#,
            r#"{"x":{}}"#,
            r#"{"x":{"auth":"dTpw"}}"#,
            r#"{"default":"x"}"#,
            "-----BEGIN CERTIFICATE-----\n",
            "a: b\n",
            "\u{1}\u{2}",
        ] {
            assert_eq!(Form::of(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Form::of(b"\xff\xfe"), None);
    }
}
