// SPDX-License-Identifier: Apache-2.0

//! The registries that people use: how each asks for a login, refuses one, and says that a token is too old, as its
//! documentation and its users' reports show it. A test for each, which names them. Those of clouds have a file of their own.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::host::{guest_pull, output, text};
use crate::image::{archive, noise};
use crate::played::{
    Accepted, Denied, Expired, Manners, NO_SUCH, PRIVATE, PUBLIC, Played, Tokens, basic,
};
use crate::stand_in::Asked;

pub const UNAUTHORIZED: &str =
    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;

/// Both names of a token, and its lifetime in seconds.
pub const TOKEN: &str = r#"{"token":"TOKEN","access_token":"TOKEN","expires_in":300}"#;

/// The layers of an image, each with its own file.
pub fn layers() -> Vec<Vec<u8>> {
    let layer = |seed: u64| archive(&[(format!("file-{seed}"), noise(seed + 1, 20_000))]);
    (0..3).map(layer).collect()
}

/// What is tried with a registry.
pub struct Case {
    pub manners: Manners,
    pub accepted: Accepted,
    /// An entry of an `auth.json` with the right login, and one with a wrong one.
    pub right: Value,
    pub wrong: Value,
    /// What is said to a wrong login.
    pub refused: &'static str,
    /// Whether images are for everybody where they are made so.
    pub has_public: bool,
    /// What is said if there is no such repository, and the exit status for it.
    pub missing: (&'static str, i32),
}

pub fn by_password(user: &str, password: &str) -> Value {
    let header = basic(user, password);
    json!({"auth": header.trim_start_matches("Basic ")})
}

/// A user with this password, and what else is usual.
pub fn usual(manners: Manners, user: &str, refused: &'static str) -> Case {
    Case {
        manners,
        accepted: Accepted::new(user, "hunter2+&"),
        right: by_password(user, "hunter2+&"),
        wrong: by_password(user, "hunter3"),
        refused,
        has_public: true,
        missing: ("it may have no such repository", 3),
    }
}

/// Writes an `auth.json` with this entry for the registry's repositories of one team.
pub fn auth_file(dir: &Path, played: &Played, entry: &Value) -> String {
    let path = dir.join("auth.json");
    let key = format!("{}/team", played.server.address);
    fs::write(&path, json!({"auths": {key: entry}}).to_string()).unwrap();
    text(&path).to_owned()
}

/// Runs a command for an image of the registry; gives what it prints, and its exit status.
pub fn ask(played: &Played, name: &str, args: &[&str]) -> (String, i32) {
    let image = format!("{}/{name}:1", played.server.address);
    let mut command = guest_pull(args);
    let (stdout, stderr, code) = output(command.args(["--plain-http", &image]));
    (format!("{stdout}{stderr}"), code.unwrap())
}

/// Whether a request to the token server has a login.
fn has_login(asked: &Asked) -> bool {
    asked.authorization.is_some() || asked.method == "POST"
}

/// Goes through what can happen with a registry.
pub fn try_all(case: &Case) {
    let dir = tempfile::tempdir().unwrap();
    let play = || Played::start(case.manners, case.accepted.clone(), &layers());
    let store = |name: &str| text(&dir.path().join(name)).to_owned();

    // The right login gets the image: it is shown to the registry and to its token server, and to nobody else.
    let played = play();
    let auth = auth_file(dir.path(), &played, &case.right);
    let args = ["pull", "--store", &store("a"), "--auth-file", &auth];
    let (said, code) = ask(&played, PRIVATE, &args);
    assert_eq!(code, 0, "{said}");
    let tokens = played.asked_for_tokens();
    assert!(tokens.iter().all(has_login), "{tokens:?}");
    // One token is enough.
    let successes = usize::from(case.manners.tokens.is_some());
    let posts = tokens.iter().filter(|asked| asked.method == "POST").count();
    let fallen_back = case
        .manners
        .tokens
        .is_some_and(|tokens| tokens.post.is_some());
    let refused_posts = if fallen_back { posts } else { 0 };
    assert_eq!(tokens.len() - refused_posts, successes, "{tokens:?}");
    if case.manners.blob_store.is_some() {
        // The configuration, and the layers.
        let asked = played.blob_store.asked();
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert!(asked.iter().all(|asked| asked.authorization.is_none()));
    }

    // A wrong one is an error that says which one, and what the registry says. Nothing is tried without it.
    let played = play();
    let auth = auth_file(dir.path(), &played, &case.wrong);
    let (said, code) = ask(&played, PRIVATE, &["inspect", "--auth-file", &auth]);
    assert_eq!(code, 3, "{said}");
    let address = &played.server.address;
    let entry = format!("entry {address}/team");
    for part in [&format!("{address} refuses"), &entry, case.refused] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("hunter"), "{said}");
    let tokens = played.asked_for_tokens();
    assert!(tokens.iter().all(has_login), "{tokens:?}");

    // Without one, what is for everybody comes, and nothing else.
    let played = play();
    let (said, code) = ask(&played, PRIVATE, &["inspect"]);
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains(address_of(&played)) && said.contains("anonymous"),
        "{said}"
    );
    if case.has_public {
        let (said, code) = ask(&played, PUBLIC, &["pull", "--store", &store("b")]);
        assert_eq!(code, 0, "{said}");
    }
    assert!(!played.asked_for_tokens().iter().any(has_login));

    // What isn't there.
    let auth = auth_file(dir.path(), &played, &case.right);
    let (said, code) = ask(&played, NO_SUCH, &["inspect", "--auth-file", &auth]);
    let (expected, status) = case.missing;
    assert_eq!(code, status, "{said}");
    assert!(
        said.contains(expected) && !said.contains("hunter"),
        "{said}"
    );

    // A token that is too old in the middle is replaced by a new one for the same login.
    if case.manners.tokens.is_some() {
        let played = play();
        played.expire_after(3);
        let auth = auth_file(dir.path(), &played, &case.right);
        let args = ["pull", "--store", &store("c"), "--auth-file", &auth];
        let (said, code) = ask(&played, PRIVATE, &args);
        assert_eq!(code, 0, "{said}");
        let tokens = played.asked_for_tokens();
        let is_answered = |asked: &&Asked| !fallen_back || asked.method != "POST";
        let answered = tokens.iter().filter(is_answered).count();
        assert!(answered >= 2, "{tokens:?}");
        assert!(tokens.iter().all(has_login), "{tokens:?}");
    }
}

fn address_of(played: &Played) -> &str {
    &played.server.address
}

/// Docker Hub: github.com/docker-archive/docker-registry/issues/1071 (the challenge; a token that opens nothing for a
/// repository that isn't there, and then insufficient_scope), github.com/GoogleContainerTools/jib/issues/691 (300 s),
/// github.com/devtron-labs/devtron/issues/3549 (a wrong login). Blobs are with a content delivery network.
const DOCKER_HUB: Manners = Manners {
    challenges: &[
        "Bearer realm=\"http://HOST/token\",service=\"registry.docker.io\",scope=\"repository:NAME:pull\"",
    ],
    unauthorized: UNAUTHORIZED,
    tokens: Some(Tokens {
        path: "/token",
        service: Some("registry.docker.io"),
        scopes: &["repository:NAME:pull"],
        answer: TOKEN,
        post: Some((405, "")),
    }),
    wrong_login: (401, r#"{"details":"incorrect username or password"}"#),
    denied: Denied::ByRegistry((401, UNAUTHORIZED), "insufficient_scope"),
    expired: Expired::Challenge("invalid_token"),
    blob_store: Some((400, "only one auth mechanism allowed")),
};

#[test]
fn docker_hub() {
    let mut case = usual(DOCKER_HUB, "robot", "incorrect username or password");
    case.missing = ("insufficient_scope; it may have no such repository", 3);
    try_all(&case);
}

/// Quay: its challenge as in github.com/prometheus-community and other clients' tables (realm quay.io/v2/auth), its
/// message in github.com/jgsqware/clairctl/issues/62; the documentation of its robot accounts has users with a plus.
const QUAY: Manners = Manners {
    challenges: &[
        "Bearer realm=\"http://HOST/v2/auth\",service=\"HOST\",scope=\"repository:NAME:pull\"",
    ],
    unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"access to the requested resource is not authorized"}]}"#,
    tokens: Some(Tokens {
        path: "/v2/auth",
        service: Some("HOST"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN"}"#,
        post: Some((405, "")),
    }),
    wrong_login: (
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"Could not find robot with specified username"}]}"#,
    ),
    denied: Denied::ByRegistry(
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"access to the requested resource is not authorized"}]}"#,
        ),
        "insufficient_scope",
    ),
    expired: Expired::Challenge("invalid_token"),
    blob_store: Some((400, "only one auth mechanism allowed")),
};

#[test]
fn quay() {
    let mut case = usual(QUAY, "team+robot", "Could not find robot");
    case.missing = ("access to the requested resource is not authorized", 3);
    try_all(&case);
}

/// GitHub: toddysm.com's "Authenticating with OCI Registries" on it (no lifetime is named),
/// github.com/apple/container/issues/183 (403 to a wrong login), github.com/charmbracelet/catwalk/pull/518 (DENIED),
/// github.com/openai/tunnel-client/issues/75 (the token server refuses what is private).
const GITHUB: Manners = Manners {
    challenges: &[
        "Bearer realm=\"http://HOST/token\",service=\"HOST\",scope=\"repository:NAME:pull\"",
    ],
    unauthorized: UNAUTHORIZED,
    tokens: Some(Tokens {
        path: "/token",
        service: Some("HOST"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN"}"#,
        post: Some((404, "404 page not found")),
    }),
    wrong_login: (403, r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#),
    denied: Denied::ByTokens((
        403,
        r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
    )),
    expired: Expired::Challenge(""),
    blob_store: Some((400, "InvalidAuthenticationInfo")),
};

#[test]
fn github() {
    let mut case = usual(GITHUB, "octocat", "403 Forbidden: denied");
    case.missing = ("requested access to the resource is denied", 3);
    try_all(&case);
}

/// GitLab: its page "Authenticate with the container registry" (tokens last 5 minutes, the token server is GitLab itself,
/// "HTTP Basic: Access denied"), github.com/n0madic/gitlab-registry-images-cleaner/issues/13 (jwt/auth), and its users'
/// "denied: access forbidden".
const GITLAB: Manners = Manners {
    challenges: &[
        "Bearer realm=\"http://HOST/jwt/auth\",service=\"container_registry\",scope=\"repository:NAME:pull\"",
    ],
    unauthorized: UNAUTHORIZED,
    tokens: Some(Tokens {
        path: "/jwt/auth",
        service: Some("container_registry"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN"}"#,
        post: Some((404, "")),
    }),
    wrong_login: (
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"HTTP Basic: Access denied. The provided password or token is incorrect"}]}"#,
    ),
    denied: Denied::ByTokens((
        403,
        r#"{"errors":[{"code":"DENIED","message":"access forbidden"}]}"#,
    )),
    expired: Expired::Challenge("invalid_token"),
    blob_store: Some((400, "only one auth mechanism allowed")),
};

#[test]
fn gitlab() {
    let mut case = usual(GITLAB, "gitlab+deploy-token-1", "HTTP Basic: Access denied");
    case.missing = ("access forbidden", 3);
    try_all(&case);
}

/// Harbor: lurenjia528.github.io's trace of 2020 (the challenge, without a scope for some paths),
/// github.com/goharbor/harbor/issues/16385 (the message), and issues/15110 (a login that is too old counts as nobody, so that
/// the refusal comes from the registry). Users of robots have a dollar sign.
const HARBOR: Manners = Manners {
    challenges: &["Bearer realm=\"http://HOST/service/token\",service=\"harbor-registry\""],
    unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized: unauthorized"}]}"#,
    tokens: Some(Tokens {
        path: "/service/token",
        service: Some("harbor-registry"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN","access_token":"","expires_in":1800,"issued_at":"2026-11-27T00:00:00Z"}"#,
        post: Some((404, "")),
    }),
    wrong_login: (
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized: invalid credential"}]}"#,
    ),
    denied: Denied::ByRegistry(
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized to access repository: NAME, action: pull"}]}"#,
        ),
        "",
    ),
    expired: Expired::Challenge(""),
    blob_store: None,
};

#[test]
fn harbor() {
    let mut case = usual(HARBOR, "robot$team+pull", "invalid credential");
    case.missing = ("unauthorized to access repository", 3);
    try_all(&case);
}

/// Artifactory: github.com/containerd/containerd/issues/3556 (no scope in the challenge), github.com/swarmpit/swarmpit/issues/266
/// (the token's path), containerd's note that it answers 401 to OAuth2. What isn't there is 404.
const ARTIFACTORY: Manners = Manners {
    challenges: &[
        "Bearer realm=\"http://HOST/artifactory/api/docker/docker/v2/token\",service=\"HOST\"",
    ],
    unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#,
    tokens: Some(Tokens {
        path: "/artifactory/api/docker/docker/v2/token",
        service: Some("HOST"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN","expires_in":3600}"#,
        post: Some((401, "")),
    }),
    wrong_login: (
        401,
        r#"{"errors":[{"status":401,"message":"Wrong username was used"}]}"#,
    ),
    denied: Denied::ByRegistry(
        (
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"The named manifest is not known to the registry."}]}"#,
        ),
        "",
    ),
    expired: Expired::Challenge(""),
    blob_store: None,
};

#[test]
fn artifactory() {
    let mut case = usual(ARTIFACTORY, "robot", "Wrong username was used");
    case.missing = ("The named manifest is not known", 4);
    // What nobody may read is told apart from what isn't there.
    case.manners.denied = Denied::ByTokens((
        403,
        r#"{"errors":[{"code":"DENIED","message":"The client does not have permission for it"}]}"#,
    ));
    case.missing = ("does not have permission", 3);
    try_all(&case);
}

/// Nexus: github.com/sonatype/nexus-public/issues/921 (Basic, in capitals; a bearer realm if that is switched on), issues/410
/// (anonymous pulls need it). With Basic everything needs a login.
const NEXUS: Manners = Manners {
    challenges: &["BASIC realm=\"Sonatype Nexus Repository Manager\""],
    unauthorized: r#"{"errors":[{"code":"UNAUTHORIZED","message":"access to the requested resource is not authorized","detail":null}]}"#,
    tokens: None,
    wrong_login: (
        401,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"access to the requested resource is not authorized","detail":null}]}"#,
    ),
    denied: Denied::ByRegistry(
        (
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"1"}}]}"#,
        ),
        "",
    ),
    expired: Expired::Challenge(""),
    blob_store: None,
};

#[test]
fn nexus() {
    let mut case = usual(
        NEXUS,
        "robot",
        "access to the requested resource is not authorized",
    );
    case.has_public = false;
    case.missing = ("manifest unknown", 4);
    try_all(&case);
    // With the realm for tokens. It takes them from everybody.
    case.manners.challenges =
        &["Bearer realm=\"http://HOST/v2/token\",service=\"http://HOST/v2/token\""];
    case.manners.tokens = Some(Tokens {
        path: "/v2/token",
        service: Some("http://HOST/v2/token"),
        scopes: &["repository:NAME:pull"],
        answer: r#"{"token":"TOKEN"}"#,
        post: Some((405, "")),
    });
    case.manners.denied = Denied::ByRegistry((401, UNAUTHORIZED), "");
    case.has_public = true;
    case.missing = ("it may have no such repository", 3);
    try_all(&case);
}
