// SPDX-License-Identifier: Apache-2.0

//! Proxies, and which requests go through them.
//!
//! The scheme of what is asked for chooses the proxy, at each request, so redirects and token servers too have the one
//! that is right for them. What goes past the proxies is listed as the stock puller's HTTP library reads it (`reqwest`);
//! ports and `*.` count as in Go's programs, since that library would never match them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value, json};
use ureq::ProxyProtocol;
use zeroize::Zeroizing;

/// The proxies of `[image.image_pull_proxy]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For what is asked with TLS.
    pub https: Option<Proxy>,
    /// For what is asked without TLS.
    pub http: Option<Proxy>,
    /// What is asked directly.
    pub except: Exceptions,
}

impl Proxies {
    /// The proxy for a server, `HOST` or `HOST:PORT`; none if it is asked directly.
    pub fn of(&self, has_tls: bool, server: &str) -> Option<&Proxy> {
        let proxy = match has_tls {
            true => self.https.as_ref(),
            false => self.http.as_ref(),
        };
        let (host, port) = split_port(server);
        let port = port.unwrap_or(if has_tls { 443 } else { 80 });
        proxy.filter(|_| !self.except.has(host, port))
    }

    /// For the worker, with the logins.
    pub fn to_json(&self) -> Value {
        let text = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| proxy.url.to_string());
        json!({"https": text(&self.https), "http": text(&self.http), "no": self.except.text})
    }

    /// What [`Self::to_json`] wrote.
    pub fn of_json(value: &Value) -> Option<Self> {
        let proxy = |name: &str| match value[name].as_str() {
            Some(url) => Proxy::parse(url).map(Some),
            None => Some(None),
        };
        Some(Self {
            https: proxy("https")?,
            http: proxy("http")?,
            except: Exceptions::parse(value["no"].as_str()?),
        })
    }
}

/// A proxy. It is shown without its login.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: Zeroizing<String>,
    /// As the HTTP library has it.
    library: ureq::Proxy,
}

impl Proxy {
    /// Reads `http://HOST:PORT` or `https://HOST:PORT`, with `USER:PASSWORD@` before the host if it wants a login.
    pub fn parse(url: &str) -> Option<Self> {
        let with_scheme = match url.contains("://") {
            true => Zeroizing::new(url.to_owned()),
            false => Zeroizing::new(["http://", url].concat()),
        };
        let library = ureq::Proxy::new(&with_scheme).ok()?;
        let is_http = matches!(
            library.protocol(),
            ProxyProtocol::Http | ProxyProtocol::Https
        );
        // A password with a slash that is not encoded ends the host. The library would take a part of it for the host.
        let (_, rest) = with_scheme.split_once("://")?;
        let (authority, path) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
        let server = authority
            .rsplit_once('@')
            .map_or(authority, |(_, server)| server);
        let (host, port) = split_port(server);
        let has_odd_port = port.is_none() && host.len() != server.len() || port == Some(0);
        // Of odd text around brackets or colons, the library takes a part for the host.
        let is_whole = library.host().eq_ignore_ascii_case(host) && is_host(host);
        let is_good = is_http && is_whole && !has_odd_port && !path.contains('@');
        is_good.then(|| Self {
            url: Zeroizing::new(url.to_owned()),
            library,
        })
    }

    /// The user name and the password, if it has a login.
    pub fn login(&self) -> Option<(&str, &str)> {
        let user = self.library.username()?;
        Some((user, self.library.password().unwrap_or_default()))
    }

    /// For the HTTP library.
    pub(crate) fn for_library(&self) -> ureq::Proxy {
        self.library.clone()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.library.protocol() {
            ProxyProtocol::Https => "https",
            _ => "http",
        };
        write!(
            f,
            "{scheme}://{}:{}",
            self.library.host(),
            self.library.port()
        )
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.login().is_some() {
            " with a login"
        } else {
            ""
        };
        write!(f, "{self}{login}")
    }
}

/// Whether it can be a name, or an address of IPv6 in its brackets.
fn is_host(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(['[', ']']),
    }
}

/// Host and port of `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn split_port(server: &str) -> (&str, Option<u16>) {
    match server.rsplit_once(':') {
        // An address without brackets is all colons.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok())
        }
        _ => (server, None),
    }
}

/// `no_proxy`: what is asked directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    text: String,
    all: Vec<Exception>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    Everything,
    Network {
        address: IpAddr,
        bits: u32,
        port: Option<u16>,
    },
    Name {
        name: String,
        has_apex: bool,
        port: Option<u16>,
    },
}

impl Exceptions {
    /// Reads a list with commas. What is no exception is left out: see [`Self::not_understood`].
    pub fn parse(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            all: parts(text).filter_map(Exception::parse).collect(),
        }
    }

    /// The numbers of those in the list that match nothing, beginning with 1.
    pub fn not_understood(&self) -> Vec<usize> {
        let numbered = parts(&self.text).enumerate();
        let odd = numbered.filter(|(_, part)| Exception::parse(part).is_none());
        odd.map(|(at, _)| at + 1).collect()
    }

    fn has(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        self.all.iter().any(|exception| match exception {
            Exception::Everything => true,
            Exception::Network {
                address: network,
                bits,
                port: only,
            } => {
                only.is_none_or(|only| only == port)
                    && address.is_some_and(|address| is_in(address, *network, *bits))
            }
            Exception::Name {
                name,
                has_apex,
                port: only,
            } => {
                let is_below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                only.is_none_or(|only| only == port)
                    && address.is_none()
                    && (is_below || *has_apex && host == *name)
            }
        })
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits = bits.parse().ok()?;
            return (bits <= width(address)).then_some(Self::Network {
                address,
                bits,
                port: None,
            });
        }
        let (host, port) = split_port(text);
        if port.is_none() && host.len() != text.len() {
            return None;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            let bits = width(address);
            return Some(Self::Network {
                address,
                bits,
                port,
            });
        }
        let (has_apex, name) = match host.strip_prefix("*.") {
            Some(name) => (false, name),
            None => (true, host.strip_prefix('.').unwrap_or(host)),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_good = !name.is_empty() && name.chars().all(is_name);
        is_good.then(|| Self::Name {
            name: name.to_ascii_lowercase(),
            has_apex,
            port,
        })
    }
}

fn width(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Whether the first bits of both are the same.
fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, rest) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (
            u128::from(u32::from(address)),
            u128::from(u32::from(network)),
            32 - bits,
        ),
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            (u128::from(address), u128::from(network), 128 - bits)
        }
        _ => return false,
    };
    // Without any bits, everything of its kind is in it.
    address.checked_shr(rest) == network.checked_shr(rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A proxy's URL is read whole, or not at all; and nothing that is shown of it has its password.
    #[test]
    fn proxies_are_urls() {
        for (url, shown, login) in [
            ("http://p.example:3128", "http://p.example:3128", None),
            ("https://p.example", "https://p.example:443", None),
            ("p.example:3128", "http://p.example:3128", None),
            ("http://p.example/", "http://p.example:80", None),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128", None),
            (
                "http://u:hunter%402:x@p:1",
                "http://p:1",
                Some(("u", "hunter@2:x")),
            ),
            ("http://u@p:1", "http://p:1", Some(("u", ""))),
        ] {
            let proxy = Proxy::parse(url).unwrap();
            assert_eq!(proxy.to_string(), shown, "{url}");
            assert_eq!(proxy.login(), login, "{url}");
            assert!(!format!("{proxy}{proxy:?}").contains("hunter"), "{proxy:?}");
        }
        for url in [
            "",
            "http://",
            "socks5://p:1",
            "http://p:x",
            "http://p:0",
            "http://p:65536",
            "http://u:p/w@host",
            "http://p p",
            "http://fd00::1",
            "http://p[::1]x",
            "http://[:@1]:1",
        ] {
            assert!(Proxy::parse(url).is_none(), "{url}");
        }
    }

    /// What `no_proxy` lists is asked directly, and nothing else is.
    #[test]
    fn exceptions_go_past_the_proxy() {
        let proxy = || Proxy::parse("http://p:1");
        let proxies = |list: &str| Proxies {
            https: proxy(),
            http: proxy(),
            except: Exceptions::parse(list),
        };
        for (list, direct, not) in [
            (
                "example.com",
                &[
                    "example.com",
                    "a.example.com",
                    "a.EXAMPLE.com:5000",
                    "example.com.",
                ][..],
                &["notexample.com", "example.com.evil", "example.org"][..],
            ),
            (
                ".example.com",
                &["example.com", "a.example.com"],
                &["notexample.com"],
            ),
            (
                "*.example.com",
                &["a.example.com", "a.b.example.com:1"],
                &["example.com", "notexample.com"],
            ),
            (
                "a.example:5000",
                &["a.example:5000", "b.a.example:5000"],
                &["a.example", "a.example:443"],
            ),
            ("a.example:443", &["a.example"], &["a.example:5000"]),
            (
                "10.0.0.0/8, fd00::/8",
                &["10.1.2.3:5000", "[fd12::1]:5000", "[fd12::1]"],
                &["11.0.0.1", "a.10.0.0.1.example", "[fe80::1]"],
            ),
            ("10.1.2.3/0", &["1.2.3.4"], &["[::1]"]),
            ("10.1.2.3", &["10.1.2.3"], &["10.1.2.30", "x10.1.2.3"]),
            (
                "10.1.2.3:5000,[::1]:1",
                &["10.1.2.3:5000", "[::1]:1"],
                &["10.1.2.3", "[::1]"],
            ),
            ("::1", &["[::1]:5000"], &["[::2]:5000"]),
            (" a , b ", &["a", "b"], &["c"]),
            ("*", &["a", "10.0.0.1", "[::1]"], &[]),
            ("", &[], &["localhost", "127.0.0.1"]),
        ] {
            for server in direct {
                assert!(proxies(list).of(true, server).is_none(), "{list}: {server}");
            }
            for server in not {
                assert!(proxies(list).of(true, server).is_some(), "{list}: {server}");
            }
        }
        let odd = Exceptions::parse("a,10.0.0.0/33,http://a,a*b,b:x,10.0.0.0/8,*");
        assert_eq!(odd.not_understood(), [2, 3, 4, 5]);
    }

    /// What is asked with TLS and what is not have each their own proxy, or none.
    #[test]
    fn the_scheme_chooses() {
        let proxies = Proxies {
            https: Proxy::parse("https://s:1"),
            ..Proxies::default()
        };
        assert_eq!(proxies.of(true, "a").unwrap().to_string(), "https://s:1");
        assert!(proxies.of(false, "a").is_none());
        let all = Proxies {
            http: Proxy::parse("http://u:p@h:1"),
            except: Exceptions::parse("x"),
            ..proxies
        };
        assert_eq!(Proxies::of_json(&all.to_json()).unwrap(), all);
        assert!(Proxies::of_json(&Value::Null).is_none());
    }
}
