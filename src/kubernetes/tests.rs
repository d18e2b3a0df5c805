// SPDX-License-Identifier: Apache-2.0

#![allow(clippy::unwrap_used)]

use super::*;

/// `{"auths": {"quay.io": {"auth": "dTpw"}}}`, and the same as a `.dockercfg`.
const AUTH: &str = "eyJhdXRocyI6IHsicXVheS5pbyI6IHsiYXV0aCI6ICJkVHB3In19fQ==";
const AUTH_TEXT: &str = r#"{"auths": {"quay.io": {"auth": "dTpw"}}}"#;
const CFG: &str = "eyJxdWF5LmlvIjogeyJhdXRoIjogImRUcHcifX0=";
const CFG_TEXT: &str = r#"{"quay.io": {"auth": "dTpw"}}"#;

fn of(text: &str) -> Manifest {
    read(text.as_bytes()).unwrap()
}

/// Manifests as people have them, and the form of the one credential in each.
#[test]
fn credentials_are_found_in_every_form() {
    use Form::{AuthJson, DockerCfg, Resources};
    let resources = "{\"default/credential/test\": \"e30=\"}";
    for (text, key, form) in [
        // kubectl get secret -o json
        (
            format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"type\": \"kubernetes.io/dockerconfigjson\", \
                 \"metadata\": {{\"name\": \"x\"}}, \"data\": {{\".dockerconfigjson\": \"{AUTH}\"}}}}"
            ),
            ".dockerconfigjson",
            AuthJson,
        ),
        // kubectl get secret -o yaml
        (
            format!(
                "apiVersion: v1\ndata:\n  .dockerconfigjson: {AUTH}\nkind: Secret\nmetadata:\n  \
                 creationTimestamp: \"2026-01-01T00:00:00Z\"\n  name: x\n  namespace: default\n  uid: 0\ntype: \
                 kubernetes.io/dockerconfigjson\n"
            ),
            ".dockerconfigjson",
            AuthJson,
        ),
        // Written by hand: base64 without -w 0, in a block.
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nimmutable: true\ntype: \
                 kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson: |\n    {}\n    {}\n",
                &AUTH[..30],
                &AUTH[30..]
            ),
            ".dockerconfigjson",
            AuthJson,
        ),
        // The same folded, and in double quotes over two lines.
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ndata:\n  auth.json: \"{}\n    {}\"\n",
                &AUTH[..30],
                &AUTH[30..]
            ),
            "auth.json",
            AuthJson,
        ),
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ntype: Opaque\nstringData:\n  config.json: \
                 |\n    {AUTH_TEXT}\n"
            ),
            "config.json",
            AuthJson,
        ),
        // stringData wins.
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ndata:\n  auth.json: !!!\nstringData:\n  \
                 auth.json: '{AUTH_TEXT}'\n"
            )
            .replace("!!!", "e30="),
            "auth.json",
            AuthJson,
        ),
        (
            format!(
                "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockercfg\nmetadata:\n  name: x\ndata:\n  \
                 .dockercfg: {CFG}\n"
            ),
            ".dockercfg",
            DockerCfg,
        ),
        // A List, as kubectl get secrets writes it, among others that hold none.
        (
            format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{{\"apiVersion\": \"v1\", \"kind\": \
                 \"Secret\", \"type\": \"kubernetes.io/tls\", \"metadata\": {{\"name\": \"t\"}}, \"data\": \
                 {{\"tls.key\": \"aHVudGVyMg==\"}}}},\n {{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \
                 \"metadata\": {{\"name\": \"x\"}}, \"data\": {{\".dockercfg\": \"{CFG}\"}}}}]}}"
            ),
            ".dockercfg",
            DockerCfg,
        ),
        // Several documents, with comments, as kustomize and helm template write them.
        (
            format!(
                "# Source: a\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: s}}\n--- # b\n\
                 apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\ndata: {{.dockerconfigjson: {AUTH}}}\n---\n"
            ),
            ".dockerconfigjson",
            AuthJson,
        ),
        // What the operator of a key broker makes resources of: the key is the tag.
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\ndata: {{other: aHVudGVyMg==, test: {AUTH}}}\n"
            ),
            "test",
            AuthJson,
        ),
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nstringData:\n  \
                 aa-offline_fs_kbc-resources.json: '{resources}'\n"
            ),
            "aa-offline_fs_kbc-resources.json",
            Resources,
        ),
        // CRLF, as an editor on Windows leaves it, and a byte order mark.
        (
            format!(
                "\u{feff}apiVersion: v1\r\nkind: Secret\r\nmetadata:\r\n  name: x\r\ndata:\r\n  auth.json: \
                 {AUTH}\r\n"
            ),
            "auth.json",
            AuthJson,
        ),
    ] {
        let manifest = of(&text);
        let (secret, item) = manifest.credential().unwrap();
        assert_eq!(secret.name, "x", "{text}");
        assert_eq!((item.key.as_str(), item.form), (key, form), "{text}");
        let expected = match form {
            AuthJson => AUTH_TEXT,
            DockerCfg => CFG_TEXT,
            Resources => resources,
        };
        let value = String::from_utf8(item.value.to_vec()).unwrap();
        assert_eq!(value.trim_end(), expected, "{text}");
        assert!(item.position.is_some());
        let worst = manifest.problems.iter().map(|problem| problem.severity).max();
        assert!(worst.is_none_or(|worst| worst == Severity::Note), "{manifest:?}");
        assert!(!format!("{manifest:?}").contains("hunter"), "{manifest:?}");
    }
}

/// What is recognised and gives no credential says why.
#[test]
fn findings_say_why_there_is_none() {
    use Severity::{Error, Note, Warning};
    let secret =
        |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\n{rest}");
    for (text, expected) in [
        (
            secret("type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: hunter2!}\n"),
            (Error, "kubernetes-base64"),
        ),
        (
            secret("data:\n  auth.json: '{\"auths\": {}}'\n"),
            (Error, "kubernetes-base64"),
        ),
        (
            secret("data: {auth.json: 12345}\n"),
            (Error, "kubernetes-value"),
        ),
        (
            secret("type: kubernetes.io/dockerconfigjson\n"),
            (Error, "kubernetes-no-credential"),
        ),
        (
            secret("type: kubernetes.io/dockercfg\ndata: {.dockercfg: \"\"}\n"),
            (Error, "kubernetes-no-credential"),
        ),
        (
            secret("type: kubernetes.io/tls\ndata: {tls.key: aHVudGVyMg==}\n"),
            (Note, "kubernetes-no-credential"),
        ),
        (
            "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: x, namespace: \
             n}\nspec: {encryptedData: {.dockerconfigjson: hunter2}}\n"
                .to_owned(),
            (Note, "kubernetes-no-credential"),
        ),
        (
            "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {name: x}\n"
                .to_owned(),
            (Note, "kubernetes-no-credential"),
        ),
        (
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata:\n  auth.json: '{AUTH_TEXT}'\n"
            ),
            (Warning, "kubernetes-config-map"),
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n".to_owned(),
            (Note, "kubernetes-no-credential"),
        ),
    ] {
        let manifest = of(&text);
        assert_eq!(manifest.credential().unwrap_err(), Choice::None, "{text}");
        let found: Vec<_> = manifest
            .problems
            .iter()
            .map(|p| (p.severity, p.code))
            .collect();
        assert_eq!(found, [expected], "{text}: {manifest:?}");
        assert!(!format!("{manifest:?}").contains("hunter"), "{manifest:?}");
    }
}

/// pack must not choose between two logins; the same one twice is no choice.
#[test]
fn several_credentials_are_not_chosen_from() {
    let two = |first: &str, second: &str| {
        of(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\ndata: {{auth.json: {first}}}\n---\napiVersion: \
             v1\nkind: Secret\nmetadata: {{name: b}}\ndata: {{auth.json: {second}}}\n"
        ))
    };
    let manifest = two(AUTH, CFG);
    let places = ["\"auth.json\" of \"a\"", "\"auth.json\" of \"b\""];
    assert_eq!(
        manifest.credential().unwrap_err(),
        Choice::Several(places.map(str::to_owned).to_vec())
    );
    assert_eq!(manifest.problems[0].code, "kubernetes-several");
    assert!(two(AUTH, AUTH).credential().is_ok());
}

#[test]
fn other_files_are_no_manifests() {
    for text in [
        "",
        "{}",
        AUTH_TEXT,
        "a: b\n",
        "#cloud-config\nwrite_files: []\n",
        "kind: Secret\n",
        "[kbc]\n",
    ] {
        assert_eq!(
            read(text.as_bytes()).unwrap_err(),
            Error::NotAManifest,
            "{text}"
        );
    }
    for text in [
        "kind: 'hunter2",
        "{\"kind\": \"hunter2\", ",
        "a: b: hunter2\n",
    ] {
        let error = read(text.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Syntax { .. }), "{text}: {error:?}");
        assert!(
            !format!("{error:?} {error}").contains("hunter"),
            "{error:?}"
        );
    }
    assert!(matches!(
        read(&vec![b' '; MAX_BYTES + 1]),
        Err(Error::Limit(_))
    ));
    let deep = format!("apiVersion: v1\nkind: Secret\ndata: {}", "[".repeat(10_000));
    assert!(read(deep.as_bytes()).is_err());
    let deep = format!("{{\"kind\": {}", "[".repeat(10_000));
    assert!(read(deep.as_bytes()).is_err());
    let deep = format!(
        "apiVersion: v1\nkind: Secret\ndata:\n  {}x",
        "- ".repeat(100_000)
    );
    assert!(read(deep.as_bytes()).is_err());
}

/// The commands can be typed as they stand, whatever a name has.
#[test]
fn commands_are_for_a_shell() {
    let command = |metadata: &str, key: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {metadata}\ndata: {{'{key}': {AUTH}}}\n"
        );
        of(&text).secrets[0].command()
    };
    for (metadata, key, expected) in [
        (
            "{name: pull, namespace: apps}",
            ".dockerconfigjson",
            "kubectl get secret pull -n apps -o jsonpath='{.data.\\.dockerconfigjson}' | base64 -d >auth.json",
        ),
        (
            "{name: pull}",
            "test",
            "kubectl get secret pull -o jsonpath='{.data.test}' | base64 -d >auth.json",
        ),
        (
            "{name: \"a'; rm -r x\"}",
            ".dockercfg",
            "kubectl get secret 'a'\\''; rm -r x' -o jsonpath='{.data.\\.dockercfg}' | base64 -d >dockercfg.json",
        ),
        (
            "{name: \"a\\nb\", namespace: -x}",
            "auth.json",
            "kubectl get secret NAME -n NAMESPACE -o jsonpath='{.data.auth\\.json}' | base64 -d >auth.json",
        ),
    ] {
        assert_eq!(command(metadata, key), expected);
    }
    assert_eq!(
        pack_command("my secret.yaml"),
        "offline-fs-kbc pack --credential 'my secret.yaml' -o aa-offline_fs_kbc-resources.json"
    );
    let manifest = of(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\ndata: {{auth.json: {AUTH}}}\n"
    ));
    let finding = manifest.secrets[0].finding(Severity::Error, "x.yaml");
    assert!(
        finding.fix.contains("pack --credential x.yaml"),
        "{finding}"
    );
    assert!(finding.fix.contains("kubectl get secret x "), "{finding}");
}

/// A place is that of the value in the file, in either format.
#[test]
fn places_are_those_of_the_file() {
    let at = |text: &str| {
        of(text).secrets.last().unwrap().credentials[0]
            .position
            .unwrap()
    };
    let json = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n {{\"kind\": \"Secret\", \"data\": \
         {{}}}},\n {{\"kind\": \"Secret\",\n  \"data\": {{\"auth.json\": \"{AUTH}\"}}}}]}}"
    );
    let place = at(&json);
    assert_eq!((place.line, place.column), (4, 25));
    let yaml = format!(
        "---\nkind: Secret\napiVersion: v1\n---\nkind: Secret\napiVersion: v1\ndata:\n  auth.json: {AUTH}\n"
    );
    let place = at(&yaml);
    assert_eq!((place.line, place.column), (8, 14));
}

/// What aliases stand for is bounded, however little the file has of it.
#[test]
fn aliases_are_bounded() {
    let list = |name: u8, of: u8| {
        let aliases = vec![format!("*a{of}"); 400].join(", ");
        format!("a{name}: &a{name} [{aliases}]\n")
    };
    let text = format!(
        "apiVersion: v1\nkind: Secret\na0: &a0 x\n{}{}{}",
        list(1, 0),
        list(2, 1),
        list(3, 2)
    );
    assert!(matches!(read(text.as_bytes()), Err(Error::Limit(_))));
}
