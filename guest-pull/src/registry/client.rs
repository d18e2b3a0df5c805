// SPDX-License-Identifier: Apache-2.0

//! Requests to one registry, with its login.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ureq::Body;
use ureq::http::header::{LOCATION, WWW_AUTHENTICATE};
use ureq::http::{Response, StatusCode};
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::registry::challenge;
use crate::registry::error::{Error, message};
use crate::registry::manifest::{ACCEPTED, MAX_BYTES};
use crate::registry::token::{Asker, Login};
use crate::registry::transport::{Options, Transport};
use crate::registry::url::{host_of, resolve};

/// How many redirects are followed: a blob is one redirect away from its store.
const MAX_REDIRECTS: usize = 5;

/// A client of one repository.
pub struct Client {
    transport: Transport,
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
        // Docker Hub's registry has another name than its images.
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        Self {
            transport: Transport::new(options),
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

    /// The index of what refers to a digest, by the registry's API for it, which many don't have.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn referrers(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let what = format!("list of what refers to {digest}");
        let response = self.get(&format!("referrers/{digest}"), &what, Some(ACCEPTED))?;
        self.small(response, &what)
    }

    /// What is at another URL, small and whole: it is asked for without the login.
    ///
    /// # Errors
    ///
    /// If there is nothing, or it is too large.
    pub fn elsewhere(&self, url: &str) -> Result<Vec<u8>, Error> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.transport.send(&url, None, None)?;
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let host = host_of(&url).to_owned();
            match (response.status(), location.and_then(|to| resolve(&url, to))) {
                (StatusCode::OK, _) => return self.small(response, &url),
                (status, Some(next)) if status.is_redirection() => url = next,
                (StatusCode::NOT_FOUND, _) => {
                    return Err(Error::Missing {
                        host,
                        what: url,
                        message: String::new(),
                    });
                }
                (status, _) => {
                    let what = format!("{status} to the request for {url}");
                    return Err(Error::Answer { host, what });
                }
            }
        }
        Err(Error::Answer {
            host: host_of(&url).to_owned(),
            what: format!("with more than {MAX_REDIRECTS} redirects"),
        })
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
        let scheme = if self.transport.plain_http {
            "http"
        } else {
            "https"
        };
        let url = format!("{scheme}://{}/v2/{}/{path}", self.host, self.repository);
        let before = lock(&self.authorization).clone();
        let mut response = self.transport.send(&url, before.as_deref(), accept)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
            let headers = headers.filter_map(|value| value.to_str().ok());
            if let Some(challenge) = challenge::choose(headers) {
                if let Some(header) = self.asker().header(&self.transport, &challenge)? {
                    let header = Arc::new(header);
                    response = self.transport.send(&url, Some(&header), accept)?;
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
            response = self.transport.send(&next, None, accept)?;
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

    fn asker(&self) -> Asker<'_> {
        Asker {
            host: &self.host,
            repository: &self.repository,
            login: self.login.as_ref(),
        }
    }
}

/// Locks the mutex. Nothing panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
