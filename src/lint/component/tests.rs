// SPDX-License-Identifier: Apache-2.0

use super::*;

type Expected<'a> = &'a [(Severity, &'a str, &'a str)];

fn check(lint: fn(&str) -> Vec<Problem>, cases: &[(&str, Expected<'_>)]) {
    for (text, expected) in cases {
        let found = lint(text);
        let short: Vec<_> = found
            .iter()
            .map(|problem| {
                let entry = problem.entry.as_deref().unwrap_or_default();
                (problem.severity, problem.code, entry)
            })
            .collect();
        assert_eq!(short, *expected, "{text}: {found:#?}");
        assert!(!format!("{found:?}").contains("hunter"), "{found:#?}");
    }
}

/// Files of the forms that documentation, operators and people have.
#[test]
fn cdh_toml_is_judged() {
    use Severity::{Error, Note, Warning};
    const KBC: &str = "[kbc]\nname = \"offline_fs_kbc\"\n";
    let with = |text: &str| format!("{KBC}{text}");
    let cases: &[(String, Expected<'_>)] = &[
        // The cdh.toml of a usual initdata.
        (
            "socket = \"unix:///run/confidential-containers/cdh.sock\"\ncredentials = []\n[kbc]\nname = \
             \"offline_fs_kbc\"\n[image]\nauthenticated_registry_credentials_uri = \
             \"kbs:///default/credential/test\"\n"
                .into(),
            &[],
        ),
        // Red Hat's documentation.
        (
            "socket = 'unix:///run/confidential-containers/cdh.sock'\ncredentials = []\n\n[kbc]\nname = 'cc_kbc'\nurl \
             = 'https://kbs'\nkbs_cert = \"\"\"\n-----BEGIN CERTIFICATE-----\n\"\"\"\n"
                .into(),
            &[(Error, "another-kbc", "kbc.name")],
        ),
        // Tests of guest-components.
        (
            with(
                "url = \"\"\nkbs_cert = \"\"\n[aa]\naa_socket = \"unix:///x\"\n[image]\n\
                 max_concurrent_layer_downloads_per_image = 3\nsigstore_config_uri = \
                 \"kbs:///default/sigstore-config/test\"\nimage_security_policy_uri = \
                 \"kbs:///default/security-policy/test\"\n[image.registry_config]\n\
                 unqualified-search-registries = [\"docker.io\"]\n[[image.registry_config.registry]]\nprefix = \
                 \"e.com/foo\"\nlocation = \"m.local/foo\"\n[image.image_pull_proxy]\nhttps_proxy = \
                 \"http://127.0.0.1:8080\"\n",
            ),
            &[
                (Note, "asks-for", "image.image_security_policy_uri"),
                (Note, "asks-for", "image.sigstore_config_uri"),
            ],
        ),
        ("".into(), &[(Warning, "kbc-missing", "kbc")]),
        ("[kbc]\nurl = \"x\"\n".into(), &[(Warning, "kbc-missing", "kbc.name")]),
        ("kbc = \"offline_fs_kbc\"\n".into(), &[(Error, "wrong-type", "kbc")]),
        (
            with("url = \"http://kbs:8080\"\n"),
            &[(Note, "kbc-url", "kbc.url")],
        ),
        (
            with("[image]\nauthenticated_registry_credentials_uri = \"file:///run/peerpod/auth.json\"\n"),
            &[(Note, "credential-file", "image.authenticated_registry_credentials_uri")],
        ),
        (
            with("[image]\nauthenticated_registry_credentials_uri = \"kbs:///ns/secret/auth\"\n"),
            &[(Note, "asks-for", "image.authenticated_registry_credentials_uri")],
        ),
        (
            with("[image]\nauthenticated_registry_credentials_uri = \"kbs:///default/credential\"\n"),
            &[(Error, "uri", "image.authenticated_registry_credentials_uri")],
        ),
        (
            with("[image]\nauthenticated_registry_credentials_uri = \"default/credential/test\"\n"),
            &[(Error, "uri", "image.authenticated_registry_credentials_uri")],
        ),
        (
            with("[image]\nauthenticated_registry_credentials_uri = \"\"\n"),
            &[(Error, "uri", "image.authenticated_registry_credentials_uri")],
        ),
        (
            with("[image]\nimage_security_policy_uri = \"file://etc/policy.json\"\n"),
            &[(Error, "uri", "image.image_security_policy_uri")],
        ),
        (
            with("[image]\nimage_security_policy_uri = \"https://u:hunter2@h/policy.json\"\n"),
            &[(Error, "uri", "image.image_security_policy_uri")],
        ),
        (
            with("[image]\nimage_security_policy_uri = \"/etc/image-policy.json\"\n"),
            &[(Warning, "uri", "image.image_security_policy_uri")],
        ),
        (
            with("[image]\nregistry_configuration_uri = \"kbs+pkcs11:///a/b/c\"\n"),
            &[(Error, "uri", "image.registry_configuration_uri")],
        ),
        (
            with("authenticated_registry_credentials_uri = \"kbs:///a/b/c\"\n"),
            &[(Error, "misplaced-key", "kbc.authenticated_registry_credentials_uri")],
        ),
        (
            "work_dir = \"/x\"\n[kbc]\nname = \"offline_fs_kbc\"\n".into(),
            &[(Error, "misplaced-key", "work_dir")],
        ),
        // What confidential-data-hub of 2024 read.
        (
            with("[image]\nimage_pull_proxy = \"http://h:8080\"\nskip_proxy_ips = \"10.0.0.0/8\"\n"),
            &[
                (Warning, "unknown-key", "image.skip_proxy_ips"),
                (Error, "wrong-type", "image.image_pull_proxy"),
            ],
        ),
        (
            with("[image]\nextra_root_certificates = \"/etc/ssl/ca.pem\"\n"),
            &[(Error, "root-certificates", "image.extra_root_certificates")],
        ),
        (
            with("[image]\nmax_concurrent_layer_downloads_per_image = 0\nwork_dir = \"images\"\n"),
            &[
                (
                    Error,
                    "wrong-type",
                    "image.max_concurrent_layer_downloads_per_image",
                ),
                (Warning, "work-dir", "image.work_dir"),
            ],
        ),
        (
            with(
                "[image]\nimage_security_policy = '''{\"default\":[{\"type\":\"insecureAcceptAnything\"}],\"transports\":{}}'''\n\
                 image_security_policy_uri = \"file:///p\"\n",
            ),
            &[(Warning, "given-twice", "image.image_security_policy")],
        ),
        (
            with("[image]\nimage_security_policy = \"hunter2\"\n"),
            &[(Error, "policy", "image.image_security_policy")],
        ),
        (
            with("[image.registry_config]\nunqualified-search-registries = []\n"),
            &[(
                Error,
                "registries",
                "image.registry_config.unqualified-search-registries",
            )],
        ),
        (
            with("[[credentials]]\npath = \"/run/x\"\nresource_uri = \"kbs:///a/b/c\"\n"),
            &[(Warning, "cdh-credentials", "credentials")],
        ),
        (
            format!("socket = \"127.0.0.1:50000\"\n{KBC}[log]\nlevel = \"debug\"\n"),
            &[(Warning, "cdh-socket", "socket")],
        ),
        ("[kbc\n".into(), &[(Error, "component-toml", "")]),
        ("kbs_cert = hunter2\n".into(), &[(Error, "component-toml", "")]),
        ("# ".repeat(40_000), &[(Note, "component-toml", "")]),
        (
            format!("a = {}", "[".repeat(10_000)),
            &[(Note, "component-toml", "")],
        ),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (text.as_str(), *expected))
        .collect();
    check(cdh, &cases);
}

#[test]
fn aa_toml_is_judged() {
    use Severity::{Error, Note, Warning};
    check(
        aa,
        &[
            ("", &[]),
            (
                "[token_configs]\n[token_configs.kbs]\nurl = \"http://x\"\n",
                &[(Note, "network-kbs", "token_configs.kbs")],
            ),
            (
                "[token_configs]\n[token_configs.coco_as]\nurl = 'https://a'\n[token_configs.kbs]\nurl = \
                 'https://b'\ncert = \"\"\"\nhunter2\n\"\"\"\n",
                &[(Note, "network-kbs", "token_configs.coco_as")],
            ),
            (
                "[token_configs.coco_kbs]\nurl = 'https://b'\n",
                &[(Warning, "unknown-key", "token_configs.coco_kbs")],
            ),
            (
                "[token_configs.kbs]\ncert = 'hunter2'\n",
                &[(Warning, "url-missing", "token_configs.kbs")],
            ),
            (
                "[eventlog_config]\neventlog_algorithm = \"sha384\"\ninit_pcr = 17\nenable_eventlog = false\n",
                &[],
            ),
            (
                "[eventlog_config]\nenable_eventlog = true\n",
                &[(Note, "event-log", "eventlog_config.enable_eventlog")],
            ),
            (
                "token_configs = 1\n",
                &[(Error, "wrong-type", "token_configs")],
            ),
            ("[log]\nlevel = 3\n", &[(Error, "wrong-type", "log.level")]),
            (
                "Token_Configs = 1\n",
                &[(Warning, "unknown-key", "Token_Configs")],
            ),
            ("hunter2", &[(Error, "component-toml", "")]),
        ],
    );
}

/// The advice is what to type, and the place is the line of the key.
#[test]
fn a_finding_names_place_and_remedy() {
    let found = cdh("[kbc]\nname = \"cc_kbc\"\n");
    assert_eq!(found[0].position.map(|at| at.line), Some(2));
    assert!(found[0].what.contains("\"cc_kbc\""));
    let found =
        cdh("[kbc]\nname = \"offline_fs_kbc\"\n[image]\nImage-Security-Policy_uri = \"x\"\n");
    assert_eq!(found[0].fix, "write image_security_policy_uri");
    assert_eq!(found[0].position.map(|at| at.line), Some(4));
    let found = cdh(
        "[kbc]\nname = \"offline_fs_kbc\"\n[image]\nauthenticated_registry_credentials_uri = \"a/b/c\"\n",
    );
    assert!(found[0].fix.contains("\"kbs:///a/b/c\""), "{found:?}");
}

#[test]
fn a_cdh_toml_is_told_apart() {
    let table = |text: &str| toml::table(text.as_bytes(), 1_000).unwrap_or_default();
    for (text, expected) in [
        ("[kbc]\nname = \"x\"\n", true),
        ("[image]\n", true),
        ("[token_configs.kbs]\nurl = \"x\"\n", false),
        ("a = 1\n", false),
        ("", false),
    ] {
        assert_eq!(is_cdh(&table(text)), expected, "{text}");
    }
}
