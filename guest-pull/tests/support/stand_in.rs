// SPDX-License-Identifier: Apache-2.0

//! A server on loopback that answers as a test wants it: for what a real registry does only when something is wrong.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// In place of a status: the body is sent without a header, and the connection ends.
pub const CUT: u16 = 0;

/// A client's request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// The server's own name, as the client has it.
    pub host: String,
    /// The login or token.
    pub authorization: Option<String>,
    /// What a form has.
    pub body: String,
    /// The first byte that is asked for, if it isn't that of the whole.
    pub from: Option<usize>,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The length that is announced, if it isn't the body's.
    pub length: Option<usize>,
    /// Whether no length is announced: the end of the connection is that of the body.
    pub is_open: bool,
    /// Whether nothing follows the body, not even the end of the connection.
    pub stalls: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    /// What is missing of a blob, as a server that gives parts does it.
    pub fn rest(blob: &[u8], from: Option<usize>) -> Self {
        match from {
            None => Self::new(200, blob),
            Some(from) if from >= blob.len() => Self::new(416, ""),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Self::new(206, &blob[from..]).with("Content-Range", range)
            }
        }
    }

    /// This, with the connection cut after so many bytes of the body.
    pub fn cut(mut self, after: usize) -> Self {
        self.length.get_or_insert(self.body.len());
        self.body.truncate(after);
        self
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

type Answering = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server, which ends with the test.
pub struct StandIn {
    /// Host and port.
    pub address: String,
    /// The certificate of its authority in PEM; empty without TLS.
    pub authority: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
}

impl StandIn {
    /// One without TLS.
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }

    /// One without TLS, at another address.
    pub fn start_at(
        address: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        Self::start_with(listener, None, String::new(), Arc::new(answer))
    }

    /// One with TLS.
    pub fn start_with_tls(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = Arc::new(answer);
        Self::start_with(listener, Some(Arc::new(config)), authority.pem(), answer)
    }

    fn start_with(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        authority: String,
        answer: Arc<Answering>,
    ) -> Self {
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
                let (tls, answer, asked) = (tls.clone(), Arc::clone(&answer), Arc::clone(&asked));
                // Clients end connections as they like.
                thread::spawn(move || {
                    let stream = stream?;
                    stream.set_read_timeout(Some(SILENCE))?;
                    match tls {
                        None => converse(stream, &*answer, &asked),
                        Some(tls) => {
                            let server =
                                rustls::ServerConnection::new(tls).map_err(io::Error::other)?;
                            converse(rustls::StreamOwned::new(server, stream), &*answer, &asked)
                        }
                    }
                });
            }
        });
        started
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

/// One request and its answer, since the connection ends with it.
fn converse(
    stream: impl Read + Write,
    answer: &Answering,
    asked: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let is_head = line.starts_with("HEAD ");
    let mut request = Asked {
        method: line.split(' ').next().unwrap_or_default().to_owned(),
        path: line.split(' ').nth(1).unwrap_or_default().to_owned(),
        host: String::new(),
        authorization: None,
        body: String::new(),
        from: None,
    };
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value,
            "range" => {
                let from = value.strip_prefix("bytes=");
                let from = from.and_then(|from| from.strip_suffix('-'));
                request.from = Some(from.unwrap().parse().unwrap());
            }
            "authorization" => request.authorization = Some(value),
            "content-length" => length = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    stream
        .by_ref()
        .take(length)
        .read_to_string(&mut request.body)?;
    asked.lock().unwrap().push(request.clone());
    let answer = answer(&request);
    let length = answer.length.unwrap_or(answer.body.len());
    let stream = stream.get_mut();
    if answer.status == CUT {
        stream.write_all(&answer.body)?;
        return stream.flush();
    }
    write!(
        stream,
        "HTTP/1.1 {} -\r\nConnection: close\r\n",
        answer.status
    )?;
    if !answer.is_open {
        write!(stream, "Content-Length: {length}\r\n")?;
    }
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    if !is_head {
        stream.write_all(&answer.body)?;
    }
    stream.flush()?;
    if answer.stalls {
        // Until the client has enough of it.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}
