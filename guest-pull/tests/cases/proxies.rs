// SPDX-License-Identifier: Apache-2.0

//! `[image.image_pull_proxy]`: through which proxy a registry is asked, and what goes past it. With a proxy of the tests,
//! and with tinyproxy.

use std::collections::HashMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ttrpc::Code;

use crate::caller::{Place, daemon, recorded, wait_until};
use crate::host::{Mounted, has_tool, is_root, tool};
use crate::image::{Repository, archive};
use crate::proxy::{Options, Proxy};
use crate::stand_in::{Answer, StandIn};

/// The login of a proxy, in a URL and in a header.
const LOGIN: &str = "robot:hunter2";

fn repository() -> Repository {
    let files = [("file".to_owned(), b"content".to_vec())];
    Repository::of(&[archive(&files)]).0
}

/// A registry without TLS, which has an image under any name.
fn plain() -> StandIn {
    let repository = repository();
    StandIn::start(move |asked| repository.answer(&asked.path))
}

/// One with TLS.
fn with_tls() -> StandIn {
    let repository = repository();
    StandIn::start_with_tls(move |asked| repository.answer(&asked.path))
}

fn proxies(lines: &str) -> String {
    format!("[image.image_pull_proxy]\n{lines}\n")
}

fn insecure(address: &str) -> String {
    format!("[[image.registry_config.registry]]\nlocation = '{address}'\ninsecure = true\n")
}

/// `[image]` with these authorities.
fn authorities(all: &[&str]) -> String {
    let all = all.iter().map(|pem| format!("'''\n{pem}''',"));
    format!(
        "[image]\nextra_root_certificates = [{}]\n",
        all.collect::<String>()
    )
}

/// A place, and a daemon that has no credential.
fn place() -> Place {
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    place
}

fn assert_pulled(place: &Place, image: &str) {
    let answer = place.ask(&recorded(image, &place.bundle()));
    answer.digest();
    drop(Mounted(place.rootfs()));
    for directory in [place.bundle(), place.at("store")] {
        fs::remove_dir_all(directory).unwrap();
    }
    fs::create_dir(place.bundle()).unwrap();
    assert!(!place.log().contains("hunter"), "{}", place.log());
}

fn assert_refused(place: &Place, image: &str, code: Code, parts: &[&str]) {
    let answer = place.ask(&recorded(image, &place.bundle()));
    let text = answer.text();
    assert_eq!(answer.code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("hunter") && !place.log().contains("hunter"),
        "{text}"
    );
}

/// What is asked with TLS goes through a tunnel of `https_proxy`, with the login of its URL: manifest and blobs. The proxy
/// sees names and ports alone.
#[test]
fn https_through_a_tunnel() {
    if !is_root() {
        return;
    }
    let (place, server) = (place(), with_tls());
    let proxy = Proxy::start(Options {
        login: Some(LOGIN),
        ..Options::default()
    });
    let ca = authorities(&[&server.authority]);
    place.configure(&format!(
        "{ca}{}",
        proxies(&format!("https_proxy = 'http://{LOGIN}@{}'", proxy.address))
    ));
    assert_pulled(&place, &format!("{}/a:1", server.address));
    let tunnel = format!("CONNECT {}", server.address);
    assert!(
        !proxy.asked().is_empty() && proxy.asked().iter().all(|asked| *asked == tunnel),
        "{:?}",
        proxy.asked()
    );
    assert!(
        server
            .asked()
            .iter()
            .any(|asked| asked.path.contains("/blobs/")),
        "{:?}",
        server.asked()
    );

    // The other key is for the other scheme.
    let before = proxy.asked().len();
    place.configure(&format!(
        "{ca}{}",
        proxies(&format!("http_proxy = 'http://{}'", proxy.address))
    ));
    assert_pulled(&place, &format!("{}/a:1", server.address));
    assert_eq!(proxy.asked().len(), before);
}

/// What is asked without TLS is handed to `http_proxy` whole, without a tunnel; only the proxy need know the registry's
/// name. The registry's own login is not the proxy's.
#[test]
fn plain_http_is_forwarded() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let entry = format!(
        r#"{{"auths":{{"registry.test:5000":{{"auth":"{}"}}}}}}"#,
        STANDARD.encode("user:hunter3")
    );
    daemon(&place, Ok(entry.into_bytes()));
    let repository = repository();
    let basic = format!("Basic {}", STANDARD.encode("user:hunter3"));
    let server = StandIn::start(
        move |asked| match asked.authorization == Some(basic.clone()) {
            true => repository.answer(&asked.path),
            false => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        },
    );
    let servers = HashMap::from([("registry.test:5000".to_owned(), server.address.clone())]);
    let proxy = Proxy::start(Options {
        login: Some(LOGIN),
        servers,
        ..Options::default()
    });
    let lines = format!("http_proxy = 'http://{LOGIN}@{}'", proxy.address);
    place.configure(&format!(
        "{}{}",
        insecure("registry.test:5000"),
        proxies(&lines)
    ));
    assert_pulled(&place, "registry.test:5000/a:1");
    assert_eq!(
        proxy.asked()[0],
        "GET http://registry.test:5000/v2/a/manifests/1"
    );
    assert!(
        proxy
            .asked()
            .iter()
            .all(|asked| asked.starts_with("GET http://registry.test:5000/v2/a/")),
        "{:?}",
        proxy.asked()
    );
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.host == "registry.test:5000"),
        "{:?}",
        server.asked()
    );
}

/// A proxy may be asked with TLS itself, for tunnels and for what it forwards; its certificate must be known.
#[test]
fn a_proxy_with_tls() {
    if !is_root() {
        return;
    }
    let (place, secure, plain) = (place(), with_tls(), plain());
    let proxy = Proxy::start(Options {
        login: Some(LOGIN),
        has_tls: true,
        ..Options::default()
    });
    let url = format!("https://{LOGIN}@{}", proxy.address);
    let lines = proxies(&format!("https_proxy = '{url}'\nhttp_proxy = '{url}'"));
    let more = format!("{}{lines}", insecure(&plain.address));
    place.configure(&format!(
        "{}{more}",
        authorities(&[&secure.authority, &proxy.authority])
    ));
    assert_pulled(&place, &format!("{}/a:1", secure.address));
    assert_pulled(&place, &format!("{}/a:1", plain.address));
    let asked = proxy.asked();
    assert!(
        asked.contains(&format!("CONNECT {}", secure.address)),
        "{asked:?}"
    );
    assert!(
        asked.contains(&format!("GET http://{}/v2/a/manifests/1", plain.address)),
        "{asked:?}"
    );

    place.configure(&format!("{}{more}", authorities(&[&secure.authority])));
    let through = format!("through the proxy https://{}", proxy.address);
    let image = format!("{}/a:1", secure.address);
    assert_refused(
        &place,
        &image,
        Code::UNAVAILABLE,
        &[&through, "extra_root_certificates"],
    );
}

/// A refused login is an error that names the proxy and the user, not the password, and says what to do.
#[test]
fn a_proxy_that_refuses_the_login() {
    let (place, secure, plain) = (place(), with_tls(), plain());
    let proxy = Proxy::start(Options {
        login: Some(LOGIN),
        ..Options::default()
    });
    let address = &proxy.address;
    let named = format!("the proxy http://{address}");
    for (login, what) in [
        ("robot:hunter3@", "refuses the login of robot (407)"),
        ("", "wants a login (407)"),
    ] {
        let url = format!("http://{login}{address}");
        let lines = proxies(&format!("https_proxy = '{url}'\nhttp_proxy = '{url}'"));
        place.configure(&format!(
            "{}{}{lines}",
            authorities(&[&secure.authority]),
            insecure(&plain.address)
        ));
        for (server, key) in [(&secure, "https_proxy"), (&plain, "http_proxy")] {
            let image = format!("{}/a:1", server.address);
            let parts = [
                &*named,
                what,
                &format!("set {key} to http://USER:PASSWORD@HOST:PORT"),
            ];
            assert_refused(&place, &image, Code::FAILED_PRECONDITION, &parts);
        }
    }
    assert_eq!(secure.asked().len() + plain.asked().len(), 0);
}

/// A proxy that makes no tunnel to the registry, or is not there, is named with what to do.
#[test]
fn a_proxy_that_does_not_help() {
    let (place, server) = (place(), with_tls());
    let image = format!("{}/a:1", server.address);
    let configure = |address: &str| {
        let lines = proxies(&format!("https_proxy = 'http://{LOGIN}@{address}'"));
        place.configure(&format!("{}{lines}", authorities(&[&server.authority])));
    };
    for (status, code, part) in [
        (403, Code::FAILED_PRECONDITION, "(403); allow it"),
        (502, Code::UNAVAILABLE, "answers 502"),
    ] {
        let proxy = Proxy::start(Options {
            refuses: Some(status),
            ..Options::default()
        });
        configure(&proxy.address);
        let named = format!("the proxy http://{}", proxy.address);
        assert_refused(&place, &image, code, &[&named, &server.address, part]);
    }
    configure("127.0.0.1:1");
    let parts = ["through the proxy http://127.0.0.1:1", "image_pull_proxy"];
    assert_refused(&place, &image, Code::UNAVAILABLE, &parts);
    assert_eq!(server.asked().len(), 0);
}

/// What `no_proxy` lists is asked directly: here by address, network, and port. Other forms have a test of their own in
/// the library.
#[test]
fn no_proxy() {
    if !is_root() {
        return;
    }
    let (place, server) = (place(), plain());
    let proxy = Proxy::start(Options::default());
    let (_, port) = server.address.split_once(':').unwrap();
    let cases = [
        ("127.0.0.1".to_owned(), true),
        ("10.0.0.0/8, 127.0.0.0/8".to_owned(), true),
        (format!("127.0.0.1:{port}"), true),
        ("*".to_owned(), true),
        ("127.0.0.1:1, example.com".to_owned(), false),
        (String::new(), false),
    ];
    for (list, is_direct) in cases {
        let before = proxy.asked().len();
        let lines = format!(
            "http_proxy = 'http://{}'\nno_proxy = '{list}'",
            proxy.address
        );
        place.configure(&format!("{}{}", insecure(&server.address), proxies(&lines)));
        assert_pulled(&place, &format!("{}/a:1", server.address));
        assert_eq!(proxy.asked().len() == before, is_direct, "{list}");
    }
}

/// Each request has the proxy that is right for it: a registry behind the proxy may send its blobs by a host past it, and
/// the other way round.
#[test]
fn redirects_are_decided_anew() {
    if !is_root() {
        return;
    }
    let (place, repository) = (place(), repository());
    let blobs = plain();
    let (_, port) = blobs.address.split_once(':').unwrap();
    let to = format!("http://localhost:{port}");
    let server = StandIn::start(move |asked| match asked.path.contains("/blobs/") {
        true => Answer::new(307, "").with("Location", format!("{to}{}", asked.path)),
        false => repository.answer(&asked.path),
    });
    for (direct, through) in [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost")] {
        let proxy = Proxy::start(Options::default());
        let lines = format!(
            "http_proxy = 'http://{}'\nno_proxy = '{direct}'",
            proxy.address
        );
        place.configure(&format!("{}{}", insecure(&server.address), proxies(&lines)));
        assert_pulled(&place, &format!("{}/a:1", server.address));
        let asked = proxy.asked();
        let through = format!("GET http://{through}:");
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.starts_with(&through)),
            "{asked:?}"
        );
    }
}

/// A proxy that looks into TLS works if its authority is among `extra_root_certificates`, and not without.
#[test]
fn a_proxy_that_intercepts_tls() {
    if !is_root() {
        return;
    }
    let (place, server) = (place(), plain());
    let servers = HashMap::from([("registry.test:443".to_owned(), server.address.clone())]);
    let proxy = Proxy::start(Options {
        intercepts: true,
        servers,
        ..Options::default()
    });
    let lines = proxies(&format!("https_proxy = 'http://{}'", proxy.address));
    place.configure(&lines);
    let parts = [
        "registry.test",
        "through the proxy",
        "extra_root_certificates",
    ];
    assert_refused(&place, "registry.test/a:1", Code::UNAVAILABLE, &parts);
    // The proxy has connected to it, and had nothing to send.
    assert!(server.asked().iter().all(|asked| asked.path.is_empty()));
    place.configure(&format!("{}{lines}", authorities(&[&proxy.authority])));
    assert_pulled(&place, "registry.test/a:1");
    assert!(!server.asked().is_empty());
}

/// Mirrors have each their own way: one through the proxy, and one past it.
#[test]
fn mirrors_and_proxies() {
    if !is_root() {
        return;
    }
    let (place, server) = (place(), plain());
    let proxy = Proxy::start(Options {
        servers: HashMap::from([("m.test:80".to_owned(), "127.0.0.1:1".to_owned())]),
        ..Options::default()
    });
    let lines = format!(
        "http_proxy = 'http://{}'\nno_proxy = '127.0.0.0/8'",
        proxy.address
    );
    place.configure(&format!(
        "{}[[image.registry_config.registry]]\nprefix = 'r.example'\nlocation = '{}'\ninsecure = true\n\
         [[image.registry_config.registry.mirror]]\nlocation = 'm.test'\ninsecure = true\n",
        proxies(&lines), server.address
    ));
    assert_pulled(&place, "r.example/a:1");
    assert_eq!(proxy.asked(), ["GET http://m.test/v2/a/manifests/1"]);
}

/// tinyproxy, which ends with the test.
struct TinyProxy {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl TinyProxy {
    /// One that wants a login, and makes tunnels to this port alone.
    fn start(tunnels_to: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let (host, port) = address.split_once(':').unwrap();
        let (user, password) = LOGIN.split_once(':').unwrap();
        let log = dir.path().join("log").display().to_string();
        let text = format!(
            "Listen {host}\nPort {port}\nAllow 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile \"{log}\"\nLogLevel Connect\n\
             BasicAuth {user} {password}\nConnectPort {tunnels_to}\n"
        );
        let file = dir.path().join("tinyproxy.conf");
        fs::write(&file, text).unwrap();
        let mut command: Command = tool("TINYPROXY", "tinyproxy");
        command.arg("-d").arg("-c").arg(&file);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self {
            child,
            address,
            dir,
        };
        wait_until("tinyproxy does not start", || {
            TcpStream::connect(&started.address).is_ok()
        });
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TinyProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same through a proxy that people have: tunnels, what is forwarded, a refused login and a refused port.
#[test]
fn tinyproxy() {
    if !is_root() || !has_tool("TINYPROXY", "tinyproxy") {
        return;
    }
    let (place, secure, plain) = (place(), with_tls(), plain());
    let (_, port) = secure.address.split_once(':').unwrap();
    let images = [&secure, &plain].map(|server| format!("{}/a:1", server.address));
    let configure = |proxy: &TinyProxy, login: &str| {
        let url = format!("http://{login}@{}", proxy.address);
        let lines = proxies(&format!("https_proxy = '{url}'\nhttp_proxy = '{url}'"));
        place.configure(&format!(
            "{}{}{lines}",
            authorities(&[&secure.authority]),
            insecure(&plain.address)
        ));
    };
    let proxy = TinyProxy::start(port);
    configure(&proxy, LOGIN);
    images.iter().for_each(|image| assert_pulled(&place, image));
    let log = proxy.log();
    assert!(
        log.contains(&format!("CONNECT {}", secure.address)),
        "{log}"
    );
    assert!(
        log.contains(&format!("GET http://{}/v2/a/manifests/1", plain.address)),
        "{log}"
    );
    configure(&proxy, "robot:hunter3");
    // It answers 401 to a wrong login, which a registry without TLS could have said too.
    let refused = "refuses the login of robot (401)";
    assert_refused(&place, &images[0], Code::FAILED_PRECONDITION, &[refused]);
    let doubt = format!(
        "or it is the proxy http://{} that refuses the login",
        proxy.address
    );
    assert_refused(&place, &images[1], Code::UNAUTHENTICATED, &[&doubt]);

    let proxy = TinyProxy::start("443");
    configure(&proxy, LOGIN);
    assert_refused(
        &place,
        &images[0],
        Code::FAILED_PRECONDITION,
        &["makes no connection to", "(403)"],
    );
    assert_pulled(&place, &images[1]);
}
