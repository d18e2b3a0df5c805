// SPDX-License-Identifier: Apache-2.0

//! The registries of clouds: how each asks for a login, refuses one, and says that a token is too old.

use std::fs;

use serde_json::{Value, json};

use crate::host::text;
use crate::played::{Accepted, Denied, Expired, Manners, PRIVATE, Played, Tokens};
use crate::registries::{Case, ask, auth_file, by_password, layers, try_all, usual};

/// ECR: its page "Private registry authentication" (the user AWS, 12 hours), github.com/aws/aws-cli/issues/6580 (a login that is
/// too old), github.com/awslabs/amazon-ecr-credential-helper/issues/49. What isn't there is 404 with NAME_UNKNOWN.
const ECR: Manners = Manners {
    challenges: &["Basic realm=\"http://HOST/\",service=\"ecr.amazonaws.com\""],
    unauthorized: "Not Authorized\n",
    tokens: None,
    wrong_login: (
        400,
        r#"{"errors":[{"code":"DENIED","message":"Your Authorization Token is invalid."}]}"#,
    ),
    denied: Denied::ByRegistry(
        (
            404,
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'team/no-such' does not exist in the registry"}]}"#,
        ),
        "",
    ),
    expired: Expired::Said((
        403,
        r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#,
    )),
    blob_store: Some((400, "only one auth mechanism allowed")),
};

#[test]
fn ecr() {
    let mut case = usual(ECR, "AWS", "Your Authorization Token is invalid");
    case.has_public = false;
    case.missing = ("does not exist in the registry", 4);
    try_all(&case);
    // A login of twelve hours ends in the middle. If the credential has a newer one by then, the pull goes on.
    for is_newer in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = text(&dir.path().join("store")).to_owned();
        let played = Played::start(case.manners, case.accepted.clone(), &layers());
        let auth = auth_file(dir.path(), &played, &case.right);
        played.expire_after(2);
        let newer = by_password("AWS", "hunter4");
        let key = format!("{}/team", played.server.address);
        let newer = json!({"auths": {key: newer}}).to_string();
        let path = auth.clone();
        if is_newer {
            played.change_password("hunter4", move || fs::write(path, newer).unwrap());
        }
        let args = ["pull", "--store", &store, "--auth-file", &auth];
        let (said, code) = ask(&played, PRIVATE, &args);
        assert_eq!(code == 0, is_newer, "{said}");
        let named = said.contains("has expired") && said.contains("/team");
        assert!(named || is_newer, "{said}");
    }
}

/// ECR Public: github.com/appgate/sdpctl/pull/404 (the token's path has a slash at its end), the scope "aws" of its challenge,
/// github.com/kreuzwerker/terraform-provider-docker/pull/666 (a wrong login),
/// github.com/aws/containers-roadmap/issues/2835 (400 and no challenge, to a token that is too old).
const ECR_PUBLIC: Manners = Manners {
    challenges: &["Bearer realm=\"http://HOST/token/\",service=\"HOST\",scope=\"aws\""],
    unauthorized: r#"{"errors":[{"code":"DENIED","message":"Not Authorized"}]}"#,
    tokens: Some(Tokens {
        path: "/token/",
        service: Some("HOST"),
        scopes: &["repository:NAME:pull", "aws"],
        answer: r#"{"token":"TOKEN"}"#,
        post: Some((404, "")),
    }),
    wrong_login: (
        400,
        r#"{"errors":[{"code":"DENIED","message":"Your Authorization Token is invalid."}]}"#,
    ),
    denied: Denied::ByRegistry(
        (
            404,
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'no-such' does not exist in the registry"}]}"#,
        ),
        "",
    ),
    expired: Expired::Said((
        400,
        r#"{"errors":[{"code":"DENIED","message":"Your Authorization Token has expired."}]}"#,
    )),
    blob_store: Some((400, "only one auth mechanism allowed")),
};

#[test]
fn ecr_public() {
    let mut case = usual(ECR_PUBLIC, "AWS", "Your Authorization Token is invalid");
    // Nothing is private there.
    case.manners.denied =
        Denied::ByTokens((403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#));
    case.missing = ("403 Forbidden: no", 3);
    try_all(&case);
}

/// ACR: azure.github.io/acr/AAD-OAuth.html and Token-BasicAuth.html (the user of zeros, refresh tokens, POST and GET of
/// oauth2/token), github.com/GoogleContainerTools/jib/issues/2784 (the challenge and its message),
/// github.com/Azure/acr/issues/466 (Basic beside it), issues/217 (what Azure's storage says to a login).
const ACR: Manners = Manners {
    challenges: &[
        "Basic realm=\"HOST\"",
        "Bearer realm=\"http://HOST/oauth2/token\",service=\"HOST\",scope=\"repository:NAME:pull\"",
    ],
    unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information.","detail":[{"Type":"repository","Name":"app","Action":"pull"}]}]}"#,
    tokens: Some(Tokens {
        path: "/oauth2/token",
        service: Some("HOST"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"access_token":"TOKEN"}"#,
        post: None,
    }),
    wrong_login: (
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information."}]}"#,
    ),
    denied: Denied::ByTokens((
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, visit https://aka.ms/acr/authorization for more information."}]}"#,
    )),
    expired: Expired::Challenge("invalid_token"),
    blob_store: Some((
        400,
        "Authentication information is not given in the correct format.",
    )),
};

const ACR_USER: &str = "00000000-0000-0000-0000-000000000000";

/// What `az acr login` leaves: the user of zeros without a password, and a refresh token.
fn identity(token: &str) -> Value {
    let mut entry = by_password(ACR_USER, "");
    entry["identitytoken"] = json!(token);
    entry
}

#[test]
fn acr_with_a_password() {
    let mut case = usual(ACR, "contoso", "visit https://aka.ms/acr");
    case.missing = ("visit https://aka.ms/acr", 3);
    try_all(&case);
}

#[test]
fn acr_with_an_identity_token() {
    let mut accepted = Accepted::new(ACR_USER, "none of it");
    accepted.refresh_token = Some("hunter2+/= &".to_owned());
    let mut case = Case {
        manners: ACR,
        accepted,
        right: identity("hunter2+/= &"),
        wrong: identity("hunter3"),
        refused: "visit https://aka.ms/acr",
        has_public: true,
        missing: ("visit https://aka.ms/acr", 3),
    };
    try_all(&case);
    // A server that knows no OAuth2 may take it as a password.
    for post in [(404, ""), (405, ""), (400, "{}"), (401, "{}")] {
        case.manners.tokens = ACR.tokens.map(|tokens| Tokens {
            post: Some(post),
            ..tokens
        });
        case.refused = match post.0 {
            404 | 405 => "visit https://aka.ms/acr",
            400 => "400 Bad Request",
            _ => "401 Unauthorized",
        };
        case.missing = (case.refused, 3);
        try_all(&case);
    }
}

/// Google's Artifact Registry: github.com/docker/setup-buildx-action/issues/79 (the challenge),
/// github.com/apple/container/issues/1026 (no service for some paths), github.com/GoogleCloudPlatform/aactl/issues/233 (without a
/// login), github.com/google-github-actions/auth/issues/50 (without the right), its page on authentication (the users
/// _json_key, whose password is a file, and oauth2accesstoken).
const GOOGLE: Manners = Manners {
    challenges: &[
        "Bearer realm=\"http://HOST/v2/token\",service=\"HOST\",scope=\"repository:NAME:pull\"",
    ],
    unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication failed"}]}"#,
    tokens: Some(Tokens {
        path: "/v2/token",
        service: Some("HOST"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN","expires_in":3600,"issued_at":"2026-11-27T00:00:00Z"}"#,
        post: Some((404, "")),
    }),
    wrong_login: (
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication failed"}]}"#,
    ),
    denied: Denied::ByTokens((
        403,
        r#"{"errors":[{"code":"DENIED","message":"Permission \"artifactregistry.repositories.downloadArtifacts\" denied on resource \"projects/p\" (or it may not exist)"}]}"#,
    )),
    expired: Expired::Challenge(""),
    blob_store: None,
};

#[test]
fn google() {
    let mut case = usual(GOOGLE, "oauth2accesstoken", "authentication failed");
    case.missing = ("(or it may not exist)", 3);
    try_all(&case);
    // A key file is a long password of several lines.
    let key = format!(
        "{{\n \"private_key\": \"{}hunter2\"\n}}\n",
        "\u{e9}".repeat(2000)
    );
    case.accepted = Accepted::new("_json_key", &key);
    case.right = by_password("_json_key", &key);
    case.wrong = by_password("_json_key", "{}");
    try_all(&case);
    // Without a service, none is asked for.
    case.manners.challenges = &["Bearer realm=\"http://HOST/v2/token\""];
    let tokens = GOOGLE.tokens.map(|tokens| Tokens {
        service: None,
        ..tokens
    });
    case.manners.tokens = tokens;
    try_all(&case);
}
