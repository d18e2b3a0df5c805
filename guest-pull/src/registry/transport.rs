// SPDX-License-Identifier: Apache-2.0

//! Single HTTP requests: what any server is asked by, whatever it is.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::text::Escaped;
use ureq::config::Config;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, PROXY_AUTHORIZATION};
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Timeout};
use zeroize::Zeroizing;

use crate::proxy::{Proxies, Proxy};
use crate::registry::connection::{Bounding, answer_time, is_stale, within};
use crate::registry::error::Error;
use crate::registry::forward::Forwarding;
use crate::registry::login::{Login, Secret};
use crate::registry::resolver::{NoThread, Resolving};
use crate::registry::times::{CONNECT, STALL};
use crate::registry::url::{has_tls, host_of};

/// How long a name may take to be resolved: two servers that do not answer, by the C library's own 5 s for each.
const RESOLVE: Duration = Duration::from_secs(15);

/// How often a request is sent again because the server had closed a connection that was kept: there are at most so many.
const KEPT: usize = 3;

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
                .timeout_resolve(Some(RESOLVE))
                .timeout_connect(Some(CONNECT))
                .timeout_send_request(Some(STALL))
                .timeout_send_body(Some(STALL))
                .timeout_recv_response(Some(STALL))
                .timeout_per_read(Some(STALL))
                .max_idle_connections_per_host(KEPT)
                // Stated, since the library would take one from the environment.
                .proxy(proxy)
                .user_agent(concat!("guest-pull/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        let through = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| agent(proxy, &config));
        Self {
            direct: Agent::with_parts(
                config(None),
                Bounding(DefaultConnector::default()),
                Resolving,
            ),
            through_https: through(&options.proxies.https),
            through_http: through(&options.proxies.http),
            proxies: options.proxies.clone(),
            plain_http: options.plain_http,
        }
    }

    /// What a server says, without the logins of the proxies: what is asked without TLS, a proxy may answer itself.
    pub(super) fn hide(&self, text: String) -> String {
        let proxies = [&self.proxies.https, &self.proxies.http];
        let logins = proxies.into_iter().flatten().filter_map(Proxy::login);
        logins.fold(text, |text, (user, password)| {
            let login = Login {
                entry: String::new(),
                user: user.to_owned(),
                secret: Secret::Password(Zeroizing::new(password.to_owned())),
            };
            login.hide(text)
        })
    }

    /// Sends one request, and gives back the answer, of whatever status.
    pub(super) fn send(
        &self,
        url: &str,
        authorization: Option<&Zeroizing<String>>,
        headers: &[(HeaderName, &str)],
    ) -> Result<Response<Body>, Error> {
        let way = self.way(url);
        let login = way.login();
        way.ask(url, &|time| {
            let request = way.agent.get(url).config();
            let request = request.timeout_recv_response(Some(time));
            let mut request = request.timeout_per_read(Some(time)).build();
            if let Some(header) = authorization {
                request = request.header(AUTHORIZATION, header.as_str());
            }
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(login) = &login {
                request = request.header(PROXY_AUTHORIZATION, login.as_str());
            }
            request.call()
        })
    }

    /// Sends a form, which may have a secret, and gives back the answer, of whatever status.
    pub(super) fn post_form(
        &self,
        url: &str,
        form: &Zeroizing<String>,
    ) -> Result<Response<Body>, Error> {
        let way = self.way(url);
        let login = way.login();
        way.ask(url, &|time| {
            let request = way.agent.post(url).config();
            let request = request.timeout_recv_response(Some(time));
            let request = request.timeout_per_read(Some(time)).build();
            let mut request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            if let Some(login) = &login {
                request = request.header(PROXY_AUTHORIZATION, login.as_str());
            }
            request.send(form.as_bytes())
        })
    }

    /// How the server of a URL is reached.
    fn way(&self, url: &str) -> Way<'_> {
        let has_tls = has_tls(url);
        let through = match has_tls {
            true => &self.through_https,
            false => &self.through_http,
        };
        let proxy = self.proxies.of(has_tls, host_of(url));
        let used = proxy.and(through.as_ref());
        Way {
            agent: used.unwrap_or(&self.direct),
            proxy,
            is_past: through.is_some() && used.is_none(),
            has_tls,
        }
    }
}

/// The way to a server.
struct Way<'t> {
    agent: &'t Agent,
    proxy: Option<&'t Proxy>,
    /// Whether there is a proxy, and `no_proxy` has the server.
    is_past: bool,
    has_tls: bool,
}

impl Way<'_> {
    /// The proxy's login, where it belongs to the request: for a tunnel, the library sends it with the request for that.
    fn login(&self) -> Option<Zeroizing<String>> {
        let proxy = self.proxy.filter(|_| !self.has_tls)?;
        proxy.login().map(basic)
    }

    /// Asks; again if the connection was one that the server had closed.
    fn ask(
        &self,
        url: &str,
        ask: &dyn Fn(Duration) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Error> {
        let time = answer_time();
        let ask = || within(RESOLVE + CONNECT + time, || ask(time));
        let mut response = ask();
        for _ in 0..KEPT {
            match &response {
                Err(error) if is_stale(error) => response = ask(),
                _ => break,
            }
        }
        self.answer(url, response)
    }

    /// What came, or why nothing did.
    fn answer(
        &self,
        url: &str,
        response: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Error> {
        match (response, self.proxy) {
            (Ok(response), Some(proxy))
                // In a tunnel it would be the server's own.
                if !self.has_tls
                    && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED =>
            {
                Err(refused(proxy, 407, self.has_tls))
            }
            (Ok(response), _) => Ok(response),
            (Err(error), _) => Err(self.failed(url, &error)),
        }
    }

    /// That there is no answer.
    fn failed(&self, url: &str, error: &ureq::Error) -> Error {
        let host = host_of(url).to_owned();
        if let Some(error) = self.proxy.and_then(|proxy| no_tunnel(proxy, &host, error)) {
            return error;
        }
        let way = match self.proxy {
            Some(proxy) => format!("through the proxy {proxy}: "),
            None if self.is_past => "without the proxy, since no_proxy has it: ".to_owned(),
            None => String::new(),
        };
        match why_never(error) {
            Some(what) => Error::Incompatible {
                host,
                what: format!("{way}{what}"),
            },
            None => Error::Unreachable {
                host,
                what: format!("{way}{}", said(error)),
            },
        }
    }
}

/// An agent whose requests all go through the proxy.
fn agent(proxy: &Proxy, config: &dyn Fn(Option<ureq::Proxy>) -> Config) -> Agent {
    let connector = Bounding(Forwarding::new(config(None)));
    Agent::with_parts(config(Some(proxy.for_library())), connector, Resolving)
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

/// Why a proxy makes no connection to a server; none if it doesn't say.
fn no_tunnel(proxy: &Proxy, host: &str, error: &ureq::Error) -> Option<Error> {
    // The library has the status in its text alone: `proxy server responded 407/407`.
    let ureq::Error::ConnectProxyFailed(text) = error else {
        return None;
    };
    let status = text.rsplit('/').next()?.parse::<u16>().ok()?;
    Some(match status {
        // To a request for a tunnel nobody else answers, and tinyproxy says 401 to a wrong password.
        401 | 407 => refused(proxy, status, true),
        400..=499 => Error::Proxy {
            proxy: proxy.to_string(),
            what: format!(
                "makes no connection to {host} ({status}); allow it in the proxy's configuration, or list the registry in no_proxy"
            ),
        },
        _ => Error::Unreachable {
            host: host.to_owned(),
            what: format!("the proxy {proxy} answers {status}"),
        },
    })
}

/// Why there is no answer, in words.
fn said(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(Timeout::Resolve) => {
            format!("its name was not resolved within {} s", RESOLVE.as_secs())
        }
        ureq::Error::Timeout(Timeout::Connect) => {
            format!("no connection was made within {} s", CONNECT.as_secs())
        }
        ureq::Error::Timeout(_) => {
            let time = answer_time().as_secs();
            format!("no whole answer came within {time} s")
        }
        ureq::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "the connection ended before the answer".to_owned()
        }
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
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
        ureq::Error::Io(inner) if inner.get_ref().is_some_and(|inner| inner.is::<NoThread>()) => {
            Some(inner.to_string())
        }
        ureq::Error::LargeResponseHeader(..) => Some(error.to_string()),
        ureq::Error::RequireHttpsOnly(_) => Some("it would be without TLS".to_owned()),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Some("its URL is none".to_owned()),
        _ => None,
    }
}
