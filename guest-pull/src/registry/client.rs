// SPDX-License-Identifier: Apache-2.0

//! Requests to one registry, with its login.

use std::io::Read;

use ureq::Body;
use ureq::http::header::LOCATION;
use ureq::http::{Response, StatusCode};

use crate::digest::Digest;
use crate::registry::access::Access;
use crate::registry::error::{Error, message_without};
use crate::registry::login::Login;
use crate::registry::manifest::{ACCEPTED, MAX_BYTES};
use crate::registry::transport::{Options, Transport};
use crate::registry::url::{host_of, resolve, same_origin};

/// How many redirects are followed: a blob is one redirect away from its store.
const MAX_REDIRECTS: usize = 5;

/// A client of one repository.
pub struct Client {
    transport: Transport,
    access: Access,
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
            access: Access::new(host.to_owned(), repository.to_owned(), login),
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
        let what = format!("manifest {}:{reference}", self.access.repository);
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
                host: self.access.host.clone(),
                what: format!("while it sent the {what}: {error}"),
            });
        }
        match bytes.len() > MAX_BYTES {
            true => Err(Error::Answer {
                host: self.access.host.clone(),
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
        let Access {
            host: registry,
            repository,
            ..
        } = &self.access;
        let mut url = format!("{scheme}://{registry}/v2/{repository}/{path}");
        let (mut response, mut header) = self.access.send(&self.transport, &url, &|header| {
            self.transport.send(&url, header, accept)
        })?;
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
            // What holds the blob must not learn the login, unless it is the registry itself.
            header = header.filter(|_| same_origin(&url, &next));
            url = next;
            response = match header.as_deref() {
                Some(header) => self.transport.send(&url, Some(header), accept)?,
                None => self.elsewhere(&url, what, accept)?,
            };
        }
        let host = host_of(&url).to_owned();
        let hide = |text| self.access.hide(header.as_deref(), text);
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::Missing {
                host,
                what: what.to_owned(),
                message: message_without(response, &hide),
            }),
            status => Err(Error::Answer {
                host,
                what: format!(
                    "{status} to the request for the {what}{}",
                    message_without(response, &hide)
                ),
            }),
        }
    }

    /// Asks where the registry has led, without a login.
    fn elsewhere(
        &self,
        url: &str,
        what: &str,
        accept: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let host = host_of(url).to_owned();
        let access = Access::new(host, self.access.repository.clone(), None);
        let sent = access.send(&self.transport, url, &|header| {
            self.transport.send(url, header, accept)
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
