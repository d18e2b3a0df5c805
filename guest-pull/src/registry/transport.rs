// SPDX-License-Identifier: Apache-2.0

//! Single HTTP requests: what any server is asked by, whatever it is.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use crate::registry::error::Error;
use crate::registry::url::host_of;

/// How long a server may take to answer a connection. Then it is tried again.
const CONNECT: Duration = Duration::from_secs(15);

/// How long a server may send nothing, before its answer or within. Then the connection counts as cut, and it is asked again
/// for the rest: long enough for lost packets, and short enough for several tries in a minute.
const STALL: Duration = Duration::from_secs(15);

/// How servers are asked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The certificates of authorities that count.
    pub roots: Vec<Certificate<'static>>,
    /// Without TLS; only where that is configured.
    pub plain_http: bool,
}

/// Sends requests, and follows no redirects.
pub(super) struct Transport {
    agent: Agent,
    /// Whether servers may be asked without TLS.
    pub(super) plain_http: bool,
}

impl Transport {
    pub(super) fn new(options: &Options) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(options.roots.clone())))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(!options.plain_http)
            .http_status_as_error(false)
            // Redirects are followed by the caller, without the login.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .proxy(None)
            .user_agent(concat!("guest-pull/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            plain_http: options.plain_http,
        }
    }

    /// Sends one request, and gives back the answer, of whatever status.
    pub(super) fn send(
        &self,
        url: &str,
        authorization: Option<&Zeroizing<String>>,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Body>, Error> {
        let mut request = self.agent.get(url);
        if let Some(header) = authorization {
            request = request.header(AUTHORIZATION, header.as_str());
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.call().map_err(|error| failed(url, &error))
    }

    /// Sends a form, which may have a secret, and gives back the answer, of whatever status.
    pub(super) fn post_form(
        &self,
        url: &str,
        form: &Zeroizing<String>,
    ) -> Result<Response<Body>, Error> {
        let request = self.agent.post(url);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let response = request.send(form.as_bytes());
        response.map_err(|error| failed(url, &error))
    }
}

/// That there is no answer.
fn failed(url: &str, error: &ureq::Error) -> Error {
    let host = host_of(url).to_owned();
    match why_never(error) {
        Some(what) => Error::Incompatible { host, what },
        None => Error::Unreachable {
            host,
            what: error.to_string(),
        },
    }
}

/// Why it makes no sense to send a request again; none if it does. A URL is not told: it may be a signed one.
fn why_never(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Protocol(_) => {
            Some(error.to_string())
        }
        ureq::Error::Io(inner)
            if inner
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            Some(error.to_string())
        }
        ureq::Error::LargeResponseHeader(..) => Some(error.to_string()),
        ureq::Error::RequireHttpsOnly(_) => Some("it would be without TLS".to_owned()),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Some("its URL is none".to_owned()),
        _ => None,
    }
}
