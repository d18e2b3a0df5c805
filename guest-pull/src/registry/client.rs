// SPDX-License-Identifier: Apache-2.0

//! Requests to one registry, with its login.

use std::time::Duration;

use ureq::Body;
use ureq::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use ureq::http::{Response, StatusCode};

use crate::digest::Digest;
use crate::registry::access::Access;
use crate::registry::body::{SMALL, read_small};
use crate::registry::connection::{answered_within, within};
use crate::registry::error::{Error, message_without};
use crate::registry::login::Login;
use crate::registry::manifest::{ACCEPTED, MAX_BYTES};
use crate::registry::retry::{Patience, wait};
use crate::registry::transport::{Options, Transport};
use crate::registry::url::{host_of, is_redirect, resolve, same_origin, server};

/// How many redirects are followed: a blob is one redirect away from its store.
const MAX_REDIRECTS: usize = 5;

/// A client of one repository.
pub struct Client {
    transport: Transport,
    access: Access,
    /// Whether what fails is tried again.
    is_patient: bool,
}

impl Client {
    /// A client of a repository of a registry.
    pub fn new(registry: &str, repository: &str, login: Option<Login>, options: &Options) -> Self {
        Self {
            transport: Transport::new(options),
            access: Access::new(server(registry).to_owned(), repository.to_owned(), login),
            is_patient: true,
        }
    }

    /// Without trying again: for who only wants to know whether the registry answers.
    #[must_use]
    pub fn once(self) -> Self {
        let is_patient = false;
        Self { is_patient, ..self }
    }

    /// With trying again, as a new one is.
    #[must_use]
    pub fn patient(self) -> Self {
        let is_patient = true;
        Self { is_patient, ..self }
    }

    /// The registry, with its port.
    pub(super) fn host(&self) -> &str {
        &self.access.host
    }

    pub(super) fn patience(&self) -> Patience {
        match self.is_patient {
            true => Patience::new(),
            false => Patience::none(),
        }
    }

    /// The client asks here for the login of today if the registry refuses the one that it has.
    #[must_use]
    pub fn renewing(
        mut self,
        renew: impl Fn() -> Result<Option<Login>, String> + Send + Sync + 'static,
    ) -> Self {
        self.access.renew = Some(Box::new(renew));
        self
    }

    /// The manifest or index of this tag or digest.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn manifest(&self, reference: &str) -> Result<Vec<u8>, Error> {
        self.document(reference).map(|(bytes, _)| bytes)
    }

    /// The manifest or index of this tag or digest, and the media type that the registry says it has.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn document(&self, reference: &str) -> Result<(Vec<u8>, Option<String>), Error> {
        let what = format!("manifest {}:{reference}", self.access.repository);
        self.small(&format!("manifests/{reference}"), &what, Some(ACCEPTED))
    }

    /// A blob that is read whole: an image's configuration.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn small_blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let what = format!("blob {digest}");
        let answer = self.small(&format!("blobs/{digest}"), &what, None)?;
        Ok(answer.0)
    }

    /// The index of what refers to a digest, by the registry's API for it, which many don't have.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or it is too large.
    pub fn referrers(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let what = format!("list of what refers to {digest}");
        let answer = self.small(&format!("referrers/{digest}"), &what, Some(ACCEPTED))?;
        Ok(answer.0)
    }

    /// What is at a URL of anybody's, small and whole: it is asked for without the login.
    ///
    /// # Errors
    ///
    /// If there is nothing, or it is too large.
    pub fn public(&self, url: &str) -> Result<Vec<u8>, Error> {
        self.patiently(url, &|| self.ask_public(url))
    }

    fn ask_public(&self, url: &str) -> Result<Vec<u8>, Error> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.transport.send(&url, None, &[])?;
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let host = host_of(&url).to_owned();
            match (response.status(), location.and_then(|to| resolve(&url, to))) {
                (StatusCode::OK, _) => return Ok(read(response, &host, &url)?.0),
                (status, Some(next)) if is_redirect(status) => url = next,
                (StatusCode::NOT_FOUND, _) => {
                    return Err(Error::Missing {
                        host,
                        what: url,
                        message: String::new(),
                    });
                }
                _ => return Err(Error::of_status(host, &url, response, &|text| text)),
            }
        }
        Err(Error::Answer {
            host: host_of(&url).to_owned(),
            what: format!("with more than {MAX_REDIRECTS} redirects"),
        })
    }

    /// Something that is read whole, and its media type.
    fn small(
        &self,
        path: &str,
        what: &str,
        accept: Option<&str>,
    ) -> Result<(Vec<u8>, Option<String>), Error> {
        let headers: Vec<_> = accept.map(|accept| (ACCEPT, accept)).into_iter().collect();
        self.patiently(what, &|| {
            read(self.get(path, what, &headers)?, self.host(), what)
        })
    }

    /// Tries again what fails for a moment.
    fn patiently<T>(&self, what: &str, ask: &dyn Fn() -> Result<T, Error>) -> Result<T, Error> {
        let mut patience = self.patience();
        loop {
            let time = patience.answer_time();
            let error = match within(SMALL, || answered_within(time, ask)) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(time) = patience.wait_after(&error) else {
                return Err(match patience.tries() {
                    1 => error,
                    // Before it there was another reason, which does not matter any more.
                    _ if !error.passes() => error,
                    tries => error.given_up(format!("tried {tries} times")),
                });
            };
            tell(&error, time, what);
            wait(time, &|| false);
        }
    }

    /// Asks once for something of the repository, with the login if the registry wants it, and follows redirects.
    pub(super) fn get(
        &self,
        path: &str,
        what: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Body>, Error> {
        let scheme = if self.transport.plain_http {
            "http"
        } else {
            "https"
        };
        let Access {
            host: registry,
            repository,
            ..
        } = &self.access;
        let mut url = format!("{scheme}://{registry}/v2/{repository}/{path}");
        let (mut response, mut header) = self.access.send(&self.transport, &url, &|header| {
            self.transport.send(&url, header, headers)
        })?;
        let mut is_home = true;
        for _ in 0..MAX_REDIRECTS {
            if !is_redirect(response.status()) {
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
            // What holds the blob must not learn the login, unless it is the registry itself.
            is_home &= same_origin(&url, &next);
            url = next;
            (response, header) = match is_home {
                true => self.access.send(&self.transport, &url, &|header| {
                    self.transport.send(&url, header, headers)
                })?,
                false => (self.elsewhere(&url, what, headers)?, None),
            };
        }
        let host = host_of(&url).to_owned();
        let is_range = headers.iter().any(|(name, _)| *name == RANGE);
        let hide = |text| {
            let text = self.transport.hide(text);
            self.access.hide(header.as_deref(), text)
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if is_range => Ok(response),
            status if is_redirect(status) => Err(Error::Answer {
                host,
                what: format!("with a redirect after {MAX_REDIRECTS} others"),
            }),
            StatusCode::NOT_FOUND => Err(Error::Missing {
                host,
                what: what.to_owned(),
                message: message_without(response, &hide),
            }),
            _ => {
                let what = format!("the {what}");
                Err(Error::of_status(host, &what, response, &hide))
            }
        }
    }

    /// Asks where the registry has led, without a login.
    fn elsewhere(
        &self,
        url: &str,
        what: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Body>, Error> {
        let host = host_of(url).to_owned();
        let access = Access::new(host, self.access.repository.clone(), None);
        let sent = access.send(&self.transport, url, &|header| {
            self.transport.send(url, header, headers)
        });
        match sent {
            Ok((response, _)) => Ok(response),
            // It says nothing about the login.
            Err(Error::Refused {
                host,
                status,
                message,
                ..
            }) => Err(Error::Answer {
                host,
                what: format!(
                    "{status} to the link for the {what} that {} gave{message}",
                    self.access.host
                ),
            }),
            Err(other) => Err(other),
        }
    }
}

/// Reads an answer whole, and its media type.
fn read(
    response: Response<Body>,
    host: &str,
    what: &str,
) -> Result<(Vec<u8>, Option<String>), Error> {
    let media_type = response.headers().get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    // Without parameters.
    let media_type = media_type.and_then(|text| text.split(';').next());
    let media_type = media_type.map(|text| text.trim().to_owned());
    let too_large = || Error::Answer {
        host: host.to_owned(),
        what: format!("with a {what} of more than {MAX_BYTES} bytes"),
    };
    let most = MAX_BYTES as u64;
    let body = response.into_body();
    if body.content_length().is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    if let Err(error) = read_small(body, most + 1, SMALL, &mut bytes) {
        return Err(Error::Unreachable {
            host: host.to_owned(),
            what: format!("while it sent the {what}: {error}"),
        });
    }
    match bytes.len() > MAX_BYTES {
        true => Err(too_large()),
        false => Ok((bytes, media_type)),
    }
}

/// Logs that something is tried again.
pub(super) fn tell(error: &Error, time: Duration, what: &str) {
    let (seconds, tenths) = (time.as_secs(), time.subsec_millis() / 100);
    eprintln!("guest-pull: {error}; the {what} is tried again in {seconds}.{tenths} s");
}
