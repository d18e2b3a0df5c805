// SPDX-License-Identifier: Apache-2.0

//! Requests to one registry, with its login.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use thiserror::Error;
use ureq::http::header::{ACCEPT, AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::registry::challenge::{self, Challenge};
use crate::registry::manifest::{ACCEPTED, MAX_BYTES};

/// How long a registry may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a registry may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How many redirects are followed: a blob is one redirect away from its store.
const MAX_REDIRECTS: usize = 5;

/// The largest answer of a token server.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// How much of a registry's own message is read.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// How much of it is shown.
const SHOWN_MESSAGE: usize = 300;

/// A user name and a password.
#[derive(Clone)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:[redacted]", self.user)
    }
}

/// How a registry is asked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The certificates of authorities that count.
    pub roots: Vec<Certificate<'static>>,
    /// Without TLS; only where that is configured.
    pub plain_http: bool,
}

/// Why a registry gave no answer that can be used.
#[derive(Debug, Error)]
pub enum Error {
    /// It can't be reached.
    #[error("{host} can't be reached: {what}")]
    Unreachable {
        /// The server.
        host: String,
        /// Why.
        what: String,
    },
    /// It wants another login, or any.
    #[error("{host} refuses {login}: {status}{message}")]
    Refused {
        /// The server.
        host: String,
        /// Who asked.
        login: String,
        /// Its status.
        status: StatusCode,
        /// Its message, with a colon before it.
        message: String,
    },
    /// It has no such thing.
    #[error("{host} has no {what}{message}")]
    Missing {
        /// The server.
        host: String,
        /// What was asked for.
        what: String,
        /// Its message, with a colon before it.
        message: String,
    },
    /// It answers something else.
    #[error("{host} answers {what}")]
    Answer {
        /// The server.
        host: String,
        /// What.
        what: String,
    },
}

/// A client of one repository.
pub struct Client {
    agent: Agent,
    plain_http: bool,
    /// The registry, with its port.
    host: String,
    repository: String,
    login: Option<Login>,
    /// The header of the last request that was let in.
    authorization: Mutex<Option<Arc<Zeroizing<String>>>>,
}

/// A blob on its way.
pub struct Blob {
    /// Its bytes.
    pub reader: Box<dyn Read + Send>,
    /// Its length, if the registry says so.
    pub length: Option<u64>,
}

impl Client {
    /// A client of a repository of a registry.
    pub fn new(registry: &str, repository: &str, login: Option<Login>, options: &Options) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(options.roots.clone())))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(!options.plain_http)
            .http_status_as_error(false)
            // Redirects are followed here, without the login.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .proxy(None)
            .user_agent(concat!("guest-pull/", env!("CARGO_PKG_VERSION")))
            .build();
        // Docker Hub's registry has another name than its images.
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        Self {
            agent: config.new_agent(),
            plain_http: options.plain_http,
            host: host.to_owned(),
            repository: repository.to_owned(),
            login,
            authorization: Mutex::default(),
        }
    }

    /// The manifest or index of this tag or digest.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn manifest(&self, reference: &str) -> Result<Vec<u8>, Error> {
        let what = format!("manifest {}:{reference}", self.repository);
        let response = self.get(&format!("manifests/{reference}"), &what, Some(ACCEPTED))?;
        self.small(response, &what)
    }

    /// A blob that is read whole: an image's configuration.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn small_blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let what = format!("blob {digest}");
        let response = self.get(&format!("blobs/{digest}"), &what, None)?;
        self.small(response, &what)
    }

    /// A blob, to be read as it comes.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it.
    pub fn blob(&self, digest: &Digest) -> Result<Blob, Error> {
        let response = self.get(&format!("blobs/{digest}"), &format!("blob {digest}"), None)?;
        let body = response.into_body();
        Ok(Blob {
            length: body.content_length(),
            reader: Box::new(body.into_reader()),
        })
    }

    fn small(&self, response: Response<Body>, what: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let reader = response.into_body().into_reader();
        let mut limited = reader.take(MAX_BYTES as u64 + 1);
        if let Err(error) = limited.read_to_end(&mut bytes) {
            return Err(Error::Unreachable {
                host: self.host.clone(),
                what: format!("while it sent the {what}: {error}"),
            });
        }
        match bytes.len() > MAX_BYTES {
            true => Err(Error::Answer {
                host: self.host.clone(),
                what: format!("with a {what} of more than {MAX_BYTES} bytes"),
            }),
            false => Ok(bytes),
        }
    }

    /// Asks for something of the repository, with the login if the registry wants it, and follows redirects.
    fn get(&self, path: &str, what: &str, accept: Option<&str>) -> Result<Response<Body>, Error> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{path}", self.host, self.repository);
        let before = lock(&self.authorization).clone();
        let mut response = self.send(&url, before.as_deref(), accept)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
            let headers = headers.filter_map(|value| value.to_str().ok());
            if let Some(challenge) = challenge::choose(headers) {
                if let Some(header) = self.authorize(&challenge)? {
                    let header = Arc::new(header);
                    response = self.send(&url, Some(&header), accept)?;
                    if response.status() != StatusCode::UNAUTHORIZED {
                        *lock(&self.authorization) = Some(header);
                    }
                }
            }
        }
        let mut url = url;
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            let location = response.headers().get(LOCATION);
            let location = location
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let next = resolve(&url, location).ok_or_else(|| Error::Answer {
                host: host_of(&url).to_owned(),
                what: "with a redirect to nowhere, or away from https".to_owned(),
            })?;
            // What holds the blob must not learn the login.
            response = self.send(&next, None, accept)?;
            url = next;
        }
        let host = host_of(&url).to_owned();
        match response.status() {
            StatusCode::OK => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(Error::Refused {
                host,
                login: match &self.login {
                    Some(login) => format!("the login of {}", login.user.escape_debug()),
                    None => "an anonymous pull".to_owned(),
                },
                status,
                message: message(response),
            }),
            StatusCode::NOT_FOUND => Err(Error::Missing {
                host,
                what: what.to_owned(),
                message: message(response),
            }),
            status => Err(Error::Answer {
                host,
                what: format!(
                    "{status} to the request for the {what}{}",
                    message(response)
                ),
            }),
        }
    }

    fn send(
        &self,
        url: &str,
        authorization: Option<&Zeroizing<String>>,
        accept: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let mut request = self.agent.get(url);
        if let Some(header) = authorization {
            request = request.header(AUTHORIZATION, header.as_str());
        }
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        request.call().map_err(|error| Error::Unreachable {
            host: host_of(url).to_owned(),
            what: error.to_string(),
        })
    }

    /// The header that a challenge asks for; none if there is no login for it.
    fn authorize(&self, challenge: &Challenge) -> Result<Option<Zeroizing<String>>, Error> {
        let basic = self.login.as_ref().map(|login| {
            let text = Zeroizing::new([&login.user, ":", &login.password].concat());
            let encoded = Zeroizing::new(STANDARD.encode(text.as_bytes()));
            Zeroizing::new(["Basic ", &encoded].concat())
        });
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            return Ok(basic);
        };
        let scheme_fits =
            realm.starts_with("https://") || self.plain_http && realm.starts_with("http://");
        if !scheme_fits {
            return Err(Error::Answer {
                host: self.host.clone(),
                what: "with a token server that it names without https".to_owned(),
            });
        }
        let mut url = realm.clone();
        let scope = scope
            .clone()
            .unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let query = service.iter().map(|service| ("service", service));
        for (name, value) in query.chain([("scope", &scope)]) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(name);
            url.push('=');
            url.push_str(&percent_encoded(value));
        }
        let response = self.send(&url, basic.as_ref(), None)?;
        let host = host_of(&url).to_owned();
        let refuses = [
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
        ];
        if response.status() != StatusCode::OK && !refuses.contains(&response.status()) {
            let status = response.status();
            let what = format!("{status} to the request for a token{}", message(response));
            return Err(Error::Answer { host, what });
        }
        if response.status() != StatusCode::OK {
            return Err(Error::Refused {
                host,
                login: match &self.login {
                    Some(login) => format!("the login of {}", login.user.escape_debug()),
                    None => "an anonymous request for a token".to_owned(),
                },
                status: response.status(),
                message: message(response),
            });
        }
        let mut text = Zeroizing::new(Vec::new());
        let mut reader = response.into_body().into_reader().take(MAX_TOKEN_BYTES);
        let read = reader.read_to_end(&mut text);
        let answer = read
            .ok()
            .and_then(|_| serde_json::from_slice::<Value>(&text).ok());
        let token = answer.as_ref().and_then(|answer| {
            let token = |name: &str| answer[name].as_str().filter(|token| !token.is_empty());
            token("token").or_else(|| token("access_token"))
        });
        match token {
            Some(token) => Ok(Some(Zeroizing::new(["Bearer ", token].concat()))),
            None => Err(Error::Answer {
                host,
                what: "with no token".to_owned(),
            }),
        }
    }
}

/// What a registry says about a failure: the messages of its JSON, else nothing.
fn message(response: Response<Body>) -> String {
    let mut text = Vec::new();
    let mut reader = response.into_body().into_reader().take(MAX_MESSAGE_BYTES);
    let read: io::Result<usize> = reader.read_to_end(&mut text);
    let value = read
        .ok()
        .and_then(|_| serde_json::from_slice::<Value>(&text).ok());
    let Some(value) = value else {
        return String::new();
    };
    let errors = value["errors"].as_array().into_iter().flatten();
    let messages = errors.filter_map(|error| error["message"].as_str());
    let alone = ["message", "details"].map(|name| value[name].as_str());
    let all: Vec<_> = messages.chain(alone.into_iter().flatten()).collect();
    let shown: String = all.join("; ").chars().take(SHOWN_MESSAGE).collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(": {}", shown.escape_debug()),
    }
}

/// The host of a URL, with its port.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

/// Where a redirect leads; none if it is no place, or not as safe as the URL that it comes from.
fn resolve(url: &str, location: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let to = if location.contains("://") {
        location.to_owned()
    } else if let Some(other) = location.strip_prefix("//") {
        format!("{scheme}://{other}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", host_of(url))
    } else {
        let path = rest.split(['?', '#']).next()?;
        let directory = path
            .rsplit_once('/')
            .map_or(path, |(directory, _)| directory);
        format!("{scheme}://{directory}/{location}")
    };
    let is_safe = to.starts_with("https://") || scheme == "http" && to.starts_with("http://");
    (is_safe && !location.is_empty()).then_some(to)
}

/// A value in the query of a URL: RFC 3986.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// Locks the mutex. Nothing panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A redirect may lead anywhere but from https to http.
    #[test]
    fn redirects_are_resolved() {
        let from = "https://r.example:5000/v2/a/blobs/x?y=/z";
        for (location, expected) in [
            ("https://s.example/b?c", Some("https://s.example/b?c")),
            ("http://s.example/b", None),
            ("//s.example/b", Some("https://s.example/b")),
            ("/b/c", Some("https://r.example:5000/b/c")),
            ("b", Some("https://r.example:5000/v2/a/blobs/b")),
            ("", None),
            ("ftp://s.example/b", None),
        ] {
            assert_eq!(resolve(from, location).as_deref(), expected, "{location}");
        }
        assert!(resolve("http://r.example/a", "http://s.example/b").is_some());
    }
}
