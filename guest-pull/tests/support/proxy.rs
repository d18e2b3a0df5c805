// SPDX-License-Identifier: Apache-2.0

//! A proxy on loopback: it makes tunnels, forwards requests without TLS, and tells what it was asked.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::ServerConnection;
use rustls::pki_types::PrivateKeyDer;

/// How the proxy behaves.
#[derive(Clone, Default)]
pub struct Options {
    /// The login that it wants, `user:password`.
    pub login: Option<&'static str>,
    /// Whether it is asked with TLS itself.
    pub has_tls: bool,
    /// Whether it looks into tunnels: it answers as the server, by a certificate of its own.
    pub intercepts: bool,
    /// The status for every tunnel, if it makes none.
    pub refuses: Option<u16>,
    /// Where servers are that only the proxy knows, by `HOST:PORT`.
    pub servers: HashMap<String, String>,
    /// Whether it makes tunnels to those alone.
    pub only_those: bool,
}

/// A running proxy, which ends with the test.
pub struct Proxy {
    /// Host and port.
    pub address: String,
    /// The certificate of its authority in PEM.
    pub authority: String,
    asked: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (authority, tls) = certified();
        let started = Self {
            address: listener.local_addr().unwrap().to_string(),
            authority,
            asked: Arc::default(),
            ended: Arc::default(),
        };
        let (asked, ended) = (Arc::clone(&started.asked), Arc::clone(&started.ended));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (options, asked, tls) = (options.clone(), Arc::clone(&asked), Arc::clone(&tls));
                // Clients end connections as they like.
                thread::spawn(move || serve(stream?, &options, &tls, &asked));
            }
        });
        started
    }

    /// The first lines of the requests so far, without the version.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

/// An authority in PEM, and a server with a certificate of it for the servers of tests.
fn certified() -> (String, Arc<rustls::ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["127.0.0.1", "registry.test"].map(str::to_owned);
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = parameters.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (authority.pem(), Arc::new(config))
}

/// One connection's first request; what follows goes to the same server.
fn serve(
    stream: TcpStream,
    options: &Options,
    tls: &Arc<rustls::ServerConfig>,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut client = Client { stream, tls: None };
    if options.has_tls {
        client.secure(tls)?;
    }
    loop {
        let Some(head) = client.head()? else {
            return Ok(());
        };
        let first = head.lines().next().unwrap_or_default();
        let what = first.rsplit_once(' ').map_or(first, |(what, _)| what);
        asked.lock().unwrap().push(what.to_owned());
        let wanted = options
            .login
            .map(|login| format!("Basic {}", STANDARD.encode(login)));
        let has_login = wanted.is_none_or(|wanted| {
            let mut headers = head.lines().filter_map(|line| line.split_once(": "));
            headers.any(|(name, value)| {
                name.eq_ignore_ascii_case("proxy-authorization") && value == wanted
            })
        });
        let (method, target) = what.split_once(' ').unwrap_or_default();
        let is_unwanted = options.only_those && !options.servers.contains_key(target);
        let status = match (has_login, options.refuses) {
            (false, _) => Some(407),
            (true, Some(status)) if method == "CONNECT" => Some(status),
            (true, None) if method == "CONNECT" && is_unwanted => Some(403),
            _ => None,
        };
        if let Some(status) = status {
            return client.refuse(status);
        }
        let to = |server: &str| {
            let known = options.servers.get(server).map_or(server, String::as_str);
            TcpStream::connect(known)
        };
        if method == "CONNECT" {
            let Ok(server) = to(target) else {
                return client.refuse(502);
            };
            client.write(b"HTTP/1.1 200 -\r\n\r\n")?;
            if options.intercepts {
                client.secure(tls)?;
            }
            return pump(&mut client, server);
        }
        // The server is told the path alone, and ends the connection after its answer.
        let (server, path) = target
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut server = to(server)?;
        let rest = head.split_once("\r\n").map_or("", |(_, rest)| rest);
        write!(server, "{method} /{path} HTTP/1.1\r\n{rest}")?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        // So that the client may send another request on this connection.
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = answer.split_at(end.ok_or(io::ErrorKind::InvalidData)?);
        let head = String::from_utf8_lossy(head).replace("Connection: close\r\n", "");
        client.write(&[head.as_bytes(), body].concat())?;
    }
}

/// The client's side of a connection, with TLS or without.
struct Client {
    stream: TcpStream,
    tls: Option<ServerConnection>,
}

impl Client {
    fn secure(&mut self, config: &Arc<rustls::ServerConfig>) -> io::Result<()> {
        assert!(self.tls.is_none(), "TLS within TLS is not for this proxy");
        let config = Arc::clone(config);
        self.tls = Some(ServerConnection::new(config).map_err(io::Error::other)?);
        Ok(())
    }

    /// What came, at least something unless it is the end; with TLS, that may be a part of the handshake, and nothing else.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; 64 * 1024];
        let Some(tls) = &mut self.tls else {
            let length = self.stream.read(&mut bytes)?;
            bytes.truncate(length);
            return Ok((length > 0).then_some(bytes));
        };
        if tls.read_tls(&mut self.stream)? == 0 {
            return Ok(None);
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        bytes.resize(state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut bytes)?;
        self.flush()?;
        Ok(Some(bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None => self.stream.write_all(bytes)?,
        }
        self.flush()
    }

    /// The answer of a proxy that does not help; the connection ends with it.
    fn refuse(&mut self, status: u16) -> io::Result<()> {
        let answer =
            format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.write(answer.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
        }
        Ok(())
    }

    /// The head of a request, which has no body.
    fn head(&mut self) -> io::Result<Option<String>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.read()? {
                Some(bytes) => head.extend(bytes),
                None => return Ok(None),
            }
        }
        String::from_utf8(head).map(Some).map_err(io::Error::other)
    }
}

/// Passes on what comes, until one of them ends.
fn pump(client: &mut Client, mut server: TcpStream) -> io::Result<()> {
    loop {
        let mut sides = [
            PollFd::new(client.stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(server.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut sides, PollTimeout::NONE)?;
        let [of_client, of_server] = sides.map(|side| side.any().unwrap_or_default());
        if of_client {
            match client.read()? {
                Some(bytes) => server.write_all(&bytes)?,
                None => return Ok(()),
            }
        }
        if of_server {
            let mut bytes = [0; 64 * 1024];
            match server.read(&mut bytes)? {
                0 => return Ok(()),
                length => client.write(&bytes[..length])?,
            }
        }
    }
}
