// SPDX-License-Identifier: Apache-2.0

//! The header with which a registry is asked: a password, or a token that another server gives for a login.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::header::LOCATION;
use ureq::http::{Response, StatusCode};
use zeroize::Zeroizing;

use crate::document::Part;
use crate::registry::body::{SMALL, read_small};
use crate::registry::challenge::Challenge;
use crate::registry::error::{Error, message_without};
use crate::registry::login::{Login, Secret};
use crate::registry::transport::Transport;
use crate::registry::url::{has_tls, host_of, is_redirect, push_encoded, resolve, same_origin};

/// The largest answer of a token server.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// How many redirects of a token server are followed, such as one to a path with a slash at its end.
const MAX_REDIRECTS: usize = 3;

/// How this client is called in a request of OAuth2, which wants a name.
const CLIENT_ID: &str = "guest-pull";

/// What a registry lets in.
#[derive(Clone)]
pub(super) struct Granted {
    /// The header to send.
    pub header: Arc<Zeroizing<String>>,
    /// Until when it is good, if the server says so.
    until: Option<Instant>,
    /// Whether a server gave it, and not the login itself.
    pub is_token: bool,
}

impl Granted {
    /// A header that is good until the registry says otherwise.
    pub(super) fn of_login(header: Zeroizing<String>) -> Self {
        Self {
            header: Arc::new(header),
            until: None,
            is_token: false,
        }
    }

    /// Whether it can still be good.
    pub(super) fn is_current(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// Who asks for what.
pub(super) struct Asker<'a> {
    pub transport: &'a Transport,
    /// The registry, with its port.
    pub host: &'a str,
    pub repository: &'a str,
    pub login: Option<&'a Login>,
}

/// Where a token is to be had, and what for.
struct Request<'c> {
    /// The server's URL.
    realm: String,
    service: Option<&'c str>,
    scopes: Vec<&'c str>,
}

impl Asker<'_> {
    /// What a challenge asks for; none if there is no login for it. `url` is what was asked for.
    pub(super) fn grant(&self, url: &str, challenge: &Challenge) -> Result<Option<Granted>, Error> {
        // It is all that there is, and was sent.
        if self.login.is_some_and(|login| login.own_token().is_some()) {
            return Ok(None);
        }
        let (realm, service, scopes) = match challenge {
            Challenge::Basic => {
                let header = self.login.and_then(Login::basic);
                return Ok(header.map(Granted::of_login));
            }
            Challenge::Other(schemes) => {
                let schemes = schemes.escape_debug();
                let what = format!(
                    "that it wants a login by {schemes}, and only Basic and Bearer are supported"
                );
                return Err(self.answers(self.host, what));
            }
            Challenge::Bearer {
                realm,
                service,
                scopes,
                ..
            } => (realm, service, scopes),
        };
        let realm = match realm.starts_with('/') {
            true => resolve(url, realm).unwrap_or_default(),
            false => realm.clone(),
        };
        let is_plain = |url: &str| {
            let start = url.get(.."http://".len());
            start.is_some_and(|start| start.eq_ignore_ascii_case("http://"))
        };
        let is_safe = has_tls(&realm) || self.transport.plain_http && is_plain(&realm);
        if !is_safe {
            let what = "with a token server that it names without https".to_owned();
            return Err(self.answers(self.host, what));
        }
        // Some name a scope of their own, or none (Amazon's public registry has "aws", Artifactory nothing).
        let own = format!("repository:{}:pull", self.repository);
        let mut scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        if !scopes.iter().any(|scope| scope.starts_with(&own)) {
            scopes.insert(0, &own);
        }
        let service = service.as_deref();
        let request = Request {
            realm,
            service,
            scopes,
        };
        let response = self.ask(&request).map_err(|error| self.named(error))?;
        self.granted(&request.realm, response).map(Some)
    }

    /// Asks for a token, in the way that the login needs.
    fn ask(&self, request: &Request<'_>) -> Result<Response<Body>, Error> {
        let Some(Secret::IdentityToken(token)) = self.login.map(|login| &login.secret) else {
            return self.get(request);
        };
        let response = self
            .transport
            .post_form(&request.realm, &form(request, token))?;
        // Servers that don't know OAuth2 answer so, as the specification and containerd have it; they may
        // take the token as a password.
        let unknown = [
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
        ];
        if !unknown.contains(&response.status()) {
            return Ok(response);
        }
        let second = self.get(request)?;
        // Of two refusals, the one of the way that was meant says more.
        let refused = [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED];
        match second.status() != StatusCode::OK && refused.contains(&response.status()) {
            true => Ok(response),
            false => Ok(second),
        }
    }

    /// Asks for a token by user and password, or anonymously.
    fn get(&self, request: &Request<'_>) -> Result<Response<Body>, Error> {
        let mut url = request.realm.clone();
        let service = request.service.iter().map(|service| ("service", service));
        let scopes = request.scopes.iter().map(|scope| ("scope", scope));
        for (name, value) in service.chain(scopes) {
            url.push(if url.contains('?') { '&' } else { '?' });
            push_pair(&mut url, name, value);
        }
        let basic = self.login.and_then(Login::basic);
        let mut response = self.transport.send(&url, basic.as_ref(), &[])?;
        for _ in 0..MAX_REDIRECTS {
            if !is_redirect(response.status()) {
                break;
            }
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let next = resolve(&url, location.unwrap_or_default());
            if next.is_none() {
                let what =
                    "to the request for a token with a redirect to nowhere, or away from https";
                return Err(self.answers(host_of(&url), what.to_owned()));
            }
            // Another server must not learn the login; and without it, the token would be an anonymous one.
            let next = next.filter(|next| basic.is_none() || same_origin(&url, next));
            let Some(next) = next else {
                let what = "to the request for a token with a redirect to another server";
                return Err(self.answers(host_of(&url), what.to_owned()));
            };
            url = next;
            response = self.transport.send(&url, basic.as_ref(), &[])?;
        }
        Ok(response)
    }

    /// Takes the token out of the server's answer.
    fn granted(&self, realm: &str, response: Response<Body>) -> Result<Granted, Error> {
        let host = host_of(realm);
        let status = response.status();
        if status != StatusCode::OK {
            let hide = |text| self.hide(text);
            let refuses = [
                StatusCode::BAD_REQUEST,
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
            ];
            if !refuses.contains(&status) {
                return Err(Error::of_status(
                    self.server(host),
                    "a token",
                    response,
                    &hide,
                ));
            }
            return Err(Error::Refused {
                host: self.server(host),
                login: match self.login {
                    Some(login) => login.shown(),
                    None => "an anonymous request for a token".to_owned(),
                },
                status,
                message: message_without(response, &hide),
            });
        }
        let mut text = Zeroizing::new(Vec::new());
        let body = response.into_body();
        if let Err(error) = read_small(body, MAX_TOKEN_BYTES + 1, SMALL, &mut text) {
            let host = self.server(host);
            let what = format!("while it sent a token: {error}");
            return Err(Error::Unreachable { host, what });
        }
        if text.len() as u64 > MAX_TOKEN_BYTES {
            let what = format!("with more than {MAX_TOKEN_BYTES} bytes where a token should be");
            return Err(self.answers(host, what));
        }
        token_of(&text).ok_or_else(|| self.answers(host, "with no token".to_owned()))
    }

    /// What a server says, without the login and those of proxies.
    pub(super) fn hide(&self, text: String) -> String {
        let text = self.transport.hide(text);
        match self.login {
            Some(login) => login.hide(text),
            None => text,
        }
    }

    /// How messages name a server that is asked for the registry's sake.
    fn server(&self, host: &str) -> String {
        match host == self.host {
            true => host.to_owned(),
            false => format!("{host}, the token server of {},", self.host),
        }
    }

    /// A failure to reach a server for the registry's sake: so that it names both.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Unreachable { host, what } => Error::Unreachable {
                host: self.server(&host),
                what,
            },
            Error::Incompatible { host, what } => Error::Incompatible {
                host: self.server(&host),
                what,
            },
            other => other,
        }
    }

    fn answers(&self, host: &str, what: String) -> Error {
        let host = self.server(host);
        Error::Answer { host, what }
    }
}

/// The token of an answer: `token` and `access_token` mean the same.
fn token_of(answer: &[u8]) -> Option<Granted> {
    let answer = Part::document(answer).ok()?;
    let names = ["token", "access_token", "expires_in"];
    let [token, access_token, lifetime] = answer.pick(names).ok()?;
    let seconds = match lifetime.text().ok().flatten() {
        Some(text) => text.parse().ok(),
        None => lifetime.number(),
    };
    let text = |part: Part<'_>| {
        let text = part.text().ok().flatten()?;
        Some(Zeroizing::new(text.into_owned()))
    };
    let tokens = [token, access_token].map(text);
    let is_token = |token: &Zeroizing<String>| {
        // What no header can have would be an error of the client.
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let token = tokens.into_iter().flatten().find(is_token)?;
    let lifetime = seconds.filter(|seconds| *seconds > 0);
    Some(Granted {
        header: Arc::new(Zeroizing::new(["Bearer ", &token].concat())),
        until: lifetime
            .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))),
        is_token: true,
    })
}

/// The form of OAuth2 by which a refresh token gets an access token.
fn form(request: &Request<'_>, token: &str) -> Zeroizing<String> {
    let scope = request.scopes.join(" ");
    let service = request.service.map(|service| ("service", service));
    let pairs = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("scope", &*scope),
        ("refresh_token", token),
    ];
    let pairs = || pairs.into_iter().chain(service);
    // Room for all of it, since a text that grows leaves copies behind.
    let most = |(name, value): (&str, &str)| name.len() + 3 * value.len() + 2;
    let mut form = Zeroizing::new(String::with_capacity(pairs().map(most).sum()));
    for (name, value) in pairs() {
        if !form.is_empty() {
            form.push('&');
        }
        push_pair(&mut form, name, value);
    }
    form
}

fn push_pair(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push('=');
    push_encoded(text, value);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    /// The answers of token servers differ in what they call the token, and how long it lasts.
    #[test]
    fn tokens_are_found() {
        for (answer, expected) in [
            (json!({"token": "a"}), Some("Bearer a")),
            (
                json!({"access_token": "a", "refresh_token": "r"}),
                Some("Bearer a"),
            ),
            (json!({"token": "", "access_token": "a"}), Some("Bearer a")),
            (json!({"token": "a", "access_token": "b"}), Some("Bearer a")),
            (json!({"token": ""}), None),
            (json!({"token": "a\nb"}), None),
            (json!({"token": 1}), None),
            (json!(["token"]), None),
        ] {
            let shown = answer.to_string();
            let granted = token_of(shown.as_bytes());
            assert_eq!(
                granted.map(|granted| granted.header.to_string()).as_deref(),
                expected,
                "{shown}"
            );
        }
        for (lifetime, is_known) in [
            (json!(300), true),
            (json!("300"), true),
            (json!(0), false),
            (json!(-1), false),
            (json!(u64::MAX), false),
            (json!(null), false),
        ] {
            let answer = json!({"token": "a", "expires_in": lifetime});
            let granted = token_of(answer.to_string().as_bytes()).unwrap();
            assert_eq!(granted.until.is_some(), is_known, "{lifetime}");
            assert!(granted.is_current());
            let ended = Granted {
                until: Some(Instant::now()),
                ..granted
            };
            assert!(!ended.is_current());
        }
    }

    /// Nothing of a token is taken for a sign of the form, and nothing is left behind by one that grows.
    #[test]
    fn forms_are_encoded() {
        let request = Request {
            realm: "https://t.example".to_owned(),
            service: Some("r.example"),
            scopes: vec!["repository:a:pull", "repository:b:pull"],
        };
        let form = form(&request, "a+b&c");
        assert_eq!(
            *form,
            "grant_type=refresh_token&client_id=guest-pull&scope=repository:a:pull%20repository:b:pull\
             &refresh_token=a%2Bb%26c&service=r.example"
        );
    }
}
