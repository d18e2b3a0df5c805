// SPDX-License-Identifier: Apache-2.0

//! Requests to one registry, with its login.

use std::io::Read as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ureq::Body;
use ureq::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LOCATION, RANGE, WWW_AUTHENTICATE};
use ureq::http::{Response, StatusCode};
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::registry::challenge;
use crate::registry::error::{Error, message};
use crate::registry::manifest::{ACCEPTED, MAX_BYTES};
use crate::registry::resume::Blob;
use crate::registry::retry::{Patience, wait};
use crate::registry::token::{Asker, Login};
use crate::registry::transport::{Options, Transport};
use crate::registry::url::{host_of, is_same_server, resolve};

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
    /// Whether what fails is tried again.
    is_patient: bool,
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
            is_patient: true,
        }
    }

    /// Without trying again: for who only wants to know whether the registry answers.
    #[must_use]
    pub fn once(self) -> Self {
        let is_patient = false;
        Self { is_patient, ..self }
    }

    /// The registry, with its port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn patience(&self) -> Patience {
        match self.is_patient {
            true => Patience::new(),
            false => Patience::none(),
        }
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
        let what = format!("manifest {}:{reference}", self.repository);
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

    /// A blob of this size, to be read as it comes. It goes on after failures that pass, until `stop` is set.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or not in this size.
    pub fn blob<'c>(
        &'c self,
        digest: &Digest,
        size: u64,
        stop: &'c AtomicBool,
    ) -> Result<Blob<'c>, Error> {
        Blob::open(self, digest, size, stop)
    }

    /// Something that is read whole, and its media type.
    fn small(
        &self,
        path: &str,
        what: &str,
        accept: Option<&str>,
    ) -> Result<(Vec<u8>, Option<String>), Error> {
        let mut patience = self.patience();
        let headers: Vec<_> = accept.map(|accept| (ACCEPT, accept)).into_iter().collect();
        loop {
            let result = self.get(path, what, &headers);
            let result = result.and_then(|response| self.read_small(response, what));
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(time) = patience.wait_after(&error) else {
                return Err(match patience.tries() {
                    1 => error,
                    tries => error.given_up(format!("tried {tries} times")),
                });
            };
            tell(&error, time, what);
            wait(time, &AtomicBool::new(false));
        }
    }

    fn read_small(
        &self,
        response: Response<Body>,
        what: &str,
    ) -> Result<(Vec<u8>, Option<String>), Error> {
        let media_type = response.headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok());
        // Without parameters.
        let media_type = media_type.and_then(|text| text.split(';').next());
        let media_type = media_type.map(|text| text.trim().to_owned());
        let too_large = || Error::Answer {
            host: self.host.clone(),
            what: format!("with a {what} of more than {MAX_BYTES} bytes"),
        };
        let body = response.into_body();
        if body
            .content_length()
            .is_some_and(|length| length > MAX_BYTES as u64)
        {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut limited = body.into_reader().take(MAX_BYTES as u64 + 1);
        if let Err(error) = limited.read_to_end(&mut bytes) {
            return Err(Error::Unreachable {
                host: self.host.clone(),
                what: format!("while it sent the {what}: {error}"),
            });
        }
        match bytes.len() > MAX_BYTES {
            true => Err(too_large()),
            false => Ok((bytes, media_type)),
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
        let url = format!("{scheme}://{}/v2/{}/{path}", self.host, self.repository);
        let mut authorization = lock(&self.authorization).clone();
        let mut response = self
            .transport
            .send(&url, authorization.as_deref(), headers)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
            let challenges = challenges.filter_map(|value| value.to_str().ok());
            if let Some(challenge) = challenge::choose(challenges) {
                if let Some(header) = self.asker().header(&self.transport, &challenge)? {
                    let header = Arc::new(header);
                    response = self.transport.send(&url, Some(&header), headers)?;
                    authorization = Some(Arc::clone(&header));
                    if response.status() != StatusCode::UNAUTHORIZED {
                        *lock(&self.authorization) = Some(header);
                    }
                }
            }
        }
        let mut url = url;
        let mut is_elsewhere = false;
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
            // Another server, which holds the blob, must not learn the login.
            if !is_same_server(&url, &next) {
                authorization = None;
                is_elsewhere = true;
            }
            response = self
                .transport
                .send(&next, authorization.as_deref(), headers)?;
            url = next;
        }
        let host = host_of(&url).to_owned();
        let is_range = headers.iter().any(|(name, _)| *name == RANGE);
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if is_range => Ok(response),
            status if is_redirect(status) => Err(Error::Answer {
                host,
                what: format!("with a redirect after {MAX_REDIRECTS} others"),
            }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(Error::Refused {
                host,
                login: match &self.login {
                    _ if is_elsewhere => format!("what {} sends there for the {what}", self.host),
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
            _ => Err(Error::of_status(host, &format!("the {what}"), response)),
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

/// Whether a status sends elsewhere.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Logs that something is tried again.
pub(super) fn tell(error: &Error, time: Duration, what: &str) {
    let (seconds, tenths) = (time.as_secs(), time.subsec_millis() / 100);
    eprintln!("guest-pull: {error}; the {what} is tried again in {seconds}.{tenths} s");
}

/// Locks the mutex. Nothing panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
