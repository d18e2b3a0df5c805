// SPDX-License-Identifier: Apache-2.0

//! Single HTTP requests: what any server is asked by, whatever it is.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::text::Escaped;
use ureq::config::Config;
use ureq::http::header::{ACCEPT, AUTHORIZATION, PROXY_AUTHORIZATION};
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use crate::proxy::{Proxies, Proxy};
use crate::registry::error::Error;
use crate::registry::forward::Forwarding;
use crate::registry::url::host_of;

/// How long a server may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How servers are asked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The certificates of authorities that count, those of proxies too.
    pub roots: Vec<Certificate<'static>>,
    /// Without TLS; only where that is configured.
    pub plain_http: bool,
    /// Through which servers.
    pub proxies: Proxies,
}

/// Sends requests, and follows no redirects.
pub(super) struct Transport {
    direct: Agent,
    /// One for each proxy, since each has connections of its own.
    through_https: Option<Agent>,
    through_http: Option<Agent>,
    proxies: Proxies,
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
        let config = |proxy: Option<ureq::Proxy>| {
            Agent::config_builder()
                .tls_config(tls.clone())
                .https_only(!options.plain_http)
                .http_status_as_error(false)
                // Redirects are followed by the caller, without the login.
                .max_redirects(0)
                .max_redirects_will_error(false)
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
                // Stated, since the library would take one from the environment.
                .proxy(proxy)
                .user_agent(concat!("guest-pull/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        let through = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| agent(proxy, &config));
        Self {
            direct: config(None).new_agent(),
            through_https: through(&options.proxies.https),
            through_http: through(&options.proxies.http),
            proxies: options.proxies.clone(),
            plain_http: options.plain_http,
        }
    }

    /// Sends one request, and gives back the answer, of whatever status.
    pub(super) fn send(
        &self,
        url: &str,
        authorization: Option<&Zeroizing<String>>,
        accept: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let has_tls = url.starts_with("https://");
        let proxy = self.proxies.of(has_tls, host_of(url));
        let through = match has_tls {
            true => &self.through_https,
            false => &self.through_http,
        };
        let agent = match proxy {
            Some(_) => through.as_ref().unwrap_or(&self.direct),
            None => &self.direct,
        };
        let mut request = agent.get(url);
        if let Some(header) = authorization {
            request = request.header(AUTHORIZATION, header.as_str());
        }
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        // For a tunnel, the library sends the login with the request for it.
        if let Some(login) = proxy.filter(|_| !has_tls).and_then(Proxy::login) {
            request = request.header(PROXY_AUTHORIZATION, basic(login).as_str());
        }
        let response = request.call();
        let Some(proxy) = proxy else {
            return response.map_err(|error| Error::Unreachable {
                host: host_of(url).to_owned(),
                what: error.to_string(),
            });
        };
        match response {
            Ok(response) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(refused(proxy, 407, has_tls))
            }
            Ok(response) => Ok(response),
            Err(error) => Err(through_proxy(proxy, url, &error)),
        }
    }
}

/// An agent whose requests all go through the proxy.
fn agent(proxy: &Proxy, config: &dyn Fn(Option<ureq::Proxy>) -> Config) -> Agent {
    let connector = Forwarding::new(config(None));
    Agent::with_parts(
        config(Some(proxy.for_library())),
        connector,
        DefaultResolver::default(),
    )
}

fn basic((user, password): (&str, &str)) -> Zeroizing<String> {
    let text = Zeroizing::new([user, ":", password].concat());
    let encoded = Zeroizing::new(STANDARD.encode(text.as_bytes()));
    Zeroizing::new(["Basic ", &encoded].concat())
}

/// A proxy that wants another login, or any.
fn refused(proxy: &Proxy, status: u16, has_tls: bool) -> Error {
    let key = if has_tls { "https_proxy" } else { "http_proxy" };
    let login = match proxy.login() {
        Some((user, _)) => format!("refuses the login of {}", Escaped(user)),
        None => "wants a login".to_owned(),
    };
    Error::Proxy {
        proxy: proxy.to_string(),
        what: format!(
            "{login} ({status}); set {key} to http://USER:PASSWORD@HOST:PORT with the right ones"
        ),
    }
}

/// Why a server can't be had through a proxy.
fn through_proxy(proxy: &Proxy, url: &str, error: &ureq::Error) -> Error {
    let host = host_of(url).to_owned();
    // The library has the status in its text alone: `proxy server responded 407/407`.
    let status = match error {
        ureq::Error::ConnectProxyFailed(text) => text.rsplit('/').next(),
        _ => None,
    };
    let status = status.and_then(|text| text.parse::<u16>().ok());
    match status {
        // To a request for a tunnel nobody else answers, and tinyproxy says 401 to a wrong password.
        Some(status @ (401 | 407)) => refused(proxy, status, true),
        Some(status @ 400..=499) => Error::Proxy {
            proxy: proxy.to_string(),
            what: format!(
                "makes no connection to {host} ({status}); allow it in the proxy's configuration, or list the registry in no_proxy"
            ),
        },
        Some(status) => Error::Unreachable {
            host,
            what: format!("the proxy {proxy} answers {status}"),
        },
        None => Error::Unreachable {
            host,
            what: format!("through the proxy {proxy}: {error}"),
        },
    }
}
